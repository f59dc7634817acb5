"""What monitoring sees: metrics, health, names of requests, audit events, and logs that cannot be forged."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from urllib.parse import urlsplit

import pytest

from conftest import s3_storage
from dvcr import BINARY, free_port
from layers import tar
from test_auth import User, htpasswd
from test_http import client, log, server  # noqa: F401
from virtual_images import Embedded, SlowWeb, from_user, from_web, virtual_image
from wire import Client, digest_of, encode, eventually

NAME = "disks/ubuntu"


def scraped(host):
    """Every series and its value."""
    answer = Client(host).get("/metrics")
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    lines = answer.body.decode().splitlines()
    assert lines[-1] == "# EOF"
    series = [line for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in series)}


def total(series, name, *labels):
    """The sum of a metric over the series that have these labels."""
    return sum(
        value
        for key, value in series.items()
        if key.split("{")[0] == name and all(label in key for label in labels)
    )


def test_what_happens_is_counted(server, client):
    client.push_image(NAME, "v1", os.urandom(3 << 20))
    client.get(f"/v2/{NAME}/manifests/v1")
    client.get("/v2/../../etc/passwd")
    client.send("BREW", "/v2/")
    client.delete(client.begin(NAME))
    series = eventually(lambda: (found := scraped(server.host)) and total(found, "dvcr_uploads_total", 'event="cancelled"') and found)
    assert total(series, "dvcr_http_requests_total", 'route="manifest"', 'method="PUT"', 'status="201"') == 1
    assert total(series, "dvcr_http_requests_total", 'route="manifest"', 'method="GET"', 'status="200"') == 1
    assert total(series, "dvcr_http_requests_total", 'method="other"') == 1
    assert total(series, "dvcr_http_received_bytes_total") > 3 << 20
    assert total(series, "dvcr_uploads_total", 'event="begun"') == 3
    assert total(series, "dvcr_uploads_total", 'event="finished"') == 2
    assert total(series, "dvcr_dedup_bytes_total", 'result="new"') > 2 << 20
    assert total(series, "dvcr_store_calls_total", 'operation="put"', 'outcome="done"') > 0
    assert total(series, "dvcr_store_call_duration_seconds_count") > 0
    # This one is.
    assert series["dvcr_http_requests_in_flight"] == 1
    assert series["process_resident_memory_bytes"] > 1 << 20
    assert any(key.startswith("dvcr_build_info{") for key in series)


def test_what_is_known_already_is_counted_as_such(server, client):
    data = os.urandom(3 << 20)
    client.push_blob("a/b", data)
    before = scraped(server.host)
    # Another blob with the same bytes in it, behind a block that differs.
    client.push_blob("a/c", os.urandom(4096) + data)
    after = scraped(server.host)
    known = total(after, "dvcr_dedup_bytes_total", 'result="known"') - total(before, "dvcr_dedup_bytes_total", 'result="known"')
    assert known > 2 << 20


def test_no_name_of_a_client_becomes_a_label(server, client):
    for number in range(30):
        client.get(f"/v2/secret{number}/manifests/tag{number}")
        client.get(f"/path{number}/x")
    assert "secret" not in str(scraped(server.host)) and "path1" not in str(scraped(server.host))


def test_collections_are_counted(server, client):
    assert client.send("POST", "/v2/_dvcr/storage/collect?dryRun=true").status == 200
    assert total(scraped(server.host), "dvcr_collection_runs_total") == 0
    assert client.send("POST", "/v2/_dvcr/storage/collect").status == 200
    series = scraped(server.host)
    assert total(series, "dvcr_collection_runs_total", 'outcome="done"') == 1
    assert series["dvcr_collection_last_success_timestamp_seconds"] > time.time() - 60


def test_images_are_counted_by_phase(server, cache, web, images, tmp_path):
    world = Embedded(server, cache, tmp_path / "kubectl")
    world.ready(virtual_image("noble", from_web(web.add("/disk.img", images.image("qcow2").read_bytes()))))

    def count():
        return total(scraped(server.host), "dvcr_images", 'kind="VirtualImage"', 'phase="Ready"') == 1

    eventually(count)
    world.delete("vi", "noble")
    eventually(lambda: not count())


def imports_are_counted(world, host, slow, data):
    """What is told of an import that stalls, of one that is not wanted any more, and of those that fail."""

    def ends(outcome, reason):
        return scraped(host)[f'dvcr_imports_total{{outcome="{outcome}",reason="{reason}"}}']

    def running():
        return scraped(host)['dvcr_imports_in_progress{state="running"}']

    def stands_still():
        return scraped(host)['dvcr_import_standstill_seconds{state="running"}']

    # There before anything has happened.
    eventually(lambda: ends("ready", "") == 0 and ends("failed", "checksum") == 0 and running() == 0)
    assert stands_still() == 0
    # The source says nothing more.
    source = slow.add("/stalls", data)
    world.apply(virtual_image("stalls", from_web(source)))
    eventually(lambda: running() == 1 and stands_still() > 2, seconds=60)
    slow.speed = None
    world.wait_phase("vi", "stalls", "Ready")
    eventually(lambda: ends("ready", "") == 1 and running() == 0)
    series = scraped(host)
    assert series["dvcr_import_read_bytes_total"] == len(data)
    assert series["dvcr_import_duration_seconds_count"] == 1
    assert series["dvcr_import_duration_seconds_sum"] > 0
    assert stands_still() == 0
    # It is not what it should be, so that another try would not help.
    world.apply(virtual_image("wrong", from_web(source, checksum={"md5": "0" * 32})))
    world.wait_phase("vi", "wrong", "Failed")
    eventually(lambda: ends("failed", "checksum") == 1)
    # It is not there, and may come.
    world.apply(virtual_image("missing", from_web(source + "-not")))
    eventually(lambda: ends("retried", "source") > 0, seconds=60)
    assert total(scraped(host), "dvcr_imports_in_progress") == 1
    before = ends("cancelled", "")
    world.delete("vi", "missing")
    eventually(lambda: total(scraped(host), "dvcr_imports_in_progress") == 0)
    assert ends("cancelled", "") == before + 1
    assert "stalls" not in str(scraped(host))


def test_imports_are_counted(server, cache, opened, images, tmp_path):
    world = Embedded(server, cache, tmp_path / "kubectl")
    imports_are_counted(world, server.host, opened(SlowWeb()), images.disk().read_bytes())


def test_metrics_are_not_for_everybody(outside, tmp_path):
    # Without an address of their own they are served on loopback alone.
    host = f"{outside}:{free_port()}"
    command = [BINARY, "serve", "--without-auth", "--listen", host, "--data", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            client = Client(host)

            def lives():
                with contextlib.suppress(ConnectionError):
                    return client.get("/livez").status == 200

            eventually(lives, 30)
            assert client.get("/metrics").status == 404
        finally:
            server.kill()


def test_metrics_have_an_address_of_their_own(start):
    port = free_port()
    server = start("filesystem", DVCR_METRICS_LISTEN=f"127.0.0.1:{port}")
    beside = f"127.0.0.1:{port}"
    assert Client(server.host).get("/metrics").status == 404
    assert total(scraped(beside), "dvcr_http_requests_total") == 1
    for path in ["/livez", "/readyz"]:
        assert Client(beside).get(path).status == 200
    # And nothing else is there.
    assert Client(beside).get("/v2/").status == 404


def test_a_server_that_stops_is_not_ready(start):
    port = free_port()
    server = start("filesystem", DVCR_METRICS_LISTEN=f"127.0.0.1:{port}")
    client, data = Client(server.host), os.urandom(1 << 20)
    location = client.begin(NAME)
    push = http.client.HTTPConnection(server.host, timeout=60)
    push.putrequest("PUT", f"{location}?digest={digest_of(data)}")
    push.putheader("Content-Length", str(len(data)))
    push.endheaders()
    push.send(data[:1000])
    time.sleep(0.2)
    server.process.send_signal(signal.SIGTERM)
    beside = Client(f"127.0.0.1:{port}")
    answer = eventually(lambda: (answer := beside.get("/readyz")).status == 503 and answer)
    assert b"stopping" in answer.body
    assert beside.get("/livez").status == 200
    push.send(data[1000:])
    assert push.getresponse().status == 201
    push.close()
    assert server.process.wait(30) == 0


def test_a_store_that_stands_still_is_not_ready(start, opened):
    silent = opened(Silent())
    arguments, environment = s3_storage()
    silent.upstream = arguments[arguments.index("--s3-endpoint") + 1].removeprefix("http://")
    arguments[arguments.index("--s3-endpoint") + 1] = f"http://{silent.host}"
    server = start("s3", (arguments, environment))
    client = Client(server.host)
    eventually(lambda: client.get("/readyz").status == 200)
    assert total(scraped(server.host), "dvcr_store_requests_total", 'answer="done"') > 0
    silent.stalled = True
    answer = eventually(lambda: (answer := client.get("/readyz")).status == 503 and answer, 30)
    assert b"storage" in answer.body
    # The next ones do not wait for longer, and the process lives.
    assert client.send("GET", "/readyz", timeout=10).status == 503
    assert client.get("/livez").status == 200
    silent.stalled = False
    eventually(lambda: client.get("/readyz").status == 200, 60)


class Silent:
    """A wire to a server, on which nothing moves when it is told so."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.upstream, self.stalled = None, False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                name, port = self.upstream.split(":")
                far = socket.create_connection((name, int(port)))
                for source, target in [(near, far), (far, near)]:
                    threading.Thread(target=self.pass_on, args=(source, target), daemon=True).start()

    def pass_on(self, source, target):
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                while self.stalled:
                    time.sleep(0.05)
                target.sendall(piece)
        for end in [source, target]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def stop(self):
        self.stalled = False
        self.listener.close()


