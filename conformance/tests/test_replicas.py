"""Several servers over one bucket: what one has answered holds for all, and none waits for another."""

import functools
import hashlib
import os

import pytest

from conftest import s3_storage
from disk import MIB
from wire import IMAGE, INDEX, Client, at_once, descriptor, digest_of, encode, image, index

NAME, OTHER = "disks/ubuntu", "disks/debian"
NOWHERE = digest_of(b"nothing has this digest")


@pytest.fixture
def servers(start):
    storage = s3_storage()
    return [start("s3", storage) for _ in range(3)]


@pytest.fixture
def clients(servers):
    return [Client(server.host) for server in servers]


@pytest.mark.parametrize("size", [1000, 100_000, 9 * MIB])
def test_the_chunks_of_an_upload_may_go_to_any_replica(clients, size):
    data, count = os.urandom(7 * size), len(clients)
    location = clients[0].begin(NAME)
    for number in range(6):
        chunk = data[number * size : (number + 1) * size]
        answer = clients[(number + 1) % count].patch(location, chunk, number * size)
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{(number + 1) * size - 1}"), answer
        assert answer.headers["Location"] == location
        for client in clients:
            assert client.offset(location) == (number + 1) * size
    assert clients[2].finish(location, digest_of(data), data[6 * size :]).status == 201
    for client in clients:
        assert client.get(f"/v2/{NAME}/blobs/{digest_of(data)}").body == data
        assert client.get(location).status == 404


def test_a_cancelled_upload_is_gone_everywhere(clients):
    one, two, three = clients
    location = one.begin(NAME)
    assert two.patch(location, os.urandom(100_000)).status == 202
    assert three.delete(location).status == 204
    for client in clients:
        assert client.get(location).status == 404
        assert client.patch(location, b"more", 100_000).status == 404
        assert client.finish(location, NOWHERE).status == 404


def test_what_one_replica_has_answered_every_other_sees_at_once(clients):
    one, two, three = clients

    def agree(path, status, wanted=None):
        for client in [two, three, one]:
            answer = client.get(f"/v2/{path}")
            assert answer.status == status, (path, answer)
            assert wanted is None or answer.body == wanted or answer.json() == wanted

    def tags(*expected):
        agree(f"{NAME}/tags/list", 200, {"name": NAME, "tags": list(expected)})

    for size in [10, 100_000, 9 * MIB]:
        data = os.urandom(size)
        digest = one.push_blob(NAME, data)
        agree(f"{NAME}/blobs/{digest}", 200, data)
        assert two.send("POST", f"/v2/{OTHER}/blobs/uploads/?mount={digest}&from={NAME}").status == 201
        agree(f"{OTHER}/blobs/{digest}", 200, data)
        assert three.delete(f"/v2/{NAME}/blobs/{digest}").status == 202
        agree(f"{NAME}/blobs/{digest}", 404)
        agree(f"{OTHER}/blobs/{digest}", 200, data)
    manifests = [encode(one.image(NAME, os.urandom(10))) for _ in range(2)]
    for client, manifest in [(one, manifests[0]), (two, manifests[1]), (three, manifests[0])]:
        for tag in ["moved", f"v{clients.index(client)}"]:
            assert client.put_manifest(NAME, tag, manifest).status == 201
            agree(f"{NAME}/manifests/{tag}", 200, manifest)
    agree("_catalog", 200, {"repositories": [NAME]})
    tags("moved", "v0", "v1", "v2")
    assert two.delete(f"/v2/{NAME}/manifests/v2").status == 202
    agree(f"{NAME}/manifests/v2", 404)
    tags("moved", "v0", "v1")
    signature = encode(image([], (two.push_blob(NAME, b"{}"), 2), subject=descriptor(IMAGE, NOWHERE, 1)))
    for push, delete in [(one, two), (two, three), (three, one)]:
        assert push.put_manifest(NAME, digest_of(signature), signature).status == 201
        for client in clients:
            [found] = client.get(f"/v2/{NAME}/referrers/{NOWHERE}").json()["manifests"]
            assert found["digest"] == digest_of(signature)
        assert delete.delete(f"/v2/{NAME}/manifests/{digest_of(signature)}").status == 202
        agree(f"{NAME}/referrers/{NOWHERE}", 200, index([]))
    assert three.delete(f"/v2/{NAME}/manifests/{digest_of(manifests[0])}").status == 202
    for reference in ["moved", "v0", digest_of(manifests[0])]:
        agree(f"{NAME}/manifests/{reference}", 404)
    tags("v1")


