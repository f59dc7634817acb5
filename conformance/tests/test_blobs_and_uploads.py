"""Blobs: every way in, every way out, and uploads that do not go as planned."""

import os
import uuid
from urllib.parse import quote

import pytest

from wire import IMAGE, NO_UPLOAD, descriptor, digest_of, encode, eventually, image

NAME = "disks/ubuntu"
OTHER = "disks/debian"
UPLOADS = f"/v2/{NAME}/blobs/uploads/"
NOWHERE = digest_of(b"nothing has this digest")
SIZES = [0, 1, 16384, 16385, (1 << 20) + 1, 20 << 20]
"""Around what is kept in a record, above one batch, and several parts of S3."""


def refused(answer, status, code):
    assert answer.status == status, answer
    assert set(answer.codes()) == {code}


def blob(client, digest, name=NAME, **headers):
    return client.get(f"/v2/{name}/blobs/{digest}", **headers)


def has(client, digest, name=NAME):
    status = client.head(f"/v2/{name}/blobs/{digest}").status
    assert status in (200, 404)
    return status == 200


def usable(client, answer, name=NAME):
    """Whether the upload that an answer names can be finished."""
    data = os.urandom(10)
    finished = client.finish(answer.headers["Location"], digest_of(data), data)
    assert finished.status == 201, finished
    assert blob(client, digest_of(data), name).body == data


def pieces(data, size=1 << 20):
    return [data[start : start + size] for start in range(0, len(data), size)]


def in_one_post(client, data, digest):
    return client.send("POST", f"{UPLOADS}?digest={quote(digest)}", data)


def in_one_post_without_length(client, data, digest):
    return client.send("POST", f"{UPLOADS}?digest={digest}", iter(pieces(data)), chunked=True)


def in_one_put(client, data, digest):
    return client.finish(client.begin(NAME), digest, data)


def in_one_patch(client, data, digest):
    answer = client.patch(client.begin(NAME), data)
    assert answer.status == 202, answer
    assert answer.headers["Range"] == f"0-{max(len(data) - 1, 0)}"
    return client.finish(answer.headers["Location"], digest)


def in_one_patch_without_length(client, data, digest):
    answer = client.send("PATCH", client.begin(NAME), iter(pieces(data)), chunked=True)
    assert answer.status == 202, answer
    return client.finish(answer.headers["Location"], digest)


def in_chunks(client, data, digest):
    location, sent = client.begin(NAME), 0
    for piece in pieces(data, 6 << 20):
        answer = client.patch(location, piece, sent)
        sent += len(piece)
        assert answer.status == 202, answer
        assert answer.headers["Range"] == f"0-{sent - 1}"
        location = answer.headers["Location"]
    return client.finish(location, digest)


def in_chunks_of_which_the_put_brings_the_last(client, data, digest):
    location, half = client.begin(NAME), len(data) // 2
    if half:
        assert client.patch(location, data[:half], 0).status == 202
    headers = {"Content-Range": f"{half}-{len(data) - 1}"} if data else {}
    return client.finish(location, digest, data[half:], headers)


WAYS = [
    in_one_post,
    in_one_post_without_length,
    in_one_put,
    in_one_patch,
    in_one_patch_without_length,
    in_chunks,
    in_chunks_of_which_the_put_brings_the_last,
]


def test_a_blob_comes_back_as_it_was_pushed(client):
    for push in WAYS:
        for size in SIZES:
            data = os.urandom(size)
            digest = digest_of(data)
            answer = push(client, data, digest)
            assert answer.status == 201, (push, size, answer)
            assert answer.headers["Docker-Content-Digest"] == digest
            for path in [answer.headers["Location"], f"/v2/{NAME}/blobs/{digest}"]:
                found = client.get(path)
                assert (found.status, len(found.body), digest_of(found.body)) == (200, size, digest), push


