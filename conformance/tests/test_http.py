"""The program as HTTP clients and operators meet it: connections, signals, logs, settings."""

import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import subprocess

import pytest

from dvcr import BINARY
from wire import INDEX, Client, digest_of, encode, eventually, index

NAME = "disks/ubuntu"
UPLOADS = f"/v2/{NAME}/blobs/uploads/"


@pytest.fixture
def server(start):
    """One with a log that a test can read."""
    return start("filesystem", DVCR_LOG_FORMAT="json")


@pytest.fixture
def client(server):
    return Client(server.host)


def log(server):
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def requests(server, path):
    """The log lines of the requests for a path, of which there must be some."""
    return eventually(lambda: [line for line in log(server) if line.get("path") == path])


def run(*arguments, **environment):
    """Runs the program to its end."""
    return subprocess.run(
        [BINARY, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def curl(*arguments):
    """Runs curl over cleartext HTTP/2, and gives the version that was spoken and the status."""
    command = ["curl", "-sS", "--http2-prior-knowledge", "-w", "%{http_version} %{http_code}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_connection_serves_many_requests(client):
    connection = http.client.HTTPConnection(client.host)
    with contextlib.closing(connection):
        sockets = set()
        for path, status in [("/v2/", 200), ("/v2/a/tags/list", 404), ("/nothing", 404), ("/livez", 200)]:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            assert response.status == status
            sockets.add(connection.sock)
        assert len(sockets) == 1 and None not in sockets


def test_blobs_are_pushed_and_pulled_over_cleartext_http2(client, tmp_path):
    data = os.urandom(5 << 20)
    digest = digest_of(data)
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(data)
    url = f"http://{client.host}"
    location = client.begin(NAME)
    assert curl("-X", "PATCH", "--data-binary", f"@{there}", f"{url}{location}") == "2 202"
    assert curl("-X", "PUT", f"{url}{location}?digest={digest}") == "2 201"
    assert curl("-o", str(back), f"{url}/v2/{NAME}/blobs/{digest}") == "2 200"
    assert digest_of(back.read_bytes()) == digest
    assert curl("-o", str(back), "-r", "100-199", f"{url}/v2/{NAME}/blobs/{digest}") == "2 206"
    assert back.read_bytes() == data[100:200]
    assert curl("-o", str(back), f"{url}/v2/{NAME}/manifests/none") == "2 404"


def expecting(client, method, path, length):
    """Sends a request that waits for `100 Continue`, and gives the connection and the first answer."""
    connection = client.connect()
    headers = f"Host: x\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n"
    connection.sendall(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode())
    return connection, connection.recv(65536)


def test_a_client_may_wait_to_be_asked_for_its_body(client):
    data = os.urandom(100_000)
    digest = digest_of(data)
    connection, answer = expecting(client, "POST", f"{UPLOADS}?digest={digest}", len(data))
    with connection:
        assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert client.get(f"/v2/{NAME}/blobs/{digest}").body == data


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", f"{UPLOADS}?digest=sha256:short", b"400"),
        ("POST", "/v2/Not/A/Name/blobs/uploads/", b"400"),
        ("PUT", f"{UPLOADS}nonsense?digest={digest_of(b'')}", b"404"),
        ("PATCH", f"{UPLOADS}00000000-0000-7000-8000-000000000000", b"404"),
        ("PUT", f"/v2/{NAME}/manifests/v1?tag=v2", b"400"),
        ("PUT", f"/v2/{NAME}/manifests/v1", b"413"),
    ],
)
def test_a_client_whose_upload_will_be_refused_is_not_asked_for_its_body(client, method, path, status):
    connection, answer = expecting(client, method, path, 100_000_000)
    with connection:
        assert answer.split(b" ", 2)[1] == status, answer


def test_the_process_lives_and_is_ready(start, backend):
    client = Client(start(backend).host)
    for path in ["/livez", "/readyz"]:
        answer = client.get(path)
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert client.head(path).status == 200


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_version_check_answers(client, path):
    answer = client.get(path)
    assert (answer.status, answer.json()) == (200, {})
    assert answer.headers["Content-Type"] == "application/json"
    assert client.head(path).status == 200


def test_a_request_in_flight_is_finished_before_the_process_stops(start, backend):
    server = start(backend)
    client, data = Client(server.host), os.urandom(1_000_000)
    location = client.begin(NAME)
    connection, answer = expecting(client, "PATCH", location, len(data))
    with connection:
        assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data[:400_000])
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: refuses(server))
        assert server.process.poll() is None
        connection.sendall(data[400_000:])
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 202 "), answer
        assert b"0-999999" in answer
    assert server.process.wait(30) == 0
    server.start()
    assert client.finish(location, digest_of(data)).status == 201


