"""Input that is wrong, hostile or endless: always an answer that says why, and the server goes on."""

import contextlib
import json
import os
import random
import time
import uuid

import pytest

from wire import INDEX, NO_UPLOAD, Client, digest_of, encode, eventually, index

NAME = "disks/ubuntu"
DIGEST = digest_of(b"nothing has this digest")
PLAIN = encode(index([]))

ENDPOINTS = [
    ("GET", "tags/list"),
    ("GET", "manifests/v1"),
    ("HEAD", "manifests/v1"),
    ("PUT", "manifests/v1"),
    ("DELETE", "manifests/v1"),
    ("GET", f"manifests/{DIGEST}"),
    ("GET", f"blobs/{DIGEST}"),
    ("HEAD", f"blobs/{DIGEST}"),
    ("DELETE", f"blobs/{DIGEST}"),
    ("POST", "blobs/uploads/"),
    ("POST", f"blobs/uploads/?digest={DIGEST}"),
    ("POST", f"blobs/uploads/?mount={DIGEST}"),
    ("GET", f"blobs/uploads/{NO_UPLOAD}"),
    ("PATCH", f"blobs/uploads/{NO_UPLOAD}"),
    ("PUT", f"blobs/uploads/{NO_UPLOAD}?digest={DIGEST}"),
    ("DELETE", f"blobs/uploads/{NO_UPLOAD}"),
    ("GET", f"referrers/{DIGEST}"),
]


def tree(folder):
    return sorted(folder.rglob("*"))


def alive(client):
    answer = client.get("/v2/")
    assert answer.status == 200, answer


def status(received):
    """The status of the first answer on a connection; none when it was closed without one."""
    return int(received.split(b" ", 2)[1]) if received else None