def test_an_upload_that_is_announced_as_sha512_is_closed_as_one(local):
    for size in SIZES[:-1]:
        data = os.urandom(size)
        digest = digest_of(data, "sha512")
        location = local.begin(NAME, "?digest-algorithm=sha512")
        assert local.patch(location, data).status == 202
        assert local.finish(location, digest).status == 201
        assert digest_of(blob(local, digest).body) == digest_of(data)


def test_a_sha512_blob_need_not_be_announced(client):
    for push in [in_one_post, in_one_put, in_one_patch, in_chunks]:
        for size in [0, 10, (1 << 20) + 1]:
            data = os.urandom(size)
            digest = digest_of(data, "sha512")
            answer = push(client, data, digest)
            assert answer.status == 201, answer
            assert answer.headers["Docker-Content-Digest"] == digest
            assert digest_of(blob(client, digest).body, "sha512") == digest


def test_a_blob_that_is_there_already_can_be_pushed_again(local):
    data = os.urandom(100_000)
    for name in [NAME, NAME, OTHER]:
        assert local.push_blob(name, data) == digest_of(data)
        assert blob(local, digest_of(data), name).body == data


def test_a_range_is_cut_to_the_blob(client):
    for size in [2000, 100_000]:
        data = os.urandom(size)
        digest = client.push_blob(NAME, data)
        for wanted, first, last in [
            ("500-1499", 500, 1499),
            ("500-", 500, size - 1),
            ("-500", size - 500, size - 1),
            (f"{size - 10}-{size * 2}", size - 10, size - 1),
            (f"-{size * 2}", 0, size - 1),
            ("0-0", 0, 0),
            (f"{size - 1}-{size - 1}", size - 1, size - 1),
            ("-1", size - 1, size - 1),
        ]:
            answer = blob(client, digest, Range=f"bytes={wanted}")
            assert answer.status == 206, wanted
            assert answer.body == data[first : last + 1], wanted
            assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
            assert answer.headers["Content-Length"] == str(last - first + 1)
            assert answer.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize("wanted", ["2000-", "5000-6000", "500-0", "-0"])
def test_a_range_that_the_blob_does_not_have_cannot_be_satisfied(local, wanted):
    digest = local.push_blob(NAME, bytes(2000))
    answer = blob(local, digest, Range=f"bytes={wanted}")
    refused(answer, 416, "SIZE_INVALID")
    assert answer.headers["Content-Range"] == "bytes */2000"


