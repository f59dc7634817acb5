"""Who sends too much, and who that is behind a proxy; floods of requests, of headers, of streams."""

import contextlib
import itertools
import json
import os
import struct
import threading
import time

import pytest

from conftest import s3_storage
from disk import build_disk_image
from store_proxy import StoreProxy
from test_auth import User, guarded, users  # noqa: F401
from test_http import curl, log
from test_metrics import scraped, total
from virtual_images import Embedded, from_object, from_web, virtual_image
from wire import Client, at_once, digest_of, eventually

NAME = "disks/ubuntu"


def flood(client, path="/v2/", most=400, **headers):
    """Sends requests until one is refused, and gives that answer."""
    for _ in range(most):
        answer = client.get(path, **headers)
        if answer.status == 429:
            return answer
    raise AssertionError(f"{most} requests were answered")


def limited(start, **limits):
    settings = {f"DVCR_LIMITS_{key.upper()}": str(value) for key, value in limits.items()}
    return start("filesystem", DVCR_LOG_FORMAT="json", **settings)


def test_by_default_nothing_is_limited(local):
    answers = at_once([lambda: local.get("/v2/") for _ in range(40)] * 5)
    assert {answer.status for answer in answers} == {200}


def test_who_sends_too_many_requests_is_told_when_to_come_back(start):
    server = limited(start, requests_per_second=1, burst=3)
    client = Client(server.host)
    answer = flood(client)
    assert answer.codes() == ["TOOMANYREQUESTS"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 3
    # Those who watch over the server see it all the while, and what it does.
    for path in ["/livez", "/readyz", "/metrics"]:
        assert {client.get(path).status for _ in range(10)} == {200}
    refused = eventually(lambda: total(scraped(server.host), "dvcr_limited_requests_total", 'limit="rate"'))
    assert refused >= 1
    # What was refused does not count: who waits gets in, however often it was asked meanwhile.
    eventually(lambda: client.get("/v2/").status == 200, seconds=60)
    # The log tells of it, and is not flooded.
    for _ in range(50):
        flood(client)
    told = [line for line in log(server) if line.get("message") == "requests over a limit are refused"]
    assert told and told[0]["limit"] == "rate" and told[0]["client"] == "127.0.0.1"
    assert len(told) < 25
    assert not [line for line in log(server) if line.get("status") == 429]


def test_the_kubernetes_side_is_answered_in_its_own_words(start):
    server = limited(start, requests_per_second=1, burst=3)
    answer = flood(Client(server.host), "/api/v1/namespaces")
    status = json.loads(answer.body)
    assert (status["kind"], status["reason"], status["code"]) == ("Status", "TooManyRequests", 429)
    assert int(answer.headers["Retry-After"]) >= 1


def slow_push(client, name=NAME):
    """A push whose body has begun and does not end."""
    connection = client.connect()
    path = f"/v2/{name}/blobs/uploads/?digest={digest_of(b'never')}"
    headers = "Host: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n"
    connection.sendall(f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode() + b"x" * 1000)
    return connection


def test_bodies_that_take_long_count_as_long_as_they_take(start):
    server = limited(start, concurrent_requests=3)
    client = Client(server.host)
    with contextlib.ExitStack() as slow:
        first, *_ = [slow.enter_context(slow_push(client)) for _ in range(3)]
        answer = eventually(lambda: (answer := client.get("/v2/")).status == 429 and answer)
        assert answer.codes() == ["TOOMANYREQUESTS"] and int(answer.headers["Retry-After"]) >= 1
        # Who sends a body hears it too, and not a connection that breaks.
        body = os.urandom(1 << 20)
        answer = client.send("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(body)}", body)
        assert answer.status == 429, answer
        assert client.get("/livez").status == 200
        assert total(scraped(server.host), "dvcr_limited_requests_total", 'limit="concurrency"') >= 2
        first.close()
        eventually(lambda: client.get("/v2/").status == 200)
    eventually(lambda: client.push_blob(NAME, body))


def test_downloads_that_nobody_takes_count_too(start):
    server = limited(start, concurrent_requests=2)
    client = Client(server.host)
    data = os.urandom(12 << 20)
    digest = client.push_blob(NAME, data)
    with contextlib.ExitStack() as slow:
        for _ in range(2):
            connection = slow.enter_context(client.connect())
            connection.sendall(f"GET /v2/{NAME}/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert eventually(lambda: client.get("/v2/").status == 429)
    eventually(lambda: client.get("/v2/").status == 200)


def test_users_have_limits_of_their_own_wherever_they_come_from(guarded):  # noqa: F811
    server = guarded(DVCR_LIMITS_REQUESTS_PER_SECOND="1", DVCR_LIMITS_BURST="5")
    flood(User(server, "alice"))
    assert User(server, "bob").get("/v2/").status == 200
    # Strangers are their address, and are refused in place of being told how to get in.
    assert flood(User(server)).codes() == ["TOOMANYREQUESTS"]
    assert User(server, "bob").get("/v2/").status == 200


def test_clients_behind_a_trusted_proxy_are_told_apart(start):
    server = start(
        "filesystem",
        DVCR_LOG_FORMAT="json",
        DVCR_TRUSTED_PROXIES="127.0.0.0/8, 10.0.0.0/8",
        DVCR_LIMITS_REQUESTS_PER_SECOND="1",
        DVCR_LIMITS_BURST="5",
    )
    client = Client(server.host)
    flood(client, X_Forwarded_For="192.0.2.7")
    # What a client says itself, left of what a proxy has seen, changes nothing.
    forged = [f"192.0.2.{number}, 192.0.2.7, 10.1.1.1" for number in range(100, 108)]
    assert 429 in [client.get("/v2/", X_Forwarded_For=hops).status for hops in forged]
    assert client.get("/v2/", X_Forwarded_For="192.0.2.8").status == 200
    assert client.get("/v2/").status == 200
    for garbage in ["", ",", "unknown", "[::1", "x" * 2000, "1.1.1.1;2.2.2.2", "é".encode().decode("latin-1")]:
        assert client.get("/nothing", X_Forwarded_For=garbage).status in (404, 429)
    clients = eventually(lambda: {line["client"] for line in log(server) if line.get("path") == "/v2/"})
    assert {"192.0.2.7", "192.0.2.8"} <= clients


def test_nobody_else_chooses_an_address(start):
    server = start(
        "filesystem",
        DVCR_LOG_FORMAT="json",
        DVCR_TRUSTED_PROXIES="10.0.0.0/8",
        DVCR_LIMITS_REQUESTS_PER_SECOND="1",
        DVCR_LIMITS_BURST="5",
    )
    client = Client(server.host)
    answers = [client.get("/v2/", X_Forwarded_For=f"192.0.2.{number}").status for number in range(200)]
    assert 429 in answers
    lines = eventually(lambda: [line for line in log(server) if line.get("path") == "/v2/"])
    assert all(line["client"].startswith("127.0.0.1:") for line in lines)


def test_guesses_behind_a_trusted_proxy_hold_up_their_own_client(guarded, tmp_path):  # noqa: F811
    audit = tmp_path / "audit.log"
    server = guarded(DVCR_TRUSTED_PROXIES="127.0.0.1", DVCR_AUDIT_LOG=str(audit))

    def guess(user, address):
        return User(server, user, "wrong").get("/v2/", X_Forwarded_For=address).status

    statuses = [guess(f"user{number}", "192.0.2.7") for number in range(60)]
    assert statuses[:10] == [401] * 10 and 429 in statuses
    assert guess("somebody", "192.0.2.8") == 401
    assert User(server, "alice").get("/v2/", X_Forwarded_For="192.0.2.8").status == 200
    User(server, "alice").get("/v2/vi/team-a/disk/manifests/v1", X_Forwarded_For="192.0.2.8")
    events = eventually(lambda: [json.loads(line) for line in audit.read_text().splitlines()])
    assert events[-1]["client"] == "192.0.2.8" and events[-1]["user"] == "alice"


def test_too_many_or_too_large_headers_are_refused(local):
    def status(*headers, line="GET /v2/ HTTP/1.1"):
        lines = [line, "Host: x", *headers, "", ""]
        return local.raw("\r\n".join(lines).encode())[:12]

    assert status(*[f"x-{number}: 1" for number in range(80)], "connection: close") == b"HTTP/1.1 200"
    assert status(*[f"x-{number}: 1" for number in range(1000)]) == b"HTTP/1.1 431"
    assert status("x: " + "y" * (1 << 20)) == b"HTTP/1.1 431"
    assert status(line="GET /v2/" + "y" * 100_000 + " HTTP/1.1") in (b"HTTP/1.1 414", b"HTTP/1.1 431")
    for bad in ["no colon", "x y: 1", "x: a\0b", " folded: 1"]:
        assert status(bad) == b"HTTP/1.1 400", bad
    url = f"http://{local.host}/v2/"
    assert curl("-o", "/dev/null", "-H", f"x: {'y' * 8000}", url) == "2 200"
    many = itertools.chain.from_iterable(["-H", f"x-{number}: {'y' * 200}"] for number in range(120))
    assert curl("-o", "/dev/null", *many, url) == "2 431"
    assert local.get("/v2/").status == 200


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_HEADERS, END_STREAM, ACK = 4, 1, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)

# GET, http, /v2/ and an authority, the first two of them by their numbers in the table of HPACK.
REQUEST = b"\x82\x86" + b"\x04\x04/v2/" + b"\x01\x01x"
# A header of 4000 bytes, that many in HPACK's numbers: 127, and 3873 in groups of seven bits.
LITERAL = b"\x00\x01x\x7f\xa1\x1e" + b"y" * 4000


def sent_until_refused(connection, pieces, most=64 << 20):
    """How many bytes a server takes until it closes the connection."""
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
            if sent >= most:
                break
    return sent


@pytest.mark.parametrize("version", ["1", "2"])
def test_headers_without_end_are_cut_off_and_take_no_memory(start, version):
    server = start("filesystem")
    client = Client(server.host)
    with client.connect() as connection:
        if version == "1":
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n")
            endless = (f"x{number}: {'y' * 4000}\r\n".encode() for number in itertools.count())
        else:
            connection.sendall(PREFACE + frame(HEADERS, 0, 1, REQUEST))
            endless = itertools.repeat(frame(CONTINUATION, 0, 1, LITERAL * 4))
        assert sent_until_refused(connection, endless) < 32 << 20
    assert client.get("/v2/").status == 200
    assert server.peak_memory() < 128


def test_streams_that_are_opened_and_reset_at_once_do_not_take_the_server_down(start):
    server = start("filesystem")
    client = Client(server.host)
    with client.connect() as connection:
        connection.sendall(PREFACE)
        resets = (
            frame(HEADERS, END_HEADERS | END_STREAM, stream, REQUEST) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            for stream in range(1, 100_000, 2)
        )
        sent_until_refused(connection, resets)
    assert client.get("/v2/").status == 200
    assert server.peak_memory() < 128


def opening(stream, method, path, body=b""):
    """The frames of a whole request; the numbers of methods are those in the table of HPACK."""
    path = path.encode()
    block = {"GET": b"\x82", "POST": b"\x83"}[method] + b"\x86" + b"\x04" + bytes([len(path)]) + path + b"\x01\x01x"
    assert len(path) < 127
    if not body:
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)