def half_a_chunk(location):
    return f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345".encode()


def refuses(server):
    """Whether nobody listens any more."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", server.port)) == errno.ECONNREFUSED


def test_idle_connections_do_not_keep_the_process_from_stopping(server, client):
    with client.connect(), client.connect() as used:
        used.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert used.recv(1000).startswith(b"HTTP/1.1 200 ")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    assert log(server)[-1]["message"] == "stopped"


@pytest.mark.parametrize("beginning", [b"GET", b"GET /v2/ HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_half_a_request_does_not_keep_the_process_from_stopping_for_longer_than_it_may_take(start, beginning):
    server = start("filesystem", DVCR_HEADER_TIMEOUT="1")
    with Client(server.host).connect() as connection:
        connection.sendall(beginning)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_asked_twice_the_process_stops_at_once(server, client):
    # Asked for its body, the request is in flight; bytes that were only sent might not have been read yet.
    connection, answer = expecting(client, "PATCH", client.begin(NAME), 10)
    with connection:
        assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"12345")
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: refuses(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 1


def test_every_request_is_one_line_in_the_log(server, client):
    client.push_image(NAME, "v1", b"layer")
    digest = digest_of(b"layer")
    for method, path, status, sent in [
        ("GET", "/v2/", 200, 2),
        ("GET", f"/v2/{NAME}/blobs/{digest}", 200, 5),
        ("GET", f"/v2/{NAME}/tags/list?n=1", 200, None),
        ("GET", f"/v2/{NAME}/manifests/v1", 200, None),
        ("GET", f"/v2/{NAME}/manifests/none", 404, None),
        ("GET", "/nothing", 404, None),
        ("PUT", "/v2/_catalog", 405, None),
    ]:
        path += "&this" if "?" in path else "?this"
        answer = client.send(method, path)
        [line] = requests(server, path)
        assert (line["level"], line["target"]) == ("INFO", "dvcr::request")
        assert (line["method"], line["status"], line["sent"]) == (method, status, len(answer.body))
        assert sent in (None, line["sent"])
        assert line["client"].startswith("127.0.0.1:") and line["ms"] >= 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["blobs/{}", "manifests/v1", "manifests/none", "tags/list"])
def test_an_answer_that_was_sent_in_full_is_not_called_broken_off(server, client, method, path):
    client.push_image(NAME, "v1")
    for size in [0, 10, 3 << 20] if "blobs" in path else [0]:
        target = f"/v2/{NAME}/{path.format(client.push_blob(NAME, bytes(size)))}?this"
        client.send(method, target)
        [line] = requests(server, target)
        assert "broken_off" not in line, line


def test_a_client_that_leaves_in_the_middle_is_no_error(server, client):
    path = f"/v2/{NAME}/blobs/{client.push_blob(NAME, bytes(32 << 20))}"
    with client.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    [line] = requests(server, path)
    assert line["broken_off"] is True
    assert line["sent"] < 32 << 20
    location = client.begin(NAME)
    with client.connect() as connection:
        connection.sendall(half_a_chunk(location))
    eventually(lambda: client.get(location).headers["Range"] == "0-4")
    assert {line["level"] for line in log(server)} == {"INFO"}


def test_the_log_is_text_unless_told(start):
    server = start("filesystem")
    Client(server.host).get("/v2/?this")
    [line] = eventually(lambda: [line for line in server.log.read_text().splitlines() if "?this" in line])
    for part in [" INFO request{id=", "}: dvcr::request: ", 'method="GET"', 'path="/v2/?this"', "status=200"]:
        assert part in line


def test_nothing_below_the_level_is_logged(start):
    server = start("filesystem", DVCR_LOG_LEVEL="warn")
    Client(server.host).get("/v2/")
    assert server.stop() == 0
    assert server.log.read_text() == ""


def test_a_health_check_says_whether_the_registry_is_up(server):
    up = run("healthcheck", "--listen", server.host)
    assert (up.returncode, up.stdout, up.stderr) == (0, "", "")
    assert run("healthcheck", DVCR_LISTEN=server.host).returncode == 0
    server.stop()
    down = run("healthcheck", "--listen", server.host)
    assert down.returncode == 1
    assert server.host in down.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--nonsense"], {}, ["--nonsense"]),
        ([], {"DVCR_LISEN": "127.0.0.1:5000"}, ["lisen", "listen", "idle_timeout"]),
        ([], {"DVCR_S3_ENDPONT": "http://x"}, ["endpont", "endpoint", "region"]),
        ([], {"DVCR_LISTEN": "5000"}, ["listen", "5000"]),
        ([], {"DVCR_IDLE_TIMEOUT": "soon"}, ["idle_timeout", "soon"]),
        ([], {"DVCR_IDLE_TIMEOUT": "0"}, ["idle_timeout"]),
        ([], {"DVCR_MAX_MANIFEST": "1000"}, ["max_manifest", "4000000"]),
        ([], {"DVCR_LOG_LEVEL": "no=such=level"}, ["log_level"]),
        (["--log-format", "xml"], {}, ["log_format", "xml", "json"]),
        (["--storage", "gs://bucket"], {}, ["storage", "gs://bucket"]),
        (["--data", "a", "--storage", "b"], {}, ["--data", "--storage"]),
        (["--config", "/nonexistent/dvcr.toml"], {}, ["/nonexistent/dvcr.toml"]),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(tmp_path, arguments, environment, named):
    environment = {"DVCR_DATA": str(tmp_path / "data"), **environment}
    result = run("serve", *arguments, **environment)
    assert result.returncode == 2, result
    for name in named:
        assert name in result.stderr
    assert not (tmp_path / "data").exists()


def test_an_unknown_key_in_the_file_is_refused_with_the_name_of_the_file(tmp_path):
    file = tmp_path / "dvcr.toml"
    file.write_text("lisen = '127.0.0.1:5000'\n")
    result = run("serve", "--config", str(file))
    assert result.returncode == 2
    for name in ["lisen", "listen", str(file)]:
        assert name in result.stderr


def test_the_file_yields_to_the_environment_and_that_to_flags(start, tmp_path):
    file, folders = tmp_path / "dvcr.toml", [tmp_path / name for name in ["file", "environment", "flag"]]
    file.write_text(f"data = '{folders[0]}'\nlisten = '127.0.0.1:1'\nlog_format = 'json'\n")
    storages = [
        (["--config", str(file)], {}),
        (["--config", str(file)], {"DVCR_DATA": str(folders[1])}),
        (["--config", str(file), "--data", str(folders[2])], {"DVCR_DATA": str(folders[1])}),
    ]
    for number, storage in enumerate(storages):
        server = start(None, storage)
        answer = Client(server.host).put_manifest(NAME, "v1", encode(index([])), INDEX)
        assert answer.status == 201, answer
        assert log(server)[0]["storage"] == str(folders[number])
        assert [folder.exists() for folder in folders] == [other <= number for other in range(3)]


def test_the_file_may_be_named_by_the_environment(start, tmp_path):
    file = tmp_path / "dvcr.toml"
    file.write_text(f"data = '{tmp_path / 'file'}'\nmax_manifest = 5000000\n")
    client = Client(start(None, ([], {"DVCR_CONFIG": str(file)})).host)
    assert client.put_manifest(NAME, "v1", encode(index([])) + b" " * 4_900_000, INDEX).status == 201


def test_missing_blobs_are_accepted_when_told(start):
    client = Client(start("filesystem", DVCR_MISSING_BLOBS="accept").host)
    manifest = client.image("elsewhere")
    assert client.put_manifest(NAME, "v1", manifest).status == 201
    assert client.get(f"/v2/{NAME}/blobs/{manifest['config']['digest']}").status == 404