def test_an_empty_blob_has_no_range(local):
    answer = blob(local, local.push_blob(NAME, b""), Range="bytes=0-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "lines=0-1", "0-1"])
def test_several_ranges_and_other_units_mean_the_whole(local, wanted):
    digest = local.push_blob(NAME, b"0123456789")
    answer = blob(local, digest, Range=wanted)
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert answer.headers["Content-Range"] is None


def test_if_range_asks_for_the_whole_of_anything_else(local):
    digest = local.push_blob(NAME, b"0123456789")
    assert blob(local, digest, Range="bytes=1-2", If_Range=f'"{digest}"').body == b"12"
    for other in [f'"{NOWHERE}"', f'W/"{digest}"', "Wed, 21 Oct 2015 07:28:00 GMT"]:
        answer = blob(local, digest, Range="bytes=1-2", If_Range=other)
        assert (answer.status, answer.body) == (200, b"0123456789"), other


def test_head_ignores_ranges(local):
    digest = local.push_blob(NAME, b"0123456789")
    answer = local.send("HEAD", f"/v2/{NAME}/blobs/{digest}", headers={"Range": "bytes=1-2"})
    assert (answer.status, answer.headers["Content-Length"]) == (200, "10")


def test_get_and_head_say_what_the_blob_is(local):
    for data in [b"", b"small", os.urandom(100_000)]:
        digest = local.push_blob(NAME, data)
        path = f"/v2/{NAME}/blobs/{digest}"
        head, get = local.head(path), local.get(path)
        assert (head.status, head.body, get.status, get.body) == (200, b"", 200, data)
        assert head.lasting() == get.lasting()
        assert get.headers["Content-Length"] == str(len(data))
        assert get.headers["Docker-Content-Digest"] == digest
        assert get.headers["ETag"] == f'"{digest}"'
        assert get.headers["Accept-Ranges"] == "bytes"


def test_a_client_that_has_the_blob_is_not_sent_it_again(local):
    digest = local.push_blob(NAME, b"data")
    answer = blob(local, digest, If_None_Match=f'"{digest}"')
    assert (answer.status, answer.body) == (304, b"")
    assert blob(local, NOWHERE, If_None_Match=f'"{NOWHERE}"').status == 404


def test_a_blob_is_never_compressed_on_the_way(local):
    data = bytes(100_000)
    digest = local.push_blob(NAME, data)
    for encoding in ["gzip", "zstd", "zstd, gzip, deflate", "*"]:
        answer = blob(local, digest, Accept_Encoding=encoding)
        assert answer.headers["Content-Encoding"] is None
        assert (answer.headers["Content-Length"], answer.body) == ("100000", data)


def test_the_digest_in_a_path_may_be_percent_encoded(local):
    digest = local.push_blob(NAME, b"data")
    assert blob(local, quote(digest, safe="")).body == b"data"
    assert blob(local, digest.replace("a", "%61")).body == b"data"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2"),
        ("GET", "/v2/"),
        ("POST", "/v2/"),
        ("GET", "/v2/_catalog"),
        ("DELETE", "/v2/_catalog"),
        ("GET", "/v2/nothing"),
        ("GET", f"/v2/{NAME}/tags/list"),
        ("GET", "/v2/UPPER/tags/list"),
        ("PUT", f"/v2/{NAME}/tags/list"),
        ("GET", f"/v2/{NAME}/manifests/v1"),
        ("PUT", f"/v2/{NAME}/manifests/v1"),
        ("GET", f"/v2/{NAME}/blobs/{NOWHERE}"),
        ("HEAD", f"/v2/{NAME}/blobs/{NOWHERE}"),
        ("GET", f"/v2/{NAME}/blobs/short"),
        ("POST", UPLOADS),
        ("PATCH", f"{UPLOADS}{NO_UPLOAD}"),
        ("GET", f"/v2/{NAME}/referrers/{NOWHERE}"),
    ],
)
def test_every_answer_says_the_version_of_the_api(local, method, path):
    assert local.send(method, path).headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_a_blob_is_in_no_repository_but_those_it_was_pushed_or_mounted_to(client):
    data = os.urandom(100_000)
    digest = client.push_blob(NAME, data)
    refused(blob(client, digest, OTHER), 404, "BLOB_UNKNOWN")
    refused(blob(client, digest, f"{NAME}/below"), 404, "BLOB_UNKNOWN")
    query = f"mount={quote(digest)}&from={quote(NAME, safe='')}"
    answer = client.send("POST", f"/v2/{OTHER}/blobs/uploads/?{query}")
    assert answer.status == 201, answer
    assert answer.headers["Docker-Content-Digest"] == digest
    assert client.get(answer.headers["Location"]).body == data
    anywhere = client.send("POST", f"/v2/disks/third/blobs/uploads/?mount={digest}")
    assert anywhere.status == 201, anywhere
    assert client.delete(f"/v2/{NAME}/blobs/{digest}").status == 202
    assert not has(client, digest)
    for name in [OTHER, "disks/third"]:
        assert blob(client, digest, name).body == data


@pytest.mark.parametrize(
    "query",
    [
        f"mount={NOWHERE}",
        f"mount={NOWHERE}&from={OTHER}",
        f"mount={NOWHERE}&from=unknown/repository",
        f"mount={digest_of(b'here')}&from=unknown/repository",
        f"mount={digest_of(b'here')}&from=Not/A/Name",
        f"mount={digest_of(b'here')}&from=",
        "mount=sha256:short",
        "mount=",
        f"mount=&from={OTHER}",
    ],
)
def test_a_mount_that_cannot_be_is_an_upload_that_begins(local, query):
    local.push_blob(OTHER, b"here")
    answer = local.send("POST", f"{UPLOADS}?{query}")
    assert answer.status == 202, answer
    usable(local, answer)