CANCEL = struct.pack(">I", 8)


@pytest.fixture
def standing_store(start, opened):
    """Starts a server over a bucket, and says whether that goes on or stands still."""
    store = opened(StoreProxy(os.environ["CONFORMANCE_S3_ENDPOINT"]))
    going = threading.Event()
    going.set()
    store.fault = lambda method, path: going.wait(60) and None
    arguments, environment = s3_storage()
    arguments[3] = store.endpoint
    yield lambda **settings: start("s3", (arguments, environment), **settings), going
    going.set()


def test_what_a_reset_stream_has_begun_counts_until_it_has_ended(standing_store):
    starting, going = standing_store
    server = starting(DVCR_LIMITS_CONCURRENT_REQUESTS="3", DVCR_COLLECT_INTERVAL="0", DVCR_VERIFY_INTERVAL="0", DVCR_LOG_FORMAT="json")
    client = Client(server.host)
    eventually(lambda: client.get("/v2/").status == 200)
    data = [os.urandom(100) for _ in range(3)]
    paths = [f"/v2/{NAME}/blobs/uploads/?digest={digest_of(blob)}" for blob in data]
    going.clear()
    with client.connect() as connection:
        connection.sendall(PREFACE)
        for stream, path, blob in zip((1, 3, 5), paths, data, strict=True):
            connection.sendall(opening(stream, "POST", path, blob))
        uploads = 'route="uploads"'
        eventually(lambda: total(scraped(server.host), "dvcr_http_received_bytes_total", uploads) == 300)
        for stream in (1, 3, 5):
            connection.sendall(frame(RST_STREAM, 0, stream, CANCEL))
        # Nobody waits for the answers any more ...
        eventually(lambda: total(scraped(server.host), "dvcr_http_requests_total", 'status="499"') == 3)
    # ... and what was begun goes on, over another connection as over this one.
    for _ in range(5):
        assert client.get("/v2/").status == 429
    assert [line["broken_off"] for line in log(server) if line.get("status") == 499] == [True] * 3
    going.set()
    eventually(lambda: client.get("/v2/").status == 200, seconds=60)
    for blob in data:
        eventually(lambda blob=blob: client.head(f"/v2/{NAME}/blobs/{digest_of(blob)}").status == 200, seconds=60)