def test_a_request_has_the_name_that_its_client_gives(server, client):
    answer = client.get("/v2/", X_Request_Id="build-42")
    assert answer.headers["X-Request-Id"] == "build-42"
    eventually(lambda: any(line.get("span", {}).get("id") == "build-42" for line in log(server)))


@pytest.mark.parametrize("name", ["", "a b", 'x"y', "x" * 129, "{}", "ümlaut"])
def test_a_name_that_does_not_belong_in_a_log_is_replaced(server, client, name):
    answer = client.send("GET", "/v2/", headers={"X-Request-Id": name.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-Id"]), answer


def test_requests_have_different_names(client):
    assert len({client.get("/v2/").headers["X-Request-Id"] for _ in range(10)}) == 10


HOSTILE = ["/v2/%0a%0dINFO%20forged", "/v2/a%1b[2J/manifests/x", "/%00%7f%85", "/v2/a/manifests/%E2%80%A8forged", "/?a=\x7f"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_forges_a_line_of_the_log(start, form, tmp_path):
    server = start("filesystem", DVCR_LOG_FORMAT=form, DVCR_LOG_LEVEL="debug", DVCR_AUDIT_LOG=str(tmp_path / "audit"))
    client = Client(server.host)
    for path in HOSTILE:
        client.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: a\x1b[31m\tforged\r\nConnection: close\r\n\r\n".encode("latin-1"))
    for path in HOSTILE[:4]:
        client.raw(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode("latin-1"))
    client.put_manifest("a/b", "v1", b'{"schemaVersion":2,"mediaType":"x\\nINFO forged\\u001b[2J"}', "application/x")
    client.get("/livez")
    text = eventually(lambda: "/livez" in (text := server.log.read_text()) and text)
    for line in text.splitlines():
        # A line that is forged would be one that begins as none of ours does.
        assert line.startswith("{") if form == "json" else re.match(r"\d{4}-\d\d-\d\dT", line), line
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line), line
    if form == "json":
        assert all(json.loads(line) for line in text.splitlines())


def audited(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_who_did_what_is_kept(start, tmp_path):
    path = tmp_path / "audit.log"
    server = start("filesystem", DVCR_AUDIT_LOG=str(path), DVCR_LOG_LEVEL="error")
    client = Client(server.host)
    digest = client.push_image(NAME, "v1")
    client.get(f"/v2/{NAME}/manifests/v1", X_Request_Id="pull-1")
    client.get(f"/v2/{NAME}/manifests/nothing")
    layer = client.push_blob(NAME, b"layer of a mount")
    assert client.send("POST", f"/v2/other/blobs/uploads/?mount={layer}&from={NAME}").status == 201
    client.send("POST", f"/v2/other/blobs/uploads/?mount={digest_of(b'none')}&from={NAME}")
    assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 202
    events = audited(path)
    assert [(event["action"], event["outcome"]) for event in events] == [
        ("push", "done"), ("pull", "done"), ("pull", "refused"), ("mount", "done"), ("mount", "not_mounted"),
        ("delete", "done"),
    ]  # fmt: skip
    pushed, pulled, _, mounted, _, deleted = events
    assert pushed["repository"] == NAME and pushed["reference"] == "v1" and pushed["digest"] == digest
    assert pushed["size"] == pulled["size"] > 0
    assert pulled["request_id"] == "pull-1" and pulled["client"].startswith("127.0.0.1:")
    assert mounted["repository"] == "other" and mounted["from"] == NAME and mounted["reference"] == layer
    assert deleted["reference"] == digest
    assert path.stat().st_mode & 0o077 == 0o040


def test_who_pulled_a_disk_without_its_image_is_kept(start, tmp_path, images):
    path, users = tmp_path / "audit.log", tmp_path / "users"
    htpasswd(users, {"alice": "secret", "bob": "secret"})
    config = tmp_path / "dvcr.toml"
    config.write_text('[[auth.rules]]\nusers = ["alice"]\nrepositories = ["**"]\nactions = ["pull", "push"]\n')
    environment = {"DVCR_AUTH_HTPASSWD": str(users), "DVCR_CONFIG": str(config)}
    server = start("filesystem", DVCR_AUDIT_LOG=str(path), DVCR_LOG_LEVEL="error", **environment)
    alice, bob = User(server, "alice", "secret"), User(server, "bob", "secret")
    digest = alice.push_image("disks/noble", "v1", tar(("disk/disk.img", images.disk().read_bytes())))
    known, disk = len(audited(path)), "/disks/disks/noble/v1"
    size = images.disk().stat().st_size
    assert alice.get(disk).status == 200
    assert alice.get(disk, Range="bytes=0-511").status == 206
    # All of it is given, or its beginning.
    for whole in ("bytes=1-2,3-4", "items=1-2", f"bytes=-{size}"):
        assert alice.get(disk, Range=whole).status in (200, 206)
    for answer in (alice.get(disk, Range="bytes=512-1023"), alice.get(f"{disk}?extents"), alice.send("HEAD", disk)):
        assert answer.status in (200, 206)
    assert alice.get("/disks/disks/noble/v2").status == 404
    assert bob.get(disk).status == 403
    events = audited(path)[known:]
    assert [(event["action"], event["outcome"], event["user"], event["reference"]) for event in events] == [
        *[("pull", "done", "alice", "v1")] * 5, ("pull", "refused", "alice", "v2"), ("pull", "refused", "bob", "v1"),
    ]  # fmt: skip
    assert [event.get("digest") for event in events] == [digest] * 5 + [None, None]
    assert [event.get("size") for event in events] == [size, 512, size, size, size, None, None]
    assert all(event["repository"] == "disks/noble" for event in events)


def test_who_looked_after_the_registry_is_kept(start, tmp_path):
    path = tmp_path / "audit.log"
    server = start("filesystem", DVCR_AUDIT_LOG=str(path))
    client, storage = Client(server.host), "/v2/_dvcr/storage"
    client.push_blob(NAME, b"a blob")
    for query in ["collect?dryRun=true", "collect", "verify?depth=quick&password=x", "verify?depth=much", "rewrite?to=whole"]:
        client.send("POST", f"{storage}/{query}")
    client.get(f"{storage}/stats")
    events = audited(path)
    assert [(event["action"], event.get("parameters"), event["outcome"]) for event in events] == [
        ("collect", "dryRun=true", "dry_run"), ("collect", None, "done"), ("verify", "depth=quick", "begun"),
        ("verify", "depth=much", "refused"), ("rewrite", "to=whole", "begun"),
    ]  # fmt: skip
    assert all(event["client"].startswith("127.0.0.1:") and event["request_id"] for event in events)


def breaks_off(client, method, path):
    """A body of which half comes."""
    with client.connect() as connection:
        headers = "Host: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 2000\r\n"
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode() + b"x" * 1000)


def test_a_body_whose_client_leaves_in_the_middle_is_kept(start, tmp_path):
    path = tmp_path / "audit.log"
    server = start("filesystem", DVCR_AUDIT_LOG=str(path), DVCR_LOG_FORMAT="json")
    client, digest = Client(server.host), digest_of(b"never")
    location = client.begin(NAME)
    for method, place, reference in [
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", digest),
        ("PATCH", location, location.rsplit("/", 1)[1]),
        ("PUT", f"{location}?digest={digest}", digest),
        ("PUT", f"/v2/{NAME}/manifests/v1", "v1"),
    ]:
        known = len(audited(path))
        breaks_off(client, method, place)
        event = eventually(lambda known=known: audited(path)[known:])[0]
        assert (event["action"], event["outcome"], event["repository"]) == ("push", "interrupted", NAME), event
        assert event["reference"] == reference and "size" not in event
    # The log has a line of each as well, though there was nobody to be answered.
    gone = lambda: [line for line in log(server) if line["message"] == "request" and line["status"] in (400, 499)]  # noqa: E731
    eventually(lambda: len(gone()) == 4)


def test_who_uploaded_a_file_for_an_image_is_kept_and_its_address_is_not(start, tmp_path):
    path = tmp_path / "audit.log"
    server = start("filesystem", DVCR_AUDIT_LOG=str(path), DVCR_PRESENCE_INTERVAL="1")
    client, images = Client(server.host), "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualimages"
    image = encode(virtual_image("disk", from_user()))
    made = client.send("POST", images, image, {"Content-Type": "application/json"})
    assert made.status == 201, made
    uid = made.json()["metadata"]["uid"]
    waiting = lambda: client.get(f"{images}/disk").json().get("status", {}).get("imageUploadURLs")  # noqa: E731
    place = urlsplit(eventually(waiting, 30)["external"]).path
    breaks_off(client, "PUT", place)
    uploads = lambda: [event for event in audited(path) if "upload" in event["action"]]  # noqa: E731
    eventually(uploads)
    client.send("PUT", place, b"x" * 5000, {"Content-Range": "bytes 0-4999/9000"})
    client.send("PUT", place, b"x" * 4000, {"Content-Range": "bytes 5000-8999/9000"})
    client.send("PUT", "/upload/nonsense", b"x" * 5000)
    outcomes = [(event["outcome"], event.get("size"), event.get("reference")) for event in uploads() if event["action"] == "upload"]
    assert outcomes == [("interrupted", None, uid), ("partial", 5000, uid), ("done", 4000, uid), ("refused", None, None)]
    assert place.rsplit("/", 1)[1] not in path.read_text()


def test_the_file_may_be_moved_away(start, tmp_path):
    path = tmp_path / "audit.log"
    server = start("filesystem", DVCR_AUDIT_LOG=str(path))
    client = Client(server.host)
    client.get("/v2/a/manifests/one")
    path.rename(tmp_path / "audit.log.1")
    server.process.send_signal(signal.SIGHUP)
    client.get("/v2/a/manifests/two")
    assert [event["reference"] for event in audited(tmp_path / "audit.log.1")] == ["one"]
    assert [event["reference"] for event in audited(path)] == ["two"]


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")]
    environment = {**os.environ, "DVCR_AUDIT_LOG": str(tmp_path / "nowhere/audit.log")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "nowhere/audit.log" in done.stderr, done
