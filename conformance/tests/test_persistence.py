"""What is kept when the process ends, however it ends, and who may open the data again."""

import contextlib
import hashlib
import http.client
import itertools
import os
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from disk import MIB
from dvcr import BINARY, Dvcr, free_port
from wire import IMAGE, INDEX, Client, descriptor, digest_of, encode, eventually, index

NAME, OTHER = "disks/ubuntu-22.04", "disks/ubuntu"
NOWHERE = digest_of(b"nothing has this digest")
SIZES = [0, 1, 16384, 16385, MIB + 1, 20 * MIB]
"""Around what is kept in a record, above one batch, and several parts of S3."""

ends = pytest.mark.parametrize("end", [Dvcr.stop, Dvcr.kill], ids=["stopped", "killed"])


def again(server, end):
    assert end(server) in (0, None)
    server.start()


def fill(client):
    """Pushes, moves and deletes some of everything. Gives the paths that are there and those that are not."""
    there, gone = [], []

    def pushed(kind, reference, name=NAME):
        there.append(f"/v2/{name}/{kind}/{reference}")
        return reference

    def delete(path):
        assert client.delete(path).status == 202
        gone.append(path)
        with contextlib.suppress(ValueError):
            there.remove(path)

    blobs = [pushed("blobs", client.push_blob(NAME, os.urandom(size))) for size in SIZES]
    pushed("blobs", client.push_blob(NAME, os.urandom(100_000), "sha512"))
    for digest in blobs[2:]:
        answer = client.send("POST", f"/v2/{OTHER}/blobs/uploads/?mount={digest}&from={NAME}")
        assert answer.status == 201, answer
        pushed("blobs", digest, OTHER)
    delete(f"/v2/{NAME}/blobs/{blobs[3]}")

    tags = ["v1", "v2", "moved", "moved", "gone"]
    images = [pushed("manifests", client.push_image(NAME, tag)) for tag in tags]
    for tag in ["v1", "v2", "moved"]:
        pushed("manifests", tag)
    many = encode(index([(digest, 500) for digest in images]))
    pushed("manifests", digest_of(many))
    assert client.put_manifest(NAME, digest_of(many), many, INDEX, "?tag=many&tag=Also").status == 201
    delete(f"/v2/{NAME}/manifests/v2")
    delete(f"/v2/{NAME}/manifests/{images[4]}")
    gone.append(f"/v2/{NAME}/manifests/gone")

    for subject in [images[0], NOWHERE]:
        fields = {"subject": descriptor(IMAGE, subject, 500), "artifactType": "application/x.signature"}
        for number in range(3):
            signature = encode(client.image(NAME, annotations={"number": str(number)}, **fields))
            assert client.put_manifest(NAME, digest_of(signature), signature).status == 201
            pushed("manifests", digest_of(signature))
        delete(f"/v2/{NAME}/manifests/{digest_of(signature)}")
        there.append(f"/v2/{NAME}/referrers/{subject}")
    client.push_image("disks/third", "latest")
    return there + [f"/v2/{NAME}/tags/list", "/v2/_catalog"], gone


def seen(client, path):
    """What GET says, but for the date."""
    answer = client.get(path)
    return answer.status, answer.body, answer.lasting()


@ends
def test_everything_is_the_same_when_the_process_comes_back(server, client, end):
    there, gone = fill(client)
    before = {path: seen(client, path) for path in there}
    assert {status for status, _, _ in before.values()} == {200}
    assert client.get(f"/v2/{NAME}/tags/list").json()["tags"] == ["Also", "many", "moved", "v1"]
    assert client.get("/v2/_catalog").json()["repositories"] == ["disks/third", NAME]
    for subject in there:
        if "/referrers/" in subject:
            assert len(client.get(subject).json()["manifests"]) == 2
    again(server, end)
    assert [path for path in there if seen(client, path) != before[path]] == []
    for path in gone:
        assert client.get(path).status == 404, path