def set_initial_window(size):
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, size))


def frames(connection):
    """Frames as they come, and pings answered, until the other side closes."""
    received = b""
    while True:
        while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3], "big"):
            try:
                piece = connection.recv(1 << 16)
            except (ConnectionError, TimeoutError):
                piece = b""
            if not piece:
                return
            received += piece
        length, kind, flags = int.from_bytes(received[:3], "big"), received[3], received[4]
        stream, payload = int.from_bytes(received[5:9], "big"), received[9 : 9 + length]
        received = received[9 + length :]
        if kind == PING and not flags & ACK:
            connection.sendall(frame(PING, ACK, 0, payload))
        yield kind, stream, payload


def broken_off(server):
    return [line for line in log(server) if line.get("broken_off") and line.get("status") == 200]


@pytest.mark.parametrize("window", [0, 1], ids=["no-window", "a-byte"])
def test_answers_that_no_stream_takes_are_given_up_and_the_connection_with_them(start, window):
    limits = {"DVCR_LIMITS_CONCURRENT_REQUESTS": "3"}
    server = start("filesystem", DVCR_IDLE_TIMEOUT="1", DVCR_LOG_FORMAT="json", **limits)
    client = Client(server.host)
    digest = client.push_blob(NAME, os.urandom(4 << 20))
    with client.connect(timeout=60) as connection:
        connection.sendall(set_initial_window(window))
        for stream in (1, 3, 5):
            connection.sendall(opening(stream, "GET", f"/v2/{NAME}/blobs/{digest}"))
        # They have no more of the client's places than of memory, and end when nothing moves, whatever else is said.
        list(frames(connection))
    eventually(lambda: len(broken_off(server)) == 3)
    assert client.get("/v2/").status == 200