def test_an_upload_says_where_it_stands(local):
    answer = local.send("POST", UPLOADS)
    location = answer.headers["Location"]
    assert uuid.UUID(location.rsplit("/", 1)[1])
    assert answer.headers["Docker-Upload-UUID"] == location.rsplit("/", 1)[1]
    assert (answer.status, answer.headers["Range"]) == (202, "0-0")
    data, sent = os.urandom(300_000), 0
    for size in [1, 16384, 100_000, 183_615]:
        answer = local.patch(location, data[sent : sent + size])
        sent += size
        for answer in [answer, local.get(location), local.head(location)]:
            assert answer.headers["Range"] == f"0-{sent - 1}"
            assert answer.headers["Location"] == location
    assert local.finish(location, digest_of(data)).status == 201
    assert blob(local, digest_of(data)).body == data


def test_a_cancelled_upload_is_gone(client):
    location = client.begin(NAME)
    assert client.patch(location, os.urandom(100_000)).status == 202
    answer = client.delete(location)
    assert (answer.status, answer.body) == (204, b"")
    gone(client, location)


def gone(client, location):
    for answer in [
        client.get(location),
        client.patch(location, b"more"),
        client.patch(location, b"more", 0),
        client.finish(location, digest_of(b"more"), b"more"),
        client.delete(location),
    ]:
        refused(answer, 404, "BLOB_UPLOAD_UNKNOWN")
    assert client.head(location).status == 404


def test_a_finished_upload_is_gone(local):
    location = local.begin(NAME)
    assert local.finish(location, digest_of(b"data"), b"data").status == 201
    gone(local, location)


@pytest.mark.parametrize("session", [str(NO_UPLOAD), NO_UPLOAD.hex, "nonsense", "%2e%2e", "0" * 5000])
def test_an_upload_that_never_began_is_unknown(local, session):
    gone(local, UPLOADS + session)


def test_an_upload_belongs_to_one_repository_and_has_one_spelling(local):
    location = local.begin(NAME)
    assert local.patch(location, b"data").status == 202
    gone(local, location.replace(NAME, OTHER))
    session = location.rsplit("/", 1)[1]
    for spelling in [session.upper(), session.replace("-", ""), f"{{{session}}}"]:
        gone(local, UPLOADS + quote(spelling))
    assert local.finish(location, digest_of(b"data")).status == 201


def test_a_chunk_out_of_order_is_refused_and_the_upload_goes_on(client):
    data = os.urandom(200_000)
    digest, location = digest_of(data), client.begin(NAME)
    assert client.patch(location, data[:100_000], 0).status == 202
    for start, end in [(0, 100_000), (99_999, 200_000), (100_001, 200_000), (150_000, 200_000)]:
        chunk = data[start:end]
        headers = {"Content-Range": f"{start}-{start + len(chunk) - 1}"}
        for answer in [client.patch(location, chunk, start), client.finish(location, digest, chunk, headers)]:
            refused(answer, 416, "BLOB_UPLOAD_INVALID")
            assert answer.headers["Range"] == "0-99999"
            assert answer.headers["Location"] == location
        # The official suite asks with the parameter of the PUT still attached.
        for path in [location, f"{location}?digest={quote(digest)}"]:
            assert client.offset(path) == 100_000
    assert client.patch(location, data[100_000:], 100_000).status == 202
    assert client.finish(location, digest).status == 201
    assert blob(client, digest).body == data


def test_a_first_chunk_must_begin_at_the_beginning(local):
    location = local.begin(NAME)
    refused(local.patch(location, b"data", 1), 416, "BLOB_UPLOAD_INVALID")
    assert local.patch(location, b"data", 0).status == 202


