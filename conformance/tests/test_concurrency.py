"""Many clients at once in one place: everyone gets an answer that is true, and what stays is whole."""

import contextlib
import functools
import hashlib
import http.client
import os
import pathlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from disk import MIB
from wire import INDEX, at_once, descriptor, digest_of, encode, index

NAME = "disks/ubuntu"
NOWHERE = digest_of(b"nothing has this digest")
THREADS = 16


def manifest():
    """One that needs nothing, and no other is like it."""
    return encode(index([], annotations={"salt": os.urandom(8).hex()}))


def tags(client):
    answer = client.get(f"/v2/{NAME}/tags/list")
    assert answer.status == 200, answer
    return answer.json()["tags"]


def in_one_put(client, data):
    return client.finish(client.begin(NAME), digest_of(data), data)


def in_one_post(client, data):
    return client.send("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(data)}", data)


def in_chunks(client, data):
    location = client.begin(NAME)
    for start in range(0, len(data), 2 * MIB):
        answer = client.patch(location, data[start : start + 2 * MIB], start)
        assert answer.status == 202, answer
    return client.finish(location, digest_of(data))


def files(server, folder):
    """The files that a folder of the data directory has."""
    return [file for file in pathlib.Path(server.storage[1], folder).rglob("*") if file.is_file()]