def test_what_was_answered_before_a_crash_is_there_after_it(server, client):
    answered = {}

    def push(thread):
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            for number in itertools.count():
                tag, layer = f"{thread}-{number}", os.urandom(100_000)
                answered[tag] = client.push_image(NAME, tag, layer), layer

    with ThreadPoolExecutor(4) as threads:
        pushes = [threads.submit(push, thread) for thread in range(4)]
        try:
            eventually(lambda: len(answered) >= 40, seconds=60)
        finally:
            server.kill()
    assert [done.result() for done in pushes] == [None] * 4
    server.start()
    for tag, (digest, layer) in answered.items():
        assert client.get(f"/v2/{NAME}/manifests/{tag}").headers["Docker-Content-Digest"] == digest
        assert client.get(f"/v2/{NAME}/blobs/{digest_of(layer)}").body == layer
    listed = client.get(f"/v2/{NAME}/tags/list").json()["tags"]
    assert listed == sorted(listed) and set(answered) <= set(listed)
    for tag in listed:
        layers = client.get(f"/v2/{NAME}/manifests/{tag}").json()["layers"]
        assert client.head(f"/v2/{NAME}/blobs/{layers[0]['digest']}").status == 200


@ends
def test_pushes_go_on_when_the_process_comes_back(server, client, end):
    data = os.urandom(MIB)
    digest, old = client.push_blob(NAME, data), client.push_image(NAME, "v1")
    again(server, end)
    assert client.push_blob(NAME, data) == digest
    assert client.get(f"/v2/{NAME}/blobs/{digest}").body == data
    new = client.push_image(NAME, "v1")
    assert client.get(f"/v2/{NAME}/manifests/v1").headers["Docker-Content-Digest"] == new
    assert client.delete(f"/v2/{NAME}/manifests/{old}").status == 202
    assert client.get(f"/v2/{NAME}/tags/list").json()["tags"] == ["v1"]


@ends
def test_an_upload_goes_on_when_the_process_comes_back(server, client, end):
    uploads = [(client.begin(NAME), os.urandom(size + 50_000), size) for size in SIZES[1:]]
    for location, data, size in uploads:
        assert client.patch(location, data[:size], 0).status == 202
    again(server, end)
    for location, data, size in uploads:
        assert client.offset(location) == size
        assert client.patch(location, data[:10], size + 1).status == 416
        answer = client.patch(location, data[size : size + 20_000], size)
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{size + 20_000 - 1}")
    again(server, end)
    for location, data, size in uploads:
        digest = digest_of(data)
        assert client.offset(location) == size + 20_000
        assert client.finish(location, digest, data[size + 20_000 :]).status == 201
        assert client.get(f"/v2/{NAME}/blobs/{digest}").body == data


@ends
def test_a_cancelled_and_a_finished_upload_stay_gone(server, client, end):
    cancelled, finished = client.begin(NAME), client.begin(NAME)
    for location in [cancelled, finished]:
        assert client.patch(location, b"data").status == 202
    assert client.delete(cancelled).status == 204
    assert client.finish(finished, digest_of(b"data")).status == 201
    again(server, end)
    for location in [cancelled, finished]:
        assert client.get(location).status == 404
        assert client.patch(location, b"more").status == 404


