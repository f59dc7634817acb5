"""Delta uploads: what a registry has of a blob is not sent to it, and the blob is the same, whatever goes wrong."""

import os
import pathlib
import random
import signal
import struct
import threading
from urllib.parse import quote

import pytest

from command import FAILED, finished, kept, requests
from images import MIB, compress, convert
from layers import Image
from test_blobs_and_uploads import blob, has, pieces, refused
from test_disks import damage, noise_and_zeros
from test_import_resume import away, missed
from test_inspect_ls_rm_copy import copies
from test_other_registries import other  # noqa: F401
from wire import Client, digest_of, eventually, index

NAME, OTHER = "disks/ubuntu", "disks/debian"
UPLOADS = f"/v2/{NAME}/blobs/uploads/"
NOWHERE = digest_of(b"nothing has this digest")
DELTA = "application/vnd.dvcr.delta.v1"
GIB = 1 << 30

# The frames.


def data(content):
    return struct.pack("<BQ", 0, len(content)) + content


def zeros(length):
    return struct.pack("<BQ", 1, length)


def source(name):
    name = name if isinstance(name, bytes) else name.encode()
    return struct.pack("<BH", 2, len(name)) + name


def copy(offset, length):
    return struct.pack("<BQQ", 3, offset, length)


class Delta:
    """Frames, and the bytes that they stand for."""

    def __init__(self):
        self.body, self.blob, self.source = b"", b"", b""

    def data(self, content):
        return self.adds(data(content), content)

    def zeros(self, length):
        return self.adds(zeros(length), bytes(length))

    def out_of(self, content, name=NAME, algorithm="sha256"):
        """The copies from here on are out of these bytes, which the repository has."""
        self.source = content
        return self.adds(source(f"{name}@{digest_of(content, algorithm)}"), b"")

    def copy(self, offset, length):
        return self.adds(copy(offset, length), self.source[offset : offset + length])

    def adds(self, frame, content):
        self.body += frame
        self.blob += content
        return self

    @property
    def digest(self):
        return digest_of(self.blob)


def headers(start=None, length=None):
    """Those of a delta that stands for so many bytes from there on, if that is said."""
    content_range = {} if start is None else {"Content-Range": f"{start}-{start + length - 1}"}
    return {"Content-Type": DELTA, **content_range}


def patch(client, location, body, start=None, length=None):
    return client.send("PATCH", location, body, headers(start, length))


def in_one_patch(client, delta):
    answer = patch(client, client.begin(NAME), delta.body)
    assert answer.status == 202, answer
    assert answer.headers["Range"] == f"0-{len(delta.blob) - 1}"
    return client.finish(answer.headers["Location"], delta.digest)


def in_one_patch_that_says_its_range(client, delta):
    answer = patch(client, client.begin(NAME), delta.body, 0, len(delta.blob))
    assert answer.status == 202, answer
    assert answer.headers["Range"] == f"0-{len(delta.blob) - 1}"
    return client.finish(answer.headers["Location"], delta.digest)


def in_one_patch_without_length(client, delta):
    """And cut anywhere, which is seldom where a frame ends."""
    dice, cut, rest = random.Random(1), [], delta.body
    while rest:
        length = dice.choice([1, 2, 3, 10, 1000, 100_000])
        cut.append(rest[:length])
        rest = rest[length:]
    answer = client.send("PATCH", client.begin(NAME), iter(cut), headers(0, len(delta.blob)), chunked=True)
    assert answer.status == 202, answer
    return client.finish(answer.headers["Location"], delta.digest)


def in_one_put(client, delta):
    return client.finish(client.begin(NAME), delta.digest, delta.body, headers())


def in_one_put_that_says_its_range(client, delta):
    return client.finish(client.begin(NAME), delta.digest, delta.body, headers(0, len(delta.blob)))


def in_one_post(client, delta):
    return client.send("POST", f"{UPLOADS}?digest={quote(delta.digest)}", delta.body, headers())


def in_one_post_without_length(client, delta):
    body = iter(pieces(delta.body, 1000))
    return client.send("POST", f"{UPLOADS}?digest={quote(delta.digest)}", body, headers(), chunked=True)


WAYS = [
    in_one_patch,
    in_one_patch_that_says_its_range,
    in_one_patch_without_length,
    in_one_put,
    in_one_put_that_says_its_range,
    in_one_post,
    in_one_post_without_length,
]


def makes(client, delta, way=in_one_patch):
    """That a delta makes its blob."""
    answer = way(client, delta)
    assert answer.status == 201, answer
    assert answer.headers["Docker-Content-Digest"] == delta.digest
    found = blob(client, delta.digest)
    assert found.status == 200 and found.body == delta.blob
    return answer


# What a delta makes.


def test_an_upload_says_that_it_takes_deltas(client):
    answers = [client.send("POST", UPLOADS)]
    location = answers[0].headers["Location"]
    answers.append(client.get(location))
    answers.append(client.patch(location, b"data", 0))
    answers.append(patch(client, location, zeros(6), 4, 6))
    answers.append(client.patch(location, b"data", 0))
    assert [answer.status for answer in answers] == [202, 204, 202, 202, 416]
    for answer in answers:
        accepted = [kind.strip() for kind in answer.headers["Accept-Patch"].split(",")]
        assert accepted == ["application/octet-stream", DELTA], answer


@pytest.mark.parametrize("way", WAYS)
def test_a_delta_makes_the_blob_that_it_stands_for(local, way):
    old, small = noise_and_zeros(), os.urandom(5000)
    for known in [old, small]:
        local.push_blob(NAME, known)
    delta = Delta().data(os.urandom(1000)).zeros(70_001).out_of(old).copy(5, 2 * MIB).copy(len(old) - 3, 3)
    delta.zeros(1).out_of(small).copy(10, 50).data(os.urandom(2 * MIB)).copy(0, 5000).data(b"")
    delta.out_of(old).copy(1_234_567, 3_333_333).copy(0, 0).zeros(0).copy(len(old), 0).copy(0, len(old)).data(b"end")
    makes(local, delta, way)


def test_a_delta_may_stand_for_little(local):
    old = b"0123456789"
    local.push_blob(NAME, old)
    for way in WAYS:
        for delta in [
            Delta().data(b"d"),
            Delta().zeros(1),
            Delta().out_of(old).copy(3, 1),
            Delta().out_of(old).copy(1, 9),
            Delta().out_of(old).copy(2, 3).copy(2, 3).copy(0, 1),
        ]:
            makes(local, delta, way)
            assert local.delete(f"/v2/{NAME}/blobs/{delta.digest}").status == 202