def test_a_blob_that_many_push_at_once_is_kept_once(server, client, backend):
    data = os.urandom(5 * MIB)
    ways = [in_one_put, in_one_post, in_chunks, in_one_put] * (THREADS // 4)
    answers = at_once(functools.partial(push, client, data) for push in ways)
    assert {answer.status for answer in answers} == {201}, answers
    assert client.get(f"/v2/{NAME}/blobs/{digest_of(data)}").body == data
    if backend == "filesystem":
        # The blob, and the list of its chunks.
        [kept] = [file.stat().st_size for file in files(server, "data")]
        assert 5 * MIB < kept < 5 * MIB + (64 << 10)
        assert files(server, "uploads") == []


@pytest.mark.parametrize("size", [100, 16385, 5 * MIB])
def test_blobs_that_many_push_at_once_are_all_there(client, size):
    blobs = [os.urandom(size) for _ in range(THREADS)]
    answers = at_once(functools.partial(in_one_put, client, data) for data in blobs)
    assert {answer.status for answer in answers} == {201}, answers
    found = at_once(functools.partial(client.get, f"/v2/{NAME}/blobs/{digest_of(data)}") for data in blobs)
    assert [answer.body == data for answer, data in zip(found, blobs, strict=True)] == [True] * THREADS


def test_a_tag_that_many_move_always_points_to_something_pushed(client):
    manifests = [manifest() for _ in range(THREADS)]
    assert client.put_manifest(NAME, "latest", manifests[0], INDEX).status == 201

    def push(data):
        answer = client.put_manifest(NAME, "latest", data, INDEX)
        assert answer.status == 201, answer
        for _ in range(3):
            found = client.get(f"/v2/{NAME}/manifests/latest")
            assert found.status == 200 and found.body in manifests, found
            assert found.headers["Docker-Content-Digest"] == digest_of(found.body)
            assert tags(client) == ["latest"]

    for _ in range(3):
        at_once(functools.partial(push, data) for data in manifests)
    for data in manifests:
        assert client.get(f"/v2/{NAME}/manifests/{digest_of(data)}").body == data


def test_a_chunk_that_many_send_at_once_is_taken_once(client):
    for size in [1000, 100_000]:
        location, blob = client.begin(NAME), b""
        for _ in range(5):
            chunks = [os.urandom(size) for _ in range(THREADS)]
            answers = at_once(functools.partial(client.patch, location, chunk, len(blob)) for chunk in chunks)
            statuses = [answer.status for answer in answers]
            assert sorted(statuses) == [202] + [416] * (THREADS - 1), answers
            blob += chunks[statuses.index(202)]
        assert client.finish(location, digest_of(blob)).status == 201
        assert client.get(f"/v2/{NAME}/blobs/{digest_of(blob)}").body == blob


def test_a_mount_from_where_the_blob_is_being_deleted_is_a_mount_or_an_upload(client):
    for number in range(8):
        data = os.urandom(20_000)
        digest = client.push_blob(NAME, data)
        names = [f"disks/mounted-{number}-{target}" for target in range(8)]
        paths = [f"/v2/{name}/blobs/uploads/?mount={digest}&from={NAME}" for name in names]
        calls = [functools.partial(client.send, "POST", path) for path in paths]
        calls.insert(number, functools.partial(client.delete, f"/v2/{NAME}/blobs/{digest}"))
        answers = at_once(calls)
        assert answers.pop(number).status == 202
        for name, answer in zip(names, answers, strict=True):
            assert answer.status in (201, 202), answer
            found = client.get(f"/v2/{name}/blobs/{digest}")
            if answer.status == 201:
                assert (found.status, found.body) == (200, data)
            else:
                assert found.status == 404
                assert client.finish(answer.headers["Location"], digest, data).status == 201
        assert client.get(f"/v2/{NAME}/blobs/{digest}").status == 404


def of_subject():
    """A manifest that needs nothing and refers to one that is not there."""
    return encode(index([], subject=descriptor(INDEX, NOWHERE, 1), annotations={"salt": os.urandom(8).hex()}))


def referrers(client):
    answer = client.get(f"/v2/{NAME}/referrers/{NOWHERE}")
    assert answer.status == 200, answer
    return [found["digest"] for found in answer.json()["manifests"]]


@pytest.mark.parametrize("kind", ["tag", "referrer"])
def test_what_is_listed_can_be_read_after_a_push_and_a_delete_at_once(client, kind):
    data = of_subject()
    digest = digest_of(data)
    reference, listed = ("v1", tags) if kind == "tag" else (digest, referrers)
    push = functools.partial(client.put_manifest, NAME, reference, data, INDEX)
    delete = functools.partial(client.delete, f"/v2/{NAME}/manifests/{digest}")
    assert push().status == 201
    for number in range(60):
        pushed, deleted = at_once([push, delete])
        assert pushed.status == 201, pushed
        assert deleted.status in (202, 404), deleted
        found = client.get(f"/v2/{NAME}/manifests/{reference}")
        assert found.status in (200, 404), found
        assert listed(client) == ([reference] if found.status == 200 else []), f"round {number}: {found}"


def test_a_manifest_may_be_pushed_and_deleted_by_many_at_once(client):
    data = of_subject()
    digest = digest_of(data)
    push = functools.partial(client.put_manifest, NAME, "v1", data, INDEX)
    delete = functools.partial(client.delete, f"/v2/{NAME}/manifests/{digest}")
    delete_tag = functools.partial(client.delete, f"/v2/{NAME}/manifests/v1")
    assert push().status == 201

    def repeat(call):
        return {call().status for _ in range(30)}

    pushed, *deleted = at_once(functools.partial(repeat, call) for call in [push, delete, delete, delete_tag])
    assert pushed == {201}
    assert set().union(*deleted) <= {202, 404}
    assert push().status == 201
    assert client.get(f"/v2/{NAME}/manifests/v1").body == data
    assert (tags(client), referrers(client)) == (["v1"], [digest])
    assert delete().status == 202
    assert (tags(client), referrers(client)) == ([], [])


def test_a_tag_that_moves_while_its_old_manifest_is_deleted_survives(client):
    old, new = manifest(), manifest()
    for _ in range(20):
        assert client.put_manifest(NAME, "v1", old, INDEX).status == 201
        pushed, deleted = at_once(
            [
                functools.partial(client.put_manifest, NAME, "v1", new, INDEX),
                functools.partial(client.delete, f"/v2/{NAME}/manifests/{digest_of(old)}"),
            ]
        )
        assert (pushed.status, deleted.status) == (201, 202)
        assert client.get(f"/v2/{NAME}/manifests/v1").body == new
        assert client.get(f"/v2/{NAME}/manifests/{digest_of(old)}").status == 404
        assert tags(client) == ["v1"]


@pytest.mark.parametrize("path", [f"/v2/{NAME}/tags/list", "/v2/_catalog"])
def test_a_listing_stays_in_order_while_entries_come(client, path):
    """Whoever was there before the first page is in some page, and nobody is in two."""
    names = [f"v{number:03}" for number in range(150)]
    data, pushed = manifest(), []
    random.Random(0).shuffle(names)

    def push(name):
        repository, tag = (NAME, name) if "tags" in path else (f"disks/{name}", "v1")
        assert client.put_manifest(repository, tag, data, INDEX).status == 201
        pushed.append(name if "tags" in path else repository)

    def listed():
        key = "tags" if "tags" in path else "repositories"
        return sum((page.json()[key] for page in client.pages(f"{path}?n=11")), [])

    push(names.pop())
    with ThreadPoolExecutor(4) as threads:
        pushes = [threads.submit(push, name) for name in names]
        while not all(done.done() for done in pushes):
            before = set(pushed)
            found = listed()
            assert found == sorted(set(found))
            assert before <= set(found)
        for done in pushes:
            done.result()
    assert listed() == sorted(pushed)


def test_a_pull_outlives_the_deletion_of_its_blob(client):
    data = os.urandom(50 * MIB)
    path = f"/v2/{NAME}/blobs/{client.push_blob(NAME, data)}"
    with contextlib.closing(http.client.HTTPConnection(client.host, timeout=60)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        sha256 = hashlib.sha256(response.read(MIB))
        assert client.delete(path).status == 202
        assert client.get(path).status == 404
        while piece := response.read(MIB):
            sha256.update(piece)
    assert sha256.digest() == hashlib.sha256(data).digest()