@pytest.mark.slow
@pytest.mark.parametrize("chunking", ["true", "false"])
def test_a_crash_in_the_middle_of_an_upload_costs_no_more_than_256_mib(start, chunking):
    server = start("filesystem", DVCR_CHUNKING=chunking)
    client, block, total, sent = Client(server.host), os.urandom(MIB), 700, 600
    location = client.begin(NAME)

    def pieces(first=0):
        for number in range(first, total):
            yield number.to_bytes(8, "big") + block[8:]

    def pieces_that_kill():
        for number, piece in enumerate(pieces()):
            if number == sent:
                server.kill()
            yield piece

    with pytest.raises(ConnectionError):
        client.send("PATCH", location, pieces_that_kill(), {"Content-Length": str(total * MIB)})
    server.start()
    offset = client.offset(location)
    assert offset % MIB == 0
    assert 0 <= sent * MIB - offset <= 256 * MIB
    size = total * MIB - offset
    headers = {"Content-Length": str(size), "Content-Range": f"{offset}-{total * MIB - 1}"}
    answer = client.send("PATCH", location, pieces(offset // MIB), headers)
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{total * MIB - 1}"), answer
    sha256 = hashlib.sha256()
    for piece in pieces():
        sha256.update(piece)
    digest = f"sha256:{sha256.hexdigest()}"
    assert client.finish(location, digest).status == 201
    assert digest_of(client.get(f"/v2/{NAME}/blobs/{digest}").body) == digest
    if chunking == "false":
        assert stored(server) == [total * MIB]
    else:
        # The pieces differ in their first bytes alone; what came behind the last checkpoint is stored twice.
        assert sum(stored(server)) < total * MIB / 4


def data_of(server):
    return pathlib.Path(server.storage[1])


def stored(server):
    """The sizes of the files that hold bytes of blobs."""
    return sorted(file.stat().st_size for file in (data_of(server) / "data").rglob("*") if file.is_file())


def test_bytes_are_stored_once_and_nothing_else_stays_of_an_upload(start):
    server = start("filesystem")
    client, expected = Client(server.host), []
    for size in SIZES:
        one, two, three = (os.urandom(size) for _ in range(3))
        client.push_blob(NAME, one)
        assert client.send("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(two)}", two).status == 201
        location = client.begin(NAME)
        for start in range(0, size, 6 * MIB):
            assert client.patch(location, three[start : start + 6 * MIB], start).status == 202
        assert client.finish(location, digest_of(three)).status == 201
        expected += [size] * 3 if size > 16384 else []
        for again in [one, two, three]:
            client.push_blob(OTHER, again)
        refused = client.begin(NAME)
        assert client.patch(refused, os.urandom(size)).status == 202
        assert client.finish(refused, NOWHERE).status == 400
        cancelled = client.begin(NAME)
        assert client.patch(cancelled, os.urandom(size)).status == 202
        assert client.delete(cancelled).status == 204
    # What is in chunks has the list of them beside it.
    assert len(stored(server)) == len(expected)
    assert all(size <= kept < size * 1.01 for size, kept in zip(sorted(expected), sorted(stored(server)), strict=True))
    assert list((data_of(server) / "uploads").iterdir()) == []


def fails_to_start(*arguments):
    """What the program says when it cannot start."""
    result = subprocess.run([BINARY, "serve", *arguments], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result
    assert result.stderr.startswith("dvcr: ")
    return result.stderr


def test_a_second_process_on_the_same_data_directory_is_refused(start, tmp_path):
    server = start("filesystem")
    alias = tmp_path / "alias"
    alias.symlink_to(data_of(server))
    for path in [server.storage[1], str(alias)]:
        error = fails_to_start("--listen", f"127.0.0.1:{free_port()}", "--data", path)
        assert "another process" in error
        assert server.storage[1] in error
    assert Client(server.host).push_image(NAME, "v1")


def test_a_data_directory_is_free_as_soon_as_its_process_is_killed(start):
    first = start("filesystem")
    digest = Client(first.host).push_image(NAME, "v1")
    first.kill()
    second = start("filesystem", (first.storage, {}))
    assert Client(second.host).get(f"/v2/{NAME}/manifests/v1").headers["Docker-Content-Digest"] == digest


def test_an_address_that_is_taken_is_named(start, tmp_path):
    server = start("filesystem")
    assert server.host in fails_to_start("--listen", server.host, "--data", str(tmp_path / "other"))


@pytest.mark.parametrize("path", ["{}/file", "{}/file/below", "{}/dangling", "/sys/dvcr", "/proc/dvcr"])
def test_a_path_that_cannot_be_a_data_directory_is_named(tmp_path, path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    path = path.format(tmp_path)
    assert path in fails_to_start("--listen", f"127.0.0.1:{free_port()}", "--data", path)