def test_a_delta_of_nothing_is_an_empty_blob(local):
    for body in [b"", data(b""), zeros(0), data(b"") * 3 + zeros(0)]:
        digest = digest_of(b"")
        assert local.finish(local.begin(NAME), digest, body, headers()).status == 201
        assert blob(local, digest).body == b""
        assert local.delete(f"/v2/{NAME}/blobs/{digest}").status == 202


def test_a_frame_may_come_byte_by_byte(local):
    """Each in a piece of its own on the wire."""
    old = os.urandom(40_000)
    local.push_blob(NAME, old)
    delta = Delta().data(os.urandom(100)).zeros(300).out_of(old).copy(100, 1000).data(b"x").copy(39_000, 1000)
    body = (bytes([byte]) for byte in delta.body)
    answer = local.send("PATCH", local.begin(NAME), body, headers(), chunked=True)
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(delta.blob) - 1}")
    assert local.finish(answer.headers["Location"], delta.digest).status == 201
    assert blob(local, delta.digest).body == delta.blob


def test_deltas_and_plain_bytes_may_take_turns(client):
    old = noise_and_zeros()
    client.push_blob(NAME, old)
    location, sent, dice = client.begin(NAME), b"", random.Random(2)
    for number in range(6):
        plain, offset = os.urandom(dice.randrange(1, MIB)), dice.randrange(len(old) // 2)
        delta = Delta().zeros(number * 1000).out_of(old).copy(offset, dice.randrange(2 * MIB)).data(b"data")
        assert client.patch(location, plain, len(sent)).status == 202
        sent += plain
        answer = patch(client, location, delta.body, len(sent), len(delta.blob))
        sent += delta.blob
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(sent) - 1}")
        assert client.offset(location) == len(sent)
    delta = Delta().out_of(old).copy(77, 777_777)
    last = headers(len(sent), len(delta.blob))
    digest = digest_of(sent + delta.blob)
    assert client.finish(location, digest, delta.body, last).status == 201
    assert blob(client, digest).body == sent + delta.blob


SOURCES = {
    "in its record": (os.urandom(100), {}),
    "stored whole": (os.urandom(500_000), {}),
    "in chunks": (noise_and_zeros(), {}),
    "zeros": (bytes(9 * MIB), {}),
    "compressed": (b"\x1f\x8b\x08\x00" + os.urandom(5 * MIB), {}),
    "without chunks": (noise_and_zeros(), {"DVCR_CHUNKING": "false"}),
    "everything in chunks": (os.urandom(500_000), {"DVCR_CHUNK_FROM": "1"}),
}
"""Blobs, by how they are stored."""


@pytest.mark.parametrize(
    ("backend", "stored"), [*(("filesystem", stored) for stored in SOURCES), ("s3", "stored whole"), ("s3", "in chunks")]
)
def test_any_part_of_any_blob_can_be_copied(start, backend, stored):
    old, settings = SOURCES[stored]
    client, dice, size = Client(start(backend, **settings).host), random.Random(3), len(old)
    client.push_blob(NAME, old)
    client.push_blob(NAME, old, "sha512")
    delta = Delta().out_of(old).copy(0, 1).copy(size - 1, 1).copy(0, size).copy(size, 0)
    for number in range(20):
        offset = dice.randrange(size)
        if number % 5 == 0:
            delta.data(os.urandom(10)).out_of(old, algorithm=dice.choice(["sha256", "sha512"]))
        delta.copy(offset, min(size - offset, dice.choice([1, 511, 4096, 4097, 70_000, MIB])))
    makes(client, delta)


def test_parts_that_lie_in_many_chunks_can_be_copied_backwards(local):
    old = noise_and_zeros()
    local.push_blob(NAME, old)
    delta = Delta().out_of(old)
    for start in reversed(range(0, len(old), 99_999)):
        delta.copy(start, min(99_999, len(old) - start))
    makes(local, delta)


def test_what_was_made_of_another_repository_is_there_when_that_is_gone(client):
    old = os.urandom(3 * MIB)
    digest = client.push_blob(OTHER, old)
    delta = Delta().out_of(old, OTHER).copy(100, 2 * MIB).data(b"data")
    makes(client, delta)
    assert not has(client, digest), "the source itself is in no other repository than before"
    assert client.delete(f"/v2/{OTHER}/blobs/{digest}").status == 202
    assert blob(client, delta.digest).body == delta.blob


def test_what_is_copied_is_not_stored_again(registry):
    """Nor is what was made by a delta when it is sent whole."""
    client, old = Client(registry.host), os.urandom(20 * MIB)
    client.push_blob(NAME, old)
    before = sum(kept(registry).values())
    delta = Delta().out_of(old).copy(0, 8 * MIB).data(os.urandom(100 << 10)).copy(8 * MIB, 12 * MIB)
    makes(client, delta)
    client.push_blob(OTHER, delta.blob)
    assert sum(kept(registry).values()) - before < MIB
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


def test_a_delta_whose_digest_is_wrong_is_not_stored(client):
    old = os.urandom(2 * MIB)
    client.push_blob(NAME, old)
    for way in WAYS:
        delta = Delta().out_of(old).copy(0, MIB).data(os.urandom(10))
        right, delta.blob = delta.digest, delta.blob[:-1] + bytes([delta.blob[-1] ^ 1])
        refused(way(client, delta), 400, "DIGEST_INVALID")
        assert not has(client, right) and not has(client, delta.digest)


def test_a_frame_may_stand_for_a_gibibyte_and_takes_no_memory(registry):
    """As a hole of a disk does."""
    client = Client(registry.host)
    location = client.begin(NAME)
    answer = patch(client, location, data(b"begin") + zeros(GIB) + data(b"end"), 0, GIB + 8)
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{GIB + 7}")
    assert client.offset(location) == GIB + 8
    assert registry.peak_memory() < 192
    assert client.delete(location).status == 204


def test_what_is_no_delta_by_its_type_is_plain_bytes(local):
    """Whatever it looks like."""
    content = data(b"data") + zeros(1000)
    for kind in ["application/octet-stream", "application/vnd.dvcr.delta.v2", "application/vnd.dvcr.delta", ""]:
        location = local.begin(NAME)
        assert local.send("PATCH", location, content, {"Content-Type": kind}).status == 202
        assert local.finish(location, digest_of(content)).status == 201
        assert blob(local, digest_of(content)).body == content