def closed(connection):
    """Whether the server closes a connection within its time, whatever it still sends before."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return True


@pytest.mark.parametrize(
    "name",
    [
        "",
        "UPPER",
        "a/Upper",
        "/a",
        "a/",
        "a//b",
        "a%2f%2fb",
        "a..b",
        "a._b",
        "a___b",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a_",
        "..",
        ".",
        "a/../b",
        "../../../etc",
        "a/%2e%2e/b",
        "%2e%2e%2f%2e%2e",
        "a%2F..%2F..%2Fb",
        "..%5c..%5ca",
        "a%5cb",
        "a%00",
        "a%0ab",
        "a%20b",
        "a:b",
        "a@b",
        "a%3fb",
        "a%252fb",
        "%c3%a4",
        "a" * 241,
        "a/" * 120 + "a",
        "a" * 5000,
    ],
)
def test_what_is_no_repository_name_is_refused_by_every_endpoint(local, name):
    for method, endpoint in ENDPOINTS:
        answer = local.send(method, f"/v2/{name}/{endpoint}", PLAIN if method == "PUT" else None)
        assert answer.status == 400, (method, endpoint, answer)
        assert method == "HEAD" or answer.codes() == ["NAME_INVALID"], (method, endpoint, answer)
    assert local.get("/v2/_catalog").json() == {"repositories": []}


def test_a_name_may_be_as_long_as_a_file_name(local):
    name = "a" * 240
    assert local.put_manifest(name, "v1", PLAIN).status == 201
    assert local.push_blob(name, b"data") == digest_of(b"data")
    assert local.get("/v2/_catalog").json() == {"repositories": [name]}


def test_no_path_leads_out_of_the_data_directory(start, tmp_path):
    server = start("filesystem")
    client = Client(server.host)
    client.push_image(NAME, "v1")
    climbs = [
        "../..",
        "../../../../../../../../",
        "..%2f..%2f..",
        "%2e%2e/%2e%2e",
        "%2e%2e%2f%2e%2e%2f",
        "..%5c..%5c",
        "..\\..\\",
        "....//....//",
        "%252e%252e%252f",
        "/etc",
        "//etc",
        "%2fetc",
        "%00",
        "..%00",
        "%c0%ae%c0%ae%c0%af",
        "%ff",
        f"{NAME}/../../..",
        f"{NAME}%2f_tags",
        f"{NAME}/_manifests",
    ]
    before = tree(tmp_path)
    requests = [("GET", "/../../etc/passwd"), ("GET", "../../etc/passwd"), ("GET", "/v2/../../etc/passwd")]
    for climb in climbs:
        requests += [
            ("GET", f"/v2/{climb}/etc/passwd"),
            ("GET", f"/v2/{climb}/tags/list"),
            ("PUT", f"/v2/{climb}/manifests/evil"),
            ("PUT", f"/v2/{NAME}/manifests/{climb}%2fevil"),
            ("PUT", f"/v2/{NAME}/manifests/{DIGEST}?tag={climb}%2fevil"),
            ("POST", f"/v2/{climb}/evil/blobs/uploads/"),
            ("POST", f"/v2/{climb}/evil/blobs/uploads/?digest={digest_of(PLAIN)}"),
            ("POST", f"/v2/{NAME}/blobs/uploads/?digest=sha256:{climb}%2fevil"),
            ("PATCH", f"/v2/{NAME}/blobs/uploads/{climb}%2fevil"),
            ("PUT", f"/v2/{NAME}/blobs/uploads/{climb}%2fevil?digest={digest_of(PLAIN)}"),
            ("DELETE", f"/v2/{NAME}/blobs/uploads/{climb}"),
            ("DELETE", f"/v2/{NAME}/manifests/{climb}"),
            ("DELETE", f"/v2/{NAME}/blobs/sha256:{climb}"),
            ("GET", f"/v2/{NAME}/blobs/sha256:{climb}%2fetc%2fpasswd"),
            ("GET", f"/v2/{NAME}/tags/list?last={climb}%2fetc"),
        ]
    for method, path in requests:
        headers = f"Host: x\r\nContent-Type: {INDEX}\r\nContent-Length: {len(PLAIN)}\r\nConnection: close\r\n"
        received = client.raw(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode() + PLAIN)
        assert 400 <= status(received) < 500, (method, path, received)
        assert b"root:" not in received
    assert tree(tmp_path) == before
    alive(client)


@pytest.mark.parametrize(
    "tag",
    ["%20", "-a", ".a", "..", "%2e%2e", "a%2fb", "a%5cb", "a+b", "a@b", "%c3%a4", "a%00", "t" * 129],
)
def test_what_is_no_tag_is_refused(local, tag):
    for method in ["GET", "HEAD", "PUT", "DELETE"]:
        answer = local.send(method, f"/v2/{NAME}/manifests/{tag}", PLAIN if method == "PUT" else None)
        assert answer.status in (400, 404), answer
        assert method == "HEAD" or answer.codes()


def test_a_tag_may_have_128_characters(local):
    tag = "T" * 128
    assert local.put_manifest(NAME, tag, PLAIN).status == 201
    assert local.get(f"/v2/{NAME}/tags/list").json()["tags"] == [tag]
    assert local.get(f"/v2/{NAME}/manifests/{tag}").body == PLAIN


@pytest.mark.parametrize(
    "digest", ["sha256:", "sha256:baddigeststring", f"md5:{'0' * 32}", DIGEST.upper(), ":", "a:b"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_manifest_is_not_asked_for_by_what_is_no_digest(local, method, digest):
    answer = local.send(method, f"/v2/{NAME}/manifests/{digest}", PLAIN, {"Content-Type": INDEX})
    assert answer.status == 400, answer
    assert answer.codes() == ["DIGEST_INVALID"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2/", {"GET", "HEAD"}),
        ("/v2/_catalog", {"GET", "HEAD"}),
        (f"/v2/{NAME}/tags/list", {"GET", "HEAD"}),
        (f"/v2/{NAME}/referrers/{DIGEST}", {"GET", "HEAD"}),
        (f"/v2/{NAME}/blobs/{DIGEST}", {"GET", "HEAD", "DELETE"}),
        (f"/v2/{NAME}/manifests/v1", {"GET", "HEAD", "PUT", "DELETE"}),
        (f"/v2/{NAME}/blobs/uploads/", {"POST"}),
        (f"/v2/{NAME}/blobs/uploads/{NO_UPLOAD}", {"GET", "HEAD", "PATCH", "PUT", "DELETE"}),
    ],
)
def test_a_method_that_an_endpoint_does_not_take_is_refused_with_those_it_does(local, path, allowed):
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - allowed:
        answer = local.send(method, path)
        assert answer.status == 405, (method, answer)
        assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allowed, method
        assert method == "HEAD" or answer.codes() == ["UNSUPPORTED"]


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/", "/v22", "/favicon.ico", "/v2/a", "/v2/a/b", "/v2/a/tags/other", "/v2/a/blobs", "/v2/_x"],
)
def test_an_unknown_endpoint_is_not_found(local, path):
    for method in ["GET", "POST", "DELETE"]:
        answer = local.send(method, path)
        assert answer.status == 404, answer
        assert answer.codes() == ["UNSUPPORTED"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n", 431),
        (b"GET /v2/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /v2/" + b"a" * (2 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        (b"\0" * 1000 + b"\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /v2/ HTTP/9.9\r\n\r\n", 400),
        (b"GET /v2/\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400),
        (b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: " + b"9" * 20 + b"\r\n\r\n", 400),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else value,
)
def test_what_is_no_proper_request_is_refused_and_others_are_served(local, data, expected):
    received = local.raw(data)
    assert status(received) in (expected, None), received
    alive(local)


def test_random_bytes_do_no_harm(local):
    generator = random.Random(1)
    for _ in range(50):
        received = local.raw(generator.randbytes(generator.randrange(1, 2000)) + b"\r\n\r\n")
        assert status(received) in (400, None), received
    alive(local)


def test_an_old_client_without_keep_alive_is_served(local):
    received = local.raw(b"GET /v2/ HTTP/1.0\r\n\r\n")
    assert status(received) == 200
    assert received.endswith(b"\r\n\r\n{}")


PUT = b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /v2/smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_two_requests_may_come_at_once(local):
    received = local.raw(PUT + b"Content-Length: 0\r\n\r\n" + SMUGGLED)
    assert received.count(b"HTTP/1.1 ") == 2, received


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
        (b"Content-Length: 0\r\nContent-Length: 5\r\n", b""),
        (b"Content-Length: 5\r\nContent-Length: 0\r\n", b""),
        (b"Content-Length: 0, 5\r\n", b""),
        (b"Content-Length: +0\r\n", b""),
        (b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"0x0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"fffffffffffffffff\r\n"),
    ],
    ids=repr,
)
def test_a_request_of_two_meanings_ends_its_connection(local, framing, body):
    """RFC 9112, 6.1: what follows on the connection could be a part of the body to somebody in between."""
    received = local.raw(PUT + framing + b"\r\n" + body + SMUGGLED)
    assert received.count(b"HTTP/1.1 ") <= 1, received
    assert status(received) in (400, None), received
    alive(local)


def test_headers_that_come_too_slowly_are_cut_off(start):
    client = Client(start("filesystem", DVCR_HEADER_TIMEOUT="1").host)
    for beginning in [b"GET /v2/ HTTP/1.1\r\nX: ", b"P", b"PRI * HTTP/2.0\r\n\r\n"]:
        with client.connect() as connection, contextlib.suppress(ConnectionError):
            connection.settimeout(0.2)
            connection.sendall(beginning)
            for _ in range(50):
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1000):
                        break
                connection.sendall(b"y")
            else:
                pytest.fail(f"{beginning!r} went on for ten seconds")
    alive(client)


@pytest.mark.parametrize("beginning", [b"", b"GET", b"P", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_never_sends_a_request_is_cut_off(start, beginning):
    client = Client(start("filesystem", DVCR_HEADER_TIMEOUT="1").host)
    with client.connect() as connection:
        connection.sendall(beginning)
        assert closed(connection)


def test_a_client_that_sends_no_second_request_is_cut_off(start):
    client = Client(start("filesystem", DVCR_HEADER_TIMEOUT="1").host)
    with client.connect() as connection:
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert closed(connection)


def test_a_slow_body_may_take_longer_than_headers_and_silence(start):
    """The limits are on silence, not on the whole."""
    client = Client(start("filesystem", DVCR_HEADER_TIMEOUT="1", DVCR_IDLE_TIMEOUT="1").host)
    location, data = client.begin(NAME), b"0123456789"

    def slowly():
        for byte in data:
            time.sleep(0.3)
            yield bytes([byte])

    assert client.send("PATCH", location, slowly(), chunked=True).status == 202
    assert client.finish(location, digest_of(data)).status == 201


def test_a_client_that_falls_silent_in_a_body_is_cut_off_and_may_resume(start, backend):
    client = Client(start(backend, DVCR_IDLE_TIMEOUT="1").host)
    location, data = client.begin(NAME), os.urandom(100_000)
    with client.connect() as connection:
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head.encode() + data[:40_000])
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"
        assert closed(connection)
    assert client.get(location).headers["Range"] == "0-39999"
    assert client.patch(location, data[40_000:], 40_000).status == 202
    assert client.finish(location, digest_of(data)).status == 201
    assert client.get(f"/v2/{NAME}/blobs/{digest_of(data)}").body == data


def test_a_client_that_falls_silent_in_a_manifest_is_cut_off(start):
    client = Client(start("filesystem", DVCR_IDLE_TIMEOUT="1").host)
    with client.connect() as connection:
        connection.sendall(PUT + b"Content-Length: 1000\r\n\r\n" + PLAIN)
        assert status(connection.recv(65536)) == 408
        assert closed(connection)
    assert client.get("/v2/a/manifests/v1").status == 404


def test_a_client_that_does_not_read_is_cut_off(start):
    server = start("filesystem", DVCR_IDLE_TIMEOUT="1")
    client = Client(server.host)
    path = f"/v2/{NAME}/blobs/{client.push_blob(NAME, bytes(32 << 20))}"
    with client.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        [line] = eventually(lambda: [line for line in server.log.open() if f'"{path}"' in line])
    assert "broken_off=true" in line
    alive(client)


def test_many_idle_connections_do_not_keep_others_from_being_served(local):
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(local.connect())
            connection.sendall([b"", b"GET /v2/ HTTP/1.1\r\n"][number % 2])
        local.push_image(NAME, "v1")
        assert local.get(f"/v2/{NAME}/manifests/v1").status == 200


def test_random_requests_never_fail_the_server(start, backend):
    client = Client(start(backend, DVCR_IDLE_TIMEOUT="1").host)
    layer = os.urandom(1000)
    image = client.push_image(NAME, "v1", layer)
    session = client.begin(NAME).rsplit("/", 1)[1]
    generator = random.Random(20240601)
    pick = generator.choice
    digests = [DIGEST, image, digest_of(layer), digest_of(PLAIN), digest_of(PLAIN, "sha512"), "sha256:0"]
    pieces = [
        *"v2 . .. %2e%2e %00 %ff A a v1 blobs uploads manifests tags list referrers _catalog".split(),
        *["", NAME, NAME, "tags/list", session, *digests],
    ]
    keys = ["digest", "mount", "from", "n", "last", "artifactType", "tag", "digest-algorithm", "%00", "ns"]
    values = ["", "0", "1", "-1", "x", "%ff", "%", "sha512", NAME, "application/x", *digests]
    headers = {
        "Content-Type": [INDEX, "text/html", "", "a/b/c", "\xff"],
        "Content-Range": ["0-4", "5-9", "bytes 0-4/5", "9-0", "0-18446744073709551615", "x"],
        "Range": ["bytes=0-4", "bytes=-5", "bytes=5-", "bytes=9-0", "bytes=x", "bytes=0-1,3-4", "x=1"],
        "If-None-Match": ["*", f'"{image}"', "x", "\xff"],
        "If-Range": [f'"{image}"', "x"],
        "Accept": ["*/*", "x", ""],
        "Accept-Encoding": ["gzip", "zstd", "x"],
        "Authorization": ["Basic x", "Bearer x", "x"],
    }
    bodies = [None, b"", PLAIN, layer, b"{", b"null", os.urandom(100), PLAIN[:-1], bytes(70_000)]
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"]
    shapes = [
        lambda: f"/v2/{NAME}/manifests/{pick(pieces)}",
        lambda: f"/v2/{NAME}/blobs/{pick(digests)}",
        lambda: f"/v2/{NAME}/blobs/uploads/{pick(['', session, pick(pieces)])}",
        lambda: f"/v2/{NAME}/{pick(['tags/list', f'referrers/{pick(digests)}'])}",
        lambda: "/" + "/".join(generator.choices(pieces, k=generator.randrange(6))),
        lambda: "/v2/" + "/".join(generator.choices(pieces, k=generator.randrange(6))),
    ]
    for _ in range(300):
        method, path = pick(methods), pick(shapes)()
        query = [f"{pick(keys)}={pick(values)}" for _ in range(generator.randrange(3))]
        target = path + ("?" + "&".join(query) if query else "")
        sent = {key: pick(headers[key]) for key in generator.sample(sorted(headers), generator.randrange(4))}
        body, chunked = pick(bodies), generator.random() < 0.2
        if chunked:
            body, sent["Transfer-Encoding"] = iter([body or b""]), "chunked"
        # An answer to a body that nobody reads may be lost; test_blobs_and_uploads has that rule.
        with contextlib.suppress(ConnectionError):
            answer = client.send(method, target, body, sent, chunked=chunked, timeout=20)
            assert 200 <= answer.status < 500, (method, target, sent, answer)
            if answer.status >= 400 and method != "HEAD":
                assert answer.codes(), (method, target, sent, answer)
    alive(client)


def test_what_is_kept_for_uploaded_files_takes_no_pushes(client):
    file = f"uploads/{uuid.uuid4()}"
    for method, path in [("POST", "blobs/uploads/"), ("PUT", "manifests/file"), ("DELETE", "manifests/file")]:
        answer = client.send(method, f"/v2/{file}/{path}", b"{}")
        assert answer.status == 403 and answer.codes() == ["DENIED"], answer
        assert file in answer.json()["errors"][0]["message"]
    assert client.send("POST", "/v2/uploads/mine/blobs/uploads/").status == 202