@pytest.mark.parametrize(
    "value", ["bytes 0-3/4", "0-3/4", "bytes=0-3", "0", "-3", "0-", "3-0", "a-b", "", "0-3, 4-7"]
)
def test_a_chunk_whose_range_cannot_be_read_is_refused_and_the_upload_goes_on(local, value):
    location = local.begin(NAME)
    for method, path in [("PATCH", location), ("PUT", f"{location}?digest={digest_of(b'data')}")]:
        answer = local.send(method, path, b"data", {"Content-Range": value})
        assert answer.status in (400, 416), answer
        assert answer.codes() == ["BLOB_UPLOAD_INVALID"]
    usable(local, local.get(location))


@pytest.mark.parametrize("value", ["0-9", "0-2", "0-18446744073709551614"])
def test_a_chunk_of_another_length_than_its_range_is_refused_and_the_upload_goes_on(local, value):
    location = local.begin(NAME)
    for method, path in [("PATCH", location), ("PUT", f"{location}?digest={digest_of(b'data')}")]:
        for chunked in [False, True]:
            body = iter([b"data"]) if chunked else b"data"
            answer = local.send(method, path, body, {"Content-Range": value}, chunked=chunked)
            refused(answer, 400, "SIZE_INVALID")
    usable(local, local.get(location))


def test_a_blob_whose_digest_is_wrong_is_not_stored(client):
    for push in WAYS:
        for size in [10, 100_000]:
            data = os.urandom(size)
            for wrong in [NOWHERE, digest_of(b"", "sha512")]:
                refused(push(client, data, wrong), 400, "DIGEST_INVALID")
                assert not has(client, wrong)
            assert not has(client, digest_of(data))


INVALID_DIGESTS = [
    "",
    "sha256",
    "sha256:",
    "sha256:baddigeststring",
    f"md5:{'0' * 32}",
    f"sha1:{'0' * 40}",
    f"SHA256:{'0' * 64}",
    f"sha256:{'A' * 64}",
    f"sha256:{'0' * 63}",
    f"sha256:{'0' * 65}",
    f"sha256:{'g' * 64}",
    f"sha512:{'0' * 64}",
    f"sha256:../../{'0' * 58}",
    f"sha256:{'0' * 64}\0",
]


@pytest.mark.parametrize("digest", INVALID_DIGESTS, ids=repr)
def test_what_is_no_digest_is_refused_wherever_it_stands(local, digest):
    location, quoted = local.begin(NAME), quote(digest, safe="")
    refused(local.send("PUT", f"{location}?digest={quoted}", b"data"), 400, "DIGEST_INVALID")
    refused(local.send("POST", f"{UPLOADS}?digest={quoted}", b"data"), 400, "DIGEST_INVALID")
    if "/" not in digest:
        refused(blob(local, quoted), 400, "DIGEST_INVALID")
        refused(local.delete(f"/v2/{NAME}/blobs/{quoted}"), 400, "DIGEST_INVALID")
    usable(local, local.get(location))


def test_closing_an_upload_takes_a_digest(local):
    location = local.begin(NAME)
    refused(local.send("PUT", location, b"data"), 400, "DIGEST_INVALID")
    usable(local, local.get(location))


@pytest.mark.parametrize("algorithm", ["md5", "SHA512", "", "sha512:"])
def test_an_unknown_digest_algorithm_is_refused(local, algorithm):
    refused(local.send("POST", f"{UPLOADS}?digest-algorithm={algorithm}"), 400, "DIGEST_INVALID")


def test_a_deleted_blob_is_gone_until_it_is_pushed_again(client):
    data = os.urandom(100_000)
    digest = client.push_blob(NAME, data)
    path = f"/v2/{NAME}/blobs/{digest}"
    assert client.delete(path).status == 202
    for method in ["GET", "DELETE"]:
        refused(client.send(method, path), 404, "BLOB_UNKNOWN")
    assert client.head(path).status == 404
    assert client.push_blob(NAME, data) == digest
    assert client.get(path).body == data