# What is refused.


GOOD = Delta().data(os.urandom(5000)).zeros(3000).data(b"good")

NO_NAMES = [
    "",
    NAME,
    digest_of(b"old"),
    f"@{digest_of(b'old')}",
    f"{NAME}@",
    f"{NAME}@sha256:123",
    f"{NAME}@md5:{'0' * 32}",
    f"{NAME}@{digest_of(b'old').upper()}",
    f"{NAME.upper()}@{digest_of(b'old')}",
    f"../{NAME}@{digest_of(b'old')}",
    f"{NAME}:v1@{digest_of(b'old')}",
    f"https://example.com/{NAME}@{digest_of(b'old')}",
    f"{NAME}\n@{digest_of(b'old')}",
    f"{NAME}\0@{digest_of(b'old')}",
    f"{NAME}@{digest_of(b'old')} ",
    b"\xff\xfe" + f"@{digest_of(b'old')}".encode(),
    "a" * 0xFFFF,
]

OLD = source(f"{NAME}@{digest_of(b'old')}")

REFUSED = {
    "a copy without a source": copy(0, 1),
    "a source that nobody has": source(f"{NAME}@{NOWHERE}") + copy(0, 1),
    "a source in a repository that there is not": source(f"disks/none@{digest_of(b'old')}") + copy(0, 1),
    "a source that another repository has": source(f"{NAME}@{digest_of(b'secret')}") + copy(0, 1),
    "a source that is not copied from": source(f"{NAME}@{NOWHERE}"),
    "another source behind a good one": OLD + source(f"{NAME}@{NOWHERE}") + copy(0, 1),
    "a copy beyond the end": OLD + copy(0, 4),
    "a copy from the end": OLD + copy(3, 1),
    "a copy from beyond the end": OLD + copy(4, 0),
    "a copy from far beyond the end": OLD + copy(1 << 40, 1),
    "a copy from the end of all numbers": OLD + copy(2**64 - 1, 1),
    "a copy up to beyond all numbers": OLD + copy(2**64 - 1, GIB),
    "a frame of an unknown kind": b"\x04" + bytes(16),
    "a frame of the last kind": b"\xff" + bytes(16),
    "text": b'{"frames": []}',
    "a frame of data that is too long": struct.pack("<BQ", 0, GIB + 1),
    "a frame of zeros that is too long": zeros(GIB + 1),
    "a copy that is too long": OLD + copy(0, GIB + 1),
    "a frame of as much data as there are numbers": struct.pack("<BQ", 0, 2**64 - 1),
    "a frame of as many zeros as there are numbers": zeros(2**64 - 1),
    "a copy of as much as there are numbers": OLD + copy(0, 2**64 - 1),
}
"""What follows frames that are good, and makes the body no delta."""