def test_an_answer_that_nobody_takes_disturbs_no_other_stream(start):
    server = start("filesystem", DVCR_IDLE_TIMEOUT="3", DVCR_LOG_FORMAT="json")
    client = Client(server.host)
    digest = client.push_blob(NAME, os.urandom(4 << 20))
    small = client.push_blob(NAME, b"small")
    slow = b"y" * 500
    with client.connect(timeout=60) as connection:
        connection.sendall(set_initial_window(0))
        path = f"/v2/{NAME}/blobs/uploads/?digest={digest_of(slow)}".encode()
        block = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x01\x01x"
        connection.sendall(frame(HEADERS, END_HEADERS, 1, block))
        connection.sendall(opening(3, "GET", f"/v2/{NAME}/blobs/{digest}"))
        # Somebody who sends a little all the while, on the same connection.
        for number in range(len(slow)):
            connection.sendall(frame(DATA, 0, 1, slow[number : number + 1]))
            if broken_off(server):
                break
            time.sleep(0.1)
        assert len(broken_off(server)) == 1
        connection.sendall(frame(DATA, END_STREAM, 1, slow[number + 1 :]))
        eventually(lambda: client.head(f"/v2/{NAME}/blobs/{digest_of(slow)}").status == 200)
        # Who comes back to it hears that it is over, and everything else goes on.
        room = struct.pack(">I", 1 << 20)
        connection.sendall(frame(WINDOW_UPDATE, 0, 3, room))
        connection.sendall(opening(5, "GET", f"/v2/{NAME}/blobs/{small}") + frame(WINDOW_UPDATE, 0, 5, room))
        is_reset, came = False, b""
        for kind, stream, payload in frames(connection):
            is_reset = is_reset or (kind, stream) == (RST_STREAM, 3)
            came += payload if (kind, stream) == (DATA, 5) else b""
            if is_reset and came:
                break
        assert is_reset and came == b"small"


def test_who_takes_an_answer_slowly_gets_all_of_it(start):
    server = start("filesystem", DVCR_IDLE_TIMEOUT="2", DVCR_LOG_FORMAT="json")
    client, data = Client(server.host), os.urandom(300_000)
    digest = client.push_blob(NAME, data)
    came = b""
    with client.connect(timeout=60) as connection:
        connection.sendall(set_initial_window(0) + opening(1, "GET", f"/v2/{NAME}/blobs/{digest}"))
        connection.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
        connection.sendall(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 30_000)))
        for kind, _, payload in frames(connection):
            if kind == DATA:
                came += payload
                if len(came) == len(data):
                    break
                if len(came) % 30_000 == 0:
                    time.sleep(0.4)
                    connection.sendall(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 30_000)))
    assert came == data and not broken_off(server)