@pytest.mark.parametrize("size", [1000, 100_000, 9 * MIB])
@pytest.mark.parametrize("same", [True, False], ids=["the_same_bytes", "other_bytes"])
def test_of_racing_chunks_one_is_taken(clients, size, same):
    location, blob = clients[0].begin(NAME), b""
    for number in range(5):
        chunks = [os.urandom(size)] * 3 if same else [os.urandom(size) for _ in clients]
        calls = [
            functools.partial(client.patch, location, chunk, len(blob))
            for client, chunk in zip(clients, chunks, strict=True)
        ]
        answers = at_once(calls)
        assert sorted(answer.status for answer in answers) == [202, 416, 416], (number, answers)
        blob += chunks[[answer.status for answer in answers].index(202)]
        assert {answer.headers["Range"] for answer in answers} == {f"0-{len(blob) - 1}"}
    assert clients[number % 3].finish(location, digest_of(blob)).status == 201
    for client in clients:
        assert client.get(f"/v2/{NAME}/blobs/{digest_of(blob)}").body == blob


def test_of_racing_ends_of_an_upload_none_breaks_the_blob(clients):
    for number in range(10):
        data = os.urandom(200_000)
        digest, location = digest_of(data), clients[0].begin(NAME)
        assert clients[1].patch(location, data).status == 202
        calls = [functools.partial(client.finish, location, digest) for client in clients]
        if number % 2:
            calls[number % 3] = functools.partial(clients[number % 3].delete, location)
        statuses = [answer.status for answer in at_once(calls)]
        assert set(statuses) <= {201, 204, 404, 416}, statuses
        assert 201 in statuses or 204 in statuses
        for client in clients:
            assert client.get(location).status == 404
            found = client.get(f"/v2/{NAME}/blobs/{digest}")
            assert found.body == data if 201 in statuses else found.status == 404


def test_a_tag_that_replicas_race_for_ends_at_one_of_them_and_is_one_entry(clients):
    for _ in range(5):
        manifests = [encode(index([], annotations={"salt": os.urandom(8).hex()})) for _ in range(9)]
        calls = [
            functools.partial(clients[number % 3].put_manifest, NAME, "latest", manifest, INDEX)
            for number, manifest in enumerate(manifests)
        ]
        assert {answer.status for answer in at_once(calls)} == {201}
        found = {client.get(f"/v2/{NAME}/manifests/latest").body for client in clients}
        assert len(found) == 1 and found <= set(manifests)
        for client in clients:
            assert client.get(f"/v2/{NAME}/tags/list").json()["tags"] == ["latest"]
            for manifest in manifests:
                assert client.get(f"/v2/{NAME}/manifests/{digest_of(manifest)}").body == manifest


def test_replicas_that_push_the_same_blob_at_once_all_succeed(clients):
    for size in [1000, 9 * MIB]:
        data = os.urandom(size)
        digests = at_once(functools.partial(client.push_blob, NAME, data) for client in clients)
        assert digests == [digest_of(data)] * 3
        for client in clients:
            assert client.get(f"/v2/{NAME}/blobs/{digest_of(data)}").body == data


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "safe"), [(40, 10), (330, 256)])
def test_an_upload_whose_replica_was_killed_goes_on_at_another(servers, clients, sent, safe):
    """Of the chunk that was cut off, whole pieces of 256 MiB are kept."""
    block, total, first = os.urandom(MIB), sent + 30, 10
    location = clients[0].begin(NAME)

    def piece(number):
        return number.to_bytes(8, "big") + block[8:]

    def pieces_that_kill():
        for number in range(first, total):
            if number == sent:
                servers[0].kill()
            yield piece(number)

    def body(start, end):
        length, content_range = (end - start) * MIB, f"{start * MIB}-{end * MIB - 1}"
        headers = {"Content-Length": str(length), "Content-Range": content_range}
        return map(piece, range(start, end)), headers

    assert clients[1].send("PATCH", location, *body(0, first)).status == 202
    with pytest.raises(ConnectionError):
        clients[0].send("PATCH", location, pieces_that_kill(), body(first, total)[1])
    offset = clients[1].offset(location)
    assert safe * MIB <= offset <= sent * MIB and offset % MIB == 0
    assert clients[2].offset(location) == offset
    assert clients[1].send("PATCH", location, *body(offset // MIB, total - 1)).status == 202
    sha256 = hashlib.sha256()
    for number in range(total):
        sha256.update(piece(number))
    digest = f"sha256:{sha256.hexdigest()}"
    assert clients[2].finish(location, digest, piece(total - 1)).status == 201
    servers[0].start()
    for client in clients:
        assert digest_of(client.get(f"/v2/{NAME}/blobs/{digest}").body) == digest