ENDS = [
    *(data(b"0123456789")[:cut] for cut in [1, 2, 8, 9, 10, 18]),
    data(bytes(MIB))[: MIB // 2],
    *(zeros(10)[:cut] for cut in [1, 5, 8]),
    *(OLD[:cut] for cut in [1, 2, 3, 4, len(OLD) - 1]),
    *(OLD + copy(0, 3)[:cut] for cut in [1, 8, 9, 16]),
]
"""Bodies that end too early."""


def in_each_way(client, location, body):
    """What is answered to a body in a PATCH, in a PUT, and in a POST."""
    digest = quote(NOWHERE)
    yield patch(client, location, body)
    yield client.send("PUT", f"{location}?digest={digest}", body, headers())
    yield client.send("PATCH", location, iter(pieces(body, 999)), headers(), chunked=True)
    yield client.send("POST", f"{UPLOADS}?digest={digest}", body, headers())


def goes_on(client, location, *expected):
    """That an upload has at least the first of these bytes and none but them, and can be finished from where it stands."""
    offset, known = client.offset(location), b"".join(expected)
    assert len(expected[0]) <= offset <= len(known), offset
    # Two answers agree on it.
    rest = os.urandom(1000)
    refused(client.patch(location, rest, offset + 1), 416, "BLOB_UPLOAD_INVALID")
    assert client.patch(location, rest[:500], offset).status == 202
    digest = digest_of(known[:offset] + rest)
    assert client.finish(location, digest, rest[500:]).status == 201
    assert blob(client, digest).body == known[:offset] + rest


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_made_out_is_refused_and_the_upload_goes_on(local, what):
    local.push_blob(NAME, b"old")
    local.push_blob(OTHER, b"secret")
    for behind in [b"", data(b"never")]:
        location = local.begin(NAME)
        for number, answer in enumerate(in_each_way(local, location, GOOD.body + REFUSED[what] + behind)):
            refused(answer, 400, "BLOB_UPLOAD_INVALID")
            assert local.offset(location) == len(GOOD.blob) * min(number + 1, 3)
        goes_on(local, location, GOOD.blob * 3)
    assert not has(local, digest_of(GOOD.blob))


def test_what_is_no_name_of_a_source_is_refused_and_the_upload_goes_on(local):
    local.push_blob(NAME, b"old")
    for name in NO_NAMES:
        location = local.begin(NAME)
        answer = patch(local, location, GOOD.body + source(name) + copy(0, 1))
        refused(answer, 400, "BLOB_UPLOAD_INVALID")
        goes_on(local, location, GOOD.blob)


def test_a_body_that_ends_within_a_frame_is_refused_and_the_upload_goes_on(local):
    local.push_blob(NAME, b"old")
    for end in ENDS:
        # Of data, what has come may be kept.
        come = end[9:] if end[0] == 0 else b""
        for method, path in [("PATCH", "{}"), ("PUT", f"{{}}?digest={quote(NOWHERE)}")]:
            location = local.begin(NAME)
            answer = local.send(method, path.format(location), GOOD.body + end, headers())
            refused(answer, 400, "BLOB_UPLOAD_INVALID")
            goes_on(local, location, GOOD.blob, come)
        answer = local.send("POST", f"{UPLOADS}?digest={quote(GOOD.digest)}", GOOD.body + end, headers())
        refused(answer, 400, "BLOB_UPLOAD_INVALID")
    assert not has(local, GOOD.digest)


def test_a_blob_of_another_repository_cannot_be_told_from_none(client):
    """By no word of the answer."""
    content = os.urandom(50_000)
    digest = client.push_blob(OTHER, content)
    deleted = client.push_blob(NAME, os.urandom(50_000))
    assert client.delete(f"/v2/{NAME}/blobs/{deleted}").status == 202
    said = set()
    for named in [digest, deleted, NOWHERE]:
        for frames in [b"", copy(0, 1), copy(0, 50_000), copy(0, 50_001), copy(GIB, GIB)]:
            location = client.begin(NAME)
            for answer in in_each_way(client, location, source(f"{NAME}@{named}") + frames):
                refused(answer, 400, "BLOB_UPLOAD_INVALID")
                names = {"Content-Length", "Content-Type", "Range"}
                kept = tuple((name, answer.headers[name]) for name in sorted(names))
                said.add((answer.body.replace(named.encode(), b"..."), kept))
    assert len(said) == 1, said


def test_a_range_counts_bytes_of_the_blob(local):
    """Not those of the body, whether they are more or fewer."""
    old = os.urandom(2 * MIB)
    local.push_blob(NAME, old)
    for delta in [Delta().out_of(old).copy(0, 2 * MIB), Delta().data(b"1").data(b"2").data(b"3")]:
        location, plain = local.begin(NAME), os.urandom(1000)
        assert local.patch(location, plain, 0).status == 202
        for method, path in [("PATCH", location), ("PUT", f"{location}?digest={NOWHERE}")]:
            for start in [0, 999, 1001, 1000 + len(delta.blob)]:
                answer = local.send(method, path, delta.body, headers(start, len(delta.blob)))
                refused(answer, 416, "BLOB_UPLOAD_INVALID")
                assert (answer.headers["Range"], answer.headers["Location"]) == ("0-999", location)
        answer = patch(local, location, delta.body, 1000, len(delta.blob))
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{999 + len(delta.blob)}")
        digest = digest_of(plain + delta.blob)
        assert local.finish(location, digest).status == 201
        assert blob(local, digest).body == plain + delta.blob


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_a_delta_of_another_length_than_its_range_is_refused_and_the_upload_goes_on(client, size):
    old, plain = os.urandom(size), os.urandom(1000)
    client.push_blob(NAME, old)
    delta = Delta().out_of(old).copy(0, size).zeros(10)
    stands, body = len(delta.blob), len(delta.body)
    for method in ["PATCH", "PUT"]:
        location = client.begin(NAME)
        assert client.patch(location, plain, 0).status == 202
        path = location if method == "PATCH" else f"{location}?digest={quote(digest_of(plain + delta.blob))}"
        for length in [1, body, stands - 1, stands + 1, stands * 2, 1 << 40]:
            for sent in [delta.body, iter(pieces(delta.body, 10))]:
                answer = client.send(method, path, sent, headers(1000, length), chunked=sent is not delta.body)
                refused(answer, 400, "SIZE_INVALID")
                assert client.offset(location) == 1000
        goes_on(client, location, plain)


def test_a_delta_whose_range_cannot_be_read_is_refused(local):
    location = local.begin(NAME)
    for value in ["bytes 0-3/4", "0-3/4", "0", "-3", "0-", "3-0", "a-b", ""]:
        answer = local.send("PATCH", location, zeros(4), {**headers(), "Content-Range": value})
        refused(answer, 416, "BLOB_UPLOAD_INVALID")
    assert patch(local, location, zeros(4), 0, 4).status == 202


def test_a_delta_that_is_cut_off_is_resumed_where_it_broke(client):
    old = os.urandom(3 * MIB)
    client.push_blob(NAME, old)
    delta = Delta().data(os.urandom(100_000)).out_of(old).copy(0, 2 * MIB).data(os.urandom(400_000))
    location = client.begin(NAME)
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Type: {DELTA}\r\nContent-Length: {len(delta.body)}\r\n\r\n"
    with client.connect() as connection:
        connection.sendall(head.encode() + delta.body[:-100_000])
    eventually(lambda: client.offset(location) > 1)
    offset = client.offset(location)
    assert offset == len(delta.blob) - 100_000
    assert client.finish(location, delta.digest, delta.body[-100_000:]).status == 201
    assert blob(client, delta.digest).body == delta.blob


def test_what_is_damaged_is_neither_copied_nor_served(registry):
    client, old = Client(registry.host), os.urandom(8 * MIB)
    client.push_blob(NAME, old)
    pack = damage(registry, [0.5])
    delta = Delta().data(b"data").out_of(old).copy(0, len(old))
    location = client.begin(NAME)
    refused(patch(client, location, delta.body, 0, len(delta.blob)), 400, "BLOB_UPLOAD_INVALID")
    goes_on(client, location, b"data", old[: 4 * MIB])
    for way in [in_one_put, in_one_post]:
        refused(way(client, delta), 400, "BLOB_UPLOAD_INVALID")
    assert not has(client, delta.digest)
    assert pack in registry.log.read_text(errors="replace")
    # Elsewhere it can be copied.
    makes(client, Delta().out_of(old).copy(0, 3 * MIB).copy(5 * MIB, 3 * MIB))


# Imports.

LITTLE = 3 * MIB
"""More than a later version has that is new, and much less than the rest."""


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """Two versions of a disk: 200 KiB of 24 MiB are other bytes, and a mebibyte was put in, so that much has moved."""
    folder = tmp_path_factory.mktemp("versions")
    old, new, noise = folder / "old.raw", folder / "new.raw", os.urandom(24 * MIB)
    old.write_bytes(noise)
    changed = noise[: 5 * MIB] + os.urandom(200 << 10) + noise[5 * MIB + (200 << 10) :]
    new.write_bytes(changed[: 10 * MIB] + os.urandom(MIB) + changed[10 * MIB :])
    return old, new


@pytest.fixture
def base(dvcr, registry, versions):
    """The layer of the older version, which is in the registry."""
    return dvcr.imports(versions[0], f"{registry.host}/{NAME}:v1")["layer"]["digest"]


@pytest.fixture
def whole(dvcr, start, versions):
    """What an import of the later version makes that has nothing to copy from."""
    return dvcr.imports(versions[1], f"{start('filesystem').host}/{NAME}:v2", "--no-delta")


def same(host, result, whole, disk, name=NAME, tag="v2"):
    """That an import has made the image that one without a delta makes."""
    assert (result["digest"], result["layer"]) == (whole["digest"], whole["layer"])
    image = Image(host, name, tag)
    assert image.digest == whole["digest"]
    assert image.file()[1] == disk.read_bytes()


def is_little(result, sent=None):
    """That an import has sent what is new, and by its own word what has passed on the wire."""
    assert MIB + (200 << 10) < result["uploaded"] < LITTLE, result
    assert result["uploaded"] + result["copied"] == result["layer"]["size"], result
    assert sent is None or result["uploaded"] < sent < result["uploaded"] + 100_000, (sent, result)


def test_of_a_later_version_only_what_is_new_is_sent(dvcr, server, cutting_proxy, versions, whole):
    old, new = versions
    dvcr.imports(old, f"{server.host}/{NAME}:v1")
    proxy = cutting_proxy(server.host)
    result = dvcr.imports(new, f"{proxy.host}/{NAME}:v2")
    is_little(result, proxy.sent)
    same(server.host, result, whole, new)
    # And of the older one, of which nothing is new but what joins its pieces.
    proxy = cutting_proxy(server.host)
    result = dvcr.imports(old, f"{proxy.host}/{OTHER}:v1", "--file-name", "other.raw")
    assert result["uploaded"] < MIB and proxy.sent < MIB, result
    assert Image(server.host, OTHER).file()[1] == old.read_bytes()


@pytest.mark.parametrize("name", [OTHER, "a"])
def test_what_another_repository_has_is_not_sent_either(dvcr, registry, base, cutting_proxy, versions, whole, name):
    proxy = cutting_proxy(registry.host)
    result = dvcr.imports(versions[1], f"{proxy.host}/{name}:v2")
    is_little(result, proxy.sent)
    same(registry.host, result, whole, versions[1], name)


def test_changes_in_place_are_sent_and_nothing_else(dvcr, registry, base, cutting_proxy, versions, tmp_path):
    """Disks of one size that begin alike: the import looks first whether they are the same."""
    content, new = bytearray(versions[0].read_bytes()), tmp_path / "new.raw"
    for place in [7 * MIB, 15 * MIB + 5, len(content) - 1]:
        content[place] ^= 1
    new.write_bytes(content)
    proxy = cutting_proxy(registry.host)
    result = dvcr.imports(new, f"{proxy.host}/{NAME}:v1")
    assert 0 < result["uploaded"] < proxy.sent < MIB, result
    assert result["uploaded"] + result["copied"] == result["layer"]["size"]
    assert Image(registry.host, NAME).file()[1] == content


@pytest.mark.parametrize("compression", ["gzip", "zstd", "zstd-unsized"])
def test_a_compressed_source_of_a_later_version_is_sent_as_little(
    dvcr, registry, base, cutting_proxy, versions, whole, compression
):
    packed, proxy = compress(versions[1], compression), cutting_proxy(registry.host)
    result = dvcr.imports(packed, f"{proxy.host}/{NAME}:v2")
    is_little(result, proxy.sent)
    assert result["layer"] == whole["layer"]
    assert Image(registry.host, NAME, "v2").file()[1] == versions[1].read_bytes()


def test_standard_input_makes_the_same_layer(dvcr, registry, base, versions, whole):
    result = dvcr.imports("-", f"{registry.host}/{NAME}:v2", data=versions[1].read_bytes())
    assert result["layer"] == whole["layer"]
    assert Image(registry.host, NAME, "v2").file()[1] == versions[1].read_bytes()


def test_the_base_of_an_import_may_be_of_another_format(dvcr, registry, base, cutting_proxy, versions, tmp_path):
    qcow2, proxy = tmp_path / "new.qcow2", cutting_proxy(registry.host)
    convert(versions[1], qcow2, "qcow2")
    result = dvcr.imports(qcow2, f"{proxy.host}/{NAME}:qcow2")
    assert result["uploaded"] < 5 * MIB and proxy.sent < 5 * MIB
    assert Image(registry.host, NAME, "qcow2").file()[1] == qcow2.read_bytes()


def test_the_holes_of_a_disk_are_not_sent(dvcr, registry, cutting_proxy, tmp_path):
    """To a registry that has nothing yet."""
    disk, noise = tmp_path / "disk.raw", os.urandom(MIB)
    with disk.open("wb") as file:
        file.seek(100 * MIB + 5)
        file.write(noise)
        file.truncate(256 * MIB)
    proxy = cutting_proxy(registry.host)
    result = dvcr.imports(disk, f"{proxy.host}/{NAME}:v1")
    assert MIB <= proxy.sent < MIB + 200_000
    assert (result["copied"], result["passes"]) == (0, 1)
    assert Image(registry.host, NAME).file()[1] == disk.read_bytes()


def test_a_disk_of_nothing_is_sent_as_nothing(dvcr, registry, cutting_proxy, tmp_path):
    disk, proxy = tmp_path / "disk.raw", cutting_proxy(registry.host)
    disk.touch()
    os.truncate(disk, 64 * MIB + 777)
    dvcr.imports(disk, f"{proxy.host}/{NAME}:v1")
    assert proxy.sent < 50_000
    assert Image(registry.host, NAME).file()[1] == bytes(64 * MIB + 777)


def test_the_first_disk_of_a_registry_is_sent_once(dvcr, registry, cutting_proxy, versions):
    proxy = cutting_proxy(registry.host)
    result = dvcr.imports(versions[0], f"{proxy.host}/{NAME}:v1")
    assert (result["uploaded"], result["copied"]) == (result["layer"]["size"], 0)
    assert 24 * MIB < proxy.sent < 24 * MIB + 100_000


def test_with_no_delta_all_of_a_disk_is_sent(dvcr, registry, base, cutting_proxy, versions, whole):
    proxy = cutting_proxy(registry.host)
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2", "--no-delta")
    assert (result["uploaded"], result["copied"]) == (result["layer"]["size"], 0)
    assert result["layer"]["size"] < proxy.sent
    assert not requests(registry, "GET", f"/v2/{NAME}/_dvcr/chunks/")
    same(registry.host, result, whole, versions[1])


def test_what_an_import_says_is_what_it_has_copied(dvcr, registry, base, versions):
    said = dvcr.run("import", versions[1], f"{registry.host}/{NAME}:v2").out.decode()
    said = dict(line.strip().split(":", 1) for line in said.splitlines())
    assert int(said["Copied"].split("(")[1].split()[0]) > 22 * MIB, said
    assert int(said["Uploaded"].split("(")[1].split()[0]) < LITTLE, said


def test_an_index_and_images_of_others_do_no_harm(dvcr, registry, base, cutting_proxy, versions, whole):
    """Whatever lies beside the base."""
    client = Client(registry.host)
    client.push_image(NAME, "small")
    client.push_image(NAME, "compressed", b"\x1f\x8b\x08\x00" + os.urandom(2 * MIB))
    digest = client.push_image(NAME, "signature", artifactType="application/x.signature")
    manifest = client.get(f"/v2/{NAME}/manifests/{digest}").body
    assert client.put_manifest(NAME, "index", index([(digest, len(manifest))])).status == 201
    client.push_image(NAME, "gone", gone := os.urandom(2 * MIB))
    assert client.delete(f"/v2/{NAME}/blobs/{digest_of(gone)}").status == 202
    proxy = cutting_proxy(registry.host)
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2")
    is_little(result, proxy.sent)
    same(registry.host, result, whole, versions[1])


# Imports that do not go as planned.


def deleted(registry, base):
    assert Client(registry.host).delete(f"/v2/{NAME}/blobs/{base}").status == 202


def damaged(registry, base):
    damage(registry, [place / 1000 for place in range(1001)])


def harmed(registry, base, harm, cutting_proxy):
    """A proxy behind which something happens to the base when it was listed, and before any of it is copied."""
    return cutting_proxy(registry.host, before=(DELTA.encode(), lambda: harm(registry, base)))


def refusals(registry):
    return [line for line in requests(registry, "PATCH") if "status=400" in line]


@pytest.mark.parametrize("harm", [deleted, damaged])
def test_a_base_that_goes_away_is_done_without(dvcr, registry, base, cutting_proxy, versions, whole, harm):
    """The import has read its source to the end when it learns of it."""
    proxy = harmed(registry, base, harm, cutting_proxy)
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2")
    assert refusals(registry)
    assert (result["digest"], result["layer"]) == (whole["digest"], whole["layer"])
    assert result["uploaded"] > 20 * MIB
    if harm is deleted:
        same(registry.host, result, whole, versions[1])
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


@pytest.mark.parametrize("harm", [deleted, damaged])
def test_a_base_that_goes_away_while_the_source_is_read_is_done_without(
    dvcr, start, cutting_proxy, web, versions, whole, harm
):
    # A registry that has refused a body waits for the end of it.
    registry = start("filesystem", DVCR_IDLE_TIMEOUT="1")
    base = dvcr.imports(versions[0], f"{registry.host}/{NAME}:v1")["layer"]["digest"]
    proxy = harmed(registry, base, harm, cutting_proxy)
    url = web.add("/disk", versions[1].read_bytes(), hold=22 * MIB)
    process = dvcr.start("import", "--output", "json", url, f"{proxy.host}/{NAME}:v2")
    eventually(lambda: refusals(registry) or process.poll() is not None, seconds=60)
    web.resources["/disk"].go.set()
    result = finished(["import"], process).json()
    assert result["layer"] == whole["layer"]
    if harm is deleted:
        assert Image(registry.host, NAME, "v2").file()[1] == versions[1].read_bytes()
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


def in_the_middle(dvcr, registry, cutting_proxy, web, disk):
    """An import through a proxy that has begun to send a delta, and waits for its source."""
    sending = threading.Event()
    proxy = cutting_proxy(registry.host, before=(DELTA.encode(), sending.set))
    url = web.add("/disk", disk.read_bytes(), hold=16 * MIB)
    reference = f"{proxy.host}/{NAME}:v2"
    process = dvcr.start("import", "--output", "json", url, reference)
    held = web.resources["/disk"].held
    eventually(lambda: held.is_set() and sending.is_set() or process.poll() is not None, seconds=60)
    return proxy, url, reference, process


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_import_lives_through_a_restart_of_the_registry(
    dvcr, registry, base, cutting_proxy, web, versions, whole, end
):
    proxy, _, _, process = in_the_middle(dvcr, registry, cutting_proxy, web, versions[1])
    away(registry, web, end)
    missed(registry)
    registry.start()
    result = finished(["import"], process).json()
    assert result["layer"] == whole["layer"]
    assert result["uploaded"] < LITTLE and proxy.sent < 3 * LITTLE, (proxy.sent, result)
    assert Image(registry.host, NAME, "v2").file()[1] == versions[1].read_bytes()
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


def forget_uploads(registry):
    for file in (pathlib.Path(registry.storage[1]) / "uploads").rglob("*"):
        if file.is_file():
            file.unlink()


def test_a_registry_that_lost_the_upload_in_a_crash_gets_it_anew(
    dvcr, registry, base, cutting_proxy, web, versions, whole
):
    proxy, _, _, process = in_the_middle(dvcr, registry, cutting_proxy, web, versions[1])
    registry.kill()
    forget_uploads(registry)
    web.resources["/disk"].go.set()
    missed(registry)
    registry.start()
    result = finished(["import"], process).json()
    assert result["layer"] == whole["layer"]
    assert result["uploaded"] < LITTLE and proxy.sent < 3 * LITTLE, (proxy.sent, result)
    assert Image(registry.host, NAME, "v2").file()[1] == versions[1].read_bytes()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_an_import_that_was_killed_goes_on_with_its_upload(
    dvcr, registry, base, cutting_proxy, web, versions, whole, end
):
    proxy, url, reference, process = in_the_middle(dvcr, registry, cutting_proxy, web, versions[1])
    # Much of the second place that is new has passed, and so has what lies before it.
    eventually(lambda: proxy.sent > MIB, seconds=60)
    before = len(requests(registry, "PATCH"))
    process.send_signal(end)
    process.communicate(timeout=60)
    assert process.returncode != 0
    eventually(lambda: len(requests(registry, "PATCH")) > before)
    web.resources["/disk"].go.set()
    result = dvcr.imports(url, reference)
    assert result["layer"] == whole["layer"]
    assert result["uploaded"] + result["copied"] < result["layer"]["size"] - 9 * MIB, result
    assert result["uploaded"] < LITTLE and proxy.sent < 2 * LITTLE, (proxy.sent, result)
    assert Image(registry.host, NAME, "v2").file()[1] == versions[1].read_bytes()
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


@pytest.mark.parametrize("arguments", [[], ["--no-delta"]], ids=["delta", "no delta"])
def test_an_import_whose_source_failed_goes_on_with_its_upload(dvcr, registry, web, arguments):
    """A body that is given up is no body that has ended: of that the registry would keep nothing."""
    for number in range(4):
        content, reference = os.urandom(32 * MIB), f"{registry.host}/{NAME}:v{number}"
        url, before = web.add("/disk", content, cut=24 * MIB), len(refusals(registry))
        dvcr.refuses("import", *arguments, "--retries", "1", url, reference, code=FAILED)
        eventually(lambda before=before: len(refusals(registry)) > before)
        result = dvcr.imports(web.add("/disk", content), reference, *arguments)
        assert result["uploaded"] < result["layer"]["size"] - 4 * MIB, result
    assert Image(registry.host, NAME, "v3").file()[1] == content


@pytest.mark.parametrize("second", [["--no-delta"], []], ids=["no delta", "delta"])
def test_an_import_goes_on_with_a_delta_or_without_however_it_began(
    dvcr, registry, base, cutting_proxy, web, versions, whole, second
):
    first = [] if second else ["--no-delta"]
    proxy = cutting_proxy(registry.host)
    url, reference = web.add("/disk", versions[1].read_bytes(), hold=16 * MIB), f"{proxy.host}/{NAME}:v2"
    process, before = dvcr.start("import", *first, url, reference), len(requests(registry, "PATCH"))
    passed = 12 * MIB if first else MIB
    eventually(lambda: proxy.sent > passed or process.poll() is not None, seconds=60)
    process.kill()
    process.communicate()
    eventually(lambda: len(requests(registry, "PATCH")) > before)
    web.resources["/disk"].go.set()
    result = dvcr.imports(url, reference, *second)
    assert result["layer"] == whole["layer"]
    assert result["uploaded"] + result["copied"] < result["layer"]["size"] - 9 * MIB, result
    assert (result["copied"] > 8 * MIB) == (not second), result
    assert Image(registry.host, NAME, "v2").file()[1] == versions[1].read_bytes()


def test_answers_that_are_lost_are_asked_for_again(dvcr, registry, base, cutting_proxy, versions, whole):
    """The client cannot know how much arrived, and asks."""
    proxy = cutting_proxy(registry.host, cut=10, cuts=3)
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2")
    assert proxy.was_cut == 3
    same(registry.host, result, whole, versions[1])


def test_of_a_delta_whose_answer_is_lost_it_is_known_what_was_copied(
    dvcr, registry, base, cutting_proxy, versions, whole
):
    proxy = cutting_proxy(registry.host, cuts=1, before=(DELTA.encode(), lambda: setattr(proxy, "cut", 0)))
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2")
    assert proxy.was_cut == 1 and proxy.sent < LITTLE
    same(registry.host, result, whole, versions[1])
    is_little(result)


@pytest.mark.parametrize("content", [os.urandom(4 * MIB), bytes(4 * MIB)], ids=["known", "zeros"])
def test_an_import_from_a_slow_source_is_no_silent_client(dvcr, start, web, tmp_path, content):
    """Of what the registry has, and of zeros, nothing new has to be sent for long."""
    registry, known = start("filesystem", DVCR_IDLE_TIMEOUT="2"), tmp_path / "known.raw"
    known.write_bytes(content)
    dvcr.imports(known, f"{registry.host}/{NAME}:v1")
    url = web.add("/disk", slow := os.urandom(MIB) + content, pause=0.05)
    dvcr.imports(url, f"{registry.host}/{NAME}:v2", "--retries", "1")
    assert Image(registry.host, NAME, "v2").file()[1] == slow


def swapped(host, base):
    """The ids of two chunks of a blob that are as long, for a proxy to change one into the other."""
    listing, ids = Client(host).get(f"/v2/{NAME}/_dvcr/chunks/{base}").body, {}
    while listing:
        kind, length = struct.unpack("<BQ", listing[:9])
        if kind == 1:
            ids.setdefault(length, []).append(listing[9:41])
        listing = listing[41 if kind == 1 else 9 :]
    most = max(ids.values(), key=len)
    return most[1], most[-2]


def test_a_listing_that_is_wrong_costs_another_upload_and_does_no_harm(
    dvcr, registry, base, cutting_proxy, versions, whole
):
    """What is copied are other bytes than the disk has there."""
    proxy = cutting_proxy(registry.host, change=swapped(registry.host, base))
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2")
    assert proxy.was_changed
    assert any("status=400" in line for line in requests(registry, "PUT")), "the wrong blob was refused"
    assert result["passes"] == 2
    same(registry.host, result, whole, versions[1])
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


@pytest.mark.parametrize("change", [b"\0", b"\xff"])
def test_a_listing_that_is_none_is_done_without(dvcr, registry, base, cutting_proxy, versions, whole, change):
    one, _ = swapped(registry.host, base)
    # The id and the length of a chunk are garbage, and behind it everything is.
    proxy = cutting_proxy(registry.host, change=(one, change * 77))
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2")
    assert proxy.was_changed
    same(registry.host, result, whole, versions[1])


# Registries that take no deltas.


def test_a_registry_that_takes_no_delta_is_sent_everything(dvcr, other, cutting_proxy, versions, whole):  # noqa: F811
    proxy = cutting_proxy(other)
    dvcr.imports(versions[0], f"{proxy.host}/{NAME}:v1")
    before = proxy.sent
    result = dvcr.imports(versions[1], f"{proxy.host}/{NAME}:v2")
    assert (result["uploaded"], result["copied"]) == (result["layer"]["size"], 0)
    assert result["layer"]["size"] < proxy.sent - before < result["layer"]["size"] + 100_000
    same(other, result, whole, versions[1])


def test_a_copy_to_a_registry_that_takes_no_delta_sends_everything(dvcr, registry, other, base, versions):  # noqa: F811
    dvcr.imports(versions[0], f"{other}/{NAME}:v1")
    digest = dvcr.imports(versions[1], f"{registry.host}/{NAME}:v2")["digest"]
    result = copies(dvcr, f"{registry.host}/{NAME}:v2", f"{other}/{NAME}:v2")
    assert (result["digest"], result["reused"]) == (digest, 0)
    assert result["bytes"] > versions[1].stat().st_size
    assert Image(other, NAME, "v2").file()[1] == versions[1].read_bytes()


# Copies.


@pytest.fixture
def mirror(dvcr, start, versions):
    """Another registry, which has the later version alone."""
    server = start("filesystem")
    dvcr.imports(versions[1], f"{server.host}/{NAME}:v2", "--no-delta")
    return server


def size_of(image):
    """Bytes of the blobs of an image."""
    return sum(part["size"] for part in [image.manifest["config"], *image.manifest["layers"]])


def same_copy(dvcr, result, mirror, host, name, disk):
    image = Image(host, name, "v2")
    assert result["digest"] == image.digest == Image(mirror.host, NAME, "v2").digest
    assert result["bytes"] + result["reused"] == size_of(image), result
    assert image.file()[1] == disk.read_bytes()


@pytest.mark.parametrize("name", [NAME, OTHER])
def test_a_copy_to_a_registry_with_an_older_version_sends_what_is_new(
    dvcr, mirror, server, cutting_proxy, versions, name
):
    dvcr.imports(versions[0], f"{server.host}/{NAME}:v1")
    proxy = cutting_proxy(server.host)
    result = copies(dvcr, f"{mirror.host}/{NAME}:v2", f"{proxy.host}/{name}:v2")
    same_copy(dvcr, result, mirror, server.host, name, versions[1])
    assert MIB + (200 << 10) < result["bytes"] < LITTLE, result
    assert result["bytes"] < proxy.sent < result["bytes"] + 100_000
    again = copies(dvcr, f"{mirror.host}/{NAME}:v2", f"{proxy.host}/{name}:v3")
    assert (again["bytes"], again["reused"]) == (0, 0)


def test_a_copy_to_an_empty_registry_sends_all_of_it(dvcr, mirror, registry, cutting_proxy, versions):
    proxy = cutting_proxy(registry.host)
    result = copies(dvcr, f"{mirror.host}/{NAME}:v2", f"{proxy.host}/{NAME}:v2")
    same_copy(dvcr, result, mirror, registry.host, NAME, versions[1])
    assert (result["reused"], result["blobs"]["copied"]) == (0, 2)
    assert result["bytes"] < proxy.sent < result["bytes"] + 100_000


@pytest.mark.parametrize("harm", [deleted, damaged])
def test_a_copy_does_without_a_base_that_goes_away(dvcr, mirror, registry, base, cutting_proxy, versions, harm):
    proxy = harmed(registry, base, harm, cutting_proxy)
    result = copies(dvcr, f"{mirror.host}/{NAME}:v2", f"{proxy.host}/{NAME}:v2")
    assert refusals(registry)
    assert result["digest"] == Image(mirror.host, NAME, "v2").digest
    assert result["bytes"] > 20 * MIB, result
    if harm is deleted:
        same_copy(dvcr, result, mirror, registry.host, NAME, versions[1])
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


def test_a_copy_by_a_listing_that_is_wrong_does_no_harm(dvcr, mirror, registry, base, cutting_proxy, versions):
    proxy = cutting_proxy(registry.host, change=swapped(registry.host, base))
    result = copies(dvcr, f"{mirror.host}/{NAME}:v2", f"{proxy.host}/{NAME}:v2")
    assert proxy.was_changed
    same_copy(dvcr, result, mirror, registry.host, NAME, versions[1])
    assert not [file for file in kept(registry) if file.startswith("uploads/")]


def test_a_copy_over_connections_that_are_cut_gets_there(dvcr, mirror, registry, base, cutting_proxy, versions):
    there, here = cutting_proxy(mirror.host, cut=8 * MIB), cutting_proxy(registry.host, cut=10, cuts=2)
    result = copies(dvcr, f"{there.host}/{NAME}:v2", f"{here.host}/{NAME}:v2")
    assert there.was_cut >= 2 and here.was_cut == 2
    same_copy(dvcr, result, mirror, registry.host, NAME, versions[1])


def test_an_index_is_copied_as_its_differences(dvcr, mirror, registry, base, cutting_proxy, versions):
    """Each image that it names."""
    image, client = Image(mirror.host, NAME, "v2"), Client(mirror.host)
    small = client.push_image(NAME, "small")
    sizes = {digest: len(client.get(f"/v2/{NAME}/manifests/{digest}").body) for digest in [image.digest, small]}
    assert client.put_manifest(NAME, "index", index(list(sizes.items()))).status == 201
    proxy = cutting_proxy(registry.host)
    result = copies(dvcr, f"{mirror.host}/{NAME}:index", f"{proxy.host}/{NAME}:index")
    assert result["reused"] > 22 * MIB and proxy.sent < LITTLE, result
    assert Image(registry.host, NAME, image.digest).file()[1] == versions[1].read_bytes()


# Disks of more than one request.


@pytest.mark.slow
def test_what_was_copied_twice_is_told_once(dvcr, registry, start, cutting_proxy, tmp_path):
    """The registry has answered to the first gibibyte, and then loses it while the rest is under way."""
    old, new, noise, mirror = tmp_path / "old.raw", tmp_path / "new.raw", os.urandom(4 * MIB), start("filesystem")
    old.write_bytes(noise)
    with new.open("wb") as file:
        file.write(os.urandom(MIB) + noise * 16)
        file.seek(GIB)
        file.write(noise * 2)
        # It is read in several places at once.
        file.truncate(GIB + 256 * MIB)
    known = 18 * len(noise)
    dvcr.imports(old, f"{registry.host}/{NAME}:v1")
    dvcr.imports(new, f"{mirror.host}/{NAME}:v2")
    proxy, patches = cutting_proxy(mirror.host, hold=GIB + 160 * MIB), len(requests(registry, "PATCH"))
    arguments = ["copy", "--output", "json", f"{proxy.host}/{NAME}:v2", f"{registry.host}/{NAME}:v2"]
    process = dvcr.start(*arguments)
    # That of the config comes first.
    eventually(lambda: len(requests(registry, "PATCH")) > patches + 1 or process.poll() is not None, seconds=60)
    registry.kill()
    forget_uploads(registry)
    proxy.go.set()
    missed(registry)
    registry.start()
    result = finished(arguments, process).json()
    image = Image(registry.host, NAME, "v2")
    assert result["digest"] == image.digest == Image(mirror.host, NAME, "v2").digest
    # Where the noise begins, and where the first request ended, is no chunk of the registry's.
    assert known * 9 // 10 < result["reused"] <= known, result
    assert result["bytes"] + result["reused"] == size_of(image), result