@pytest.mark.slow
def test_docker_works_within_sane_limits_and_is_told_when_it_is_over_them(docker, start, tmp_path):
    generous, strict = limited(start, requests_per_second=20, concurrent_requests=32), limited(start, requests_per_second=1, burst=3)
    reference = f"{generous.host}/disks/limited:v1"
    build_disk_image(docker, tmp_path / "build", reference, 16)
    docker.run("push", reference)
    docker.run("image", "rm", reference)
    docker.run("pull", reference)
    refused = f"{strict.host}/disks/limited:v1"
    docker.run("tag", reference, refused)
    pushed = docker.run("push", refused, check=False)
    # Its own words for an answer to HEAD, which has no body.
    said = (pushed.stdout + pushed.stderr).lower()
    assert pushed.returncode != 0 and ("too many requests" in said or "http 429" in said), pushed


@pytest.fixture
def quota(start, tmp_path):
    """A registry in which the images of a team may have 20 MB and three tags."""
    file = tmp_path / "quotas.toml"
    file.write_text("[[quotas]]\nrepositories = ['vi/team-a/**']\nbytes = 20000000\ntags = 3\n")
    return start("filesystem", DVCR_CONFIG=str(file))


def test_what_is_more_than_a_quota_allows_is_refused_before_it_is_sent(quota):
    client = Client(quota.host)
    client.push_image("vi/team-a/x", "v1", os.urandom(12 << 20))
    with client.connect() as connection:
        path = f"/v2/vi/team-a/y/blobs/uploads/?digest={digest_of(b'never')}"
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {100 << 30}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 403"
    answer = client.finish(client.begin("vi/team-a/y"), digest_of(b"x"), os.urandom(9 << 20))
    assert answer.status == 403 and answer.codes() == ["DENIED"], answer
    detail = answer.json()["errors"][0]["detail"]
    assert detail["quota"] == "vi/team-a/**" and detail["limit"] == 20_000_000 and detail["used"] > 12 << 20
    assert "vi/team-a/**" in answer.json()["errors"][0]["message"]
    assert client.get("/v2/vi/team-a/x/manifests/v1").status == 200
    client.push_image("vi/team-b/x", "v1", os.urandom(30 << 20))
    series = scraped(quota.host)
    assert total(series, "dvcr_quota_limit_bytes", 'quota="vi/team-a/**"') == 20_000_000
    assert total(series, "dvcr_quota_used_bytes") > 12 << 20


def test_tags_are_counted_and_deleting_makes_room(quota):
    client = Client(quota.host)
    for tag in ["v1", "v2", "v3", "v1"]:
        client.push_image("vi/team-a/x", tag)
    refused = client.put_manifest("vi/team-a/x", "v4", client.image("vi/team-a/x"))
    assert refused.status == 403 and refused.codes() == ["DENIED"]
    assert client.delete("/v2/vi/team-a/x/manifests/v1").status == 202
    client.push_image("vi/team-a/x", "v4")


def test_images_that_are_more_than_a_quota_allows_say_so_and_are_made_when_there_is_room(start, cache, tmp_path, web, images):
    file = tmp_path / "quotas.toml"
    file.write_text("[[quotas]]\nrepositories = ['vi/small/**']\nbytes = 1000\n")
    world = Embedded(start("filesystem", DVCR_CONFIG=str(file)), cache, tmp_path / "kubectl")
    source = from_web(web.add("/disk.qcow2", images.image("qcow2").read_bytes()))
    world.kubectl("create", "namespace", "small")
    world.ready(virtual_image("base", source, "cvi"))
    world.apply(virtual_image("imported", source, namespace="small"))
    world.apply(virtual_image("cloned", from_object("ClusterVirtualImage", "base"), namespace="small"))
    for name in ["imported", "cloned"]:
        said = world.wait_condition("vi", name, "Ready", "ProvisioningFailed", namespace="small")
        assert "the quota of vi/small/** allows 1000 bytes" in said["message"], said
        assert "DataSourceSyncFailed" in eventually(lambda name=name: world.events(name, "small")), name
    file.write_text("")
    world.restart()
    for name in ["imported", "cloned"]:
        world.wait_phase("vi", name, "Ready", timeout=120, namespace="small")


@pytest.mark.slow
def test_docker_shows_what_a_quota_says(docker, quota, tmp_path):
    reference = f"{quota.host}/vi/team-a/large:v1"
    build_disk_image(docker, tmp_path / "build", reference, 64)
    pushed = docker.run("push", reference, check=False)
    assert pushed.returncode != 0 and "the quota of vi/team-a/** allows 20000000 bytes" in pushed.stdout + pushed.stderr, pushed