@pytest.mark.parametrize(
    "name",
    ["blobs/uploads", "tags/list", "manifests/manifests", "referrers", "uploads/blobs", "v2/blobs"],
)
def test_a_repository_may_be_called_like_an_endpoint(local, name):
    location = local.begin(name)
    assert local.patch(location, b"layer").status == 202
    assert local.offset(location) == 5
    assert local.finish(location, digest_of(b"layer")).status == 201
    assert local.delete(local.begin(name)).status == 204
    config = local.push_blob(name, b"{}")
    manifest = encode(image([(digest_of(b"layer"), 5)], (config, 2), subject=descriptor(IMAGE, NOWHERE, 1)))
    for tag in ["list", "uploads", "manifests"]:
        assert local.put_manifest(name, tag, manifest).status == 201
        assert local.get(f"/v2/{name}/manifests/{tag}").body == manifest
    found = local.get(f"/v2/{name}/tags/list").json()
    assert found == {"name": name, "tags": ["list", "manifests", "uploads"]}
    found = local.get(f"/v2/{name}/referrers/{NOWHERE}").json()["manifests"]
    assert [referrer["digest"] for referrer in found] == [digest_of(manifest)]
    assert local.get("/v2/_catalog").json() == {"repositories": [name]}
    assert blob(local, config, name).body == b"{}"
    for path in [f"manifests/{digest_of(manifest)}", f"blobs/{config}"]:
        assert local.delete(f"/v2/{name}/{path}").status == 202
        assert local.get(f"/v2/{name}/{path}").status == 404


def cut_off(client, head, data):
    """Sends a part of a body and goes away; gives how much of it the session has."""
    location = head.split(" ")[1]
    with client.connect() as connection:
        connection.sendall(head.encode() + data)
    return eventually(lambda: (length := client.offset(location)) > 1 and length)


@pytest.mark.parametrize(
    "framing", ["Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nF4240\r\n"]
)
def test_a_patch_that_is_cut_off_is_resumed_where_it_broke(client, framing):
    data = os.urandom(1_000_000)
    digest, location = digest_of(data), client.begin(NAME)
    have = cut_off(client, f"PATCH {location} HTTP/1.1\r\nHost: x\r\n{framing}", data[:400_000])
    assert have == 400_000
    refused(client.patch(location, data[:10], 0), 416, "BLOB_UPLOAD_INVALID")
    assert client.patch(location, data[have:700_000], have).status == 202
    headers = {"Content-Range": "700000-999999"}
    assert client.finish(location, digest, data[700_000:], headers).status == 201
    assert digest_of(blob(client, digest).body) == digest


def test_a_put_that_is_cut_off_is_resumed_where_it_broke(local):
    data = os.urandom(1_000_000)
    digest, location = digest_of(data), local.begin(NAME)
    head = f"PUT {location}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    have = cut_off(local, head, data[:400_000])
    assert local.finish(location, digest, data[have:]).status == 201
    assert digest_of(blob(local, digest).body) == digest


@pytest.mark.parametrize(
    ("method", "path", "content_range", "status"),
    [
        ("PATCH", "{session}", f"5-{(12 << 20) + 4}", 416),
        ("PATCH", "{session}", "nonsense", 416),
        ("PATCH", "{session}", "0-5", 400),
        ("PATCH", f"{UPLOADS}{NO_UPLOAD}", None, 404),
        ("PATCH", f"{UPLOADS}nonsense", None, 404),
        ("PUT", "{session}?digest=sha256:short", None, 400),
        ("PUT", "{session}", None, 400),
        ("POST", f"{UPLOADS}?digest={NOWHERE}", None, 400),
        ("POST", f"{UPLOADS}?digest=sha256:short", None, 400),
        ("POST", "/v2/Not/A/Name/blobs/uploads/", None, 400),
        ("PUT", f"/v2/{NAME}/blobs/{NOWHERE}", None, 405),
        ("PUT", f"/v2/{NAME}/manifests/b@d", None, 400),
        ("POST", "/v2/nothing", None, 404),
    ],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(local, method, path, content_range, status):
    """A server that closes on unread bytes resets the connection, and the answer may be lost with it."""
    path = path.format(session=local.begin(NAME))
    headers = {"Content-Range": content_range} if content_range else {}
    answer = local.send(method, path, bytes(12 << 20), headers)
    assert answer.status == status, answer
