"""Where `dvcr serve` serves resources, and to whom. What they do is in `test_virtual_images.py`."""

import json

import pytest

from conftest import s3_storage
from wire import Client

IMAGES = "/apis/virtualization.deckhouse.io/v1alpha2/virtualimages"


def test_resources_are_served_on_loopback_with_a_directory(local):
    assert local.get(IMAGES).json()["kind"] == "VirtualImageList"


def test_resources_are_not_served_when_told(start):
    client = Client(start("filesystem", DVCR_EMBEDDED_API="false").host)
    assert client.get(IMAGES).status == 404
    assert client.send("PUT", "/upload/token", b"x").status == 404


def test_resources_are_not_served_with_a_bucket_unless_there_is_a_directory_for_them(start, tmp_path):
    assert Client(start("s3").host).get(IMAGES).status == 404
    arguments, environment = s3_storage()
    server = start("s3", ([*arguments, "--embedded-api", "--state", str(tmp_path / "state")], environment))
    assert Client(server.host).get(IMAGES).status == 200
    assert (tmp_path / "state/resources.redb").exists()


def test_resources_in_a_bucket_are_refused_with_the_way_out(start):
    with pytest.raises(AssertionError, match="state"):
        start("s3", DVCR_EMBEDDED_API="true")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", ""])
def test_a_page_that_has_made_its_name_mean_loopback_is_not_let_in(local, host):
    for method, path in [("GET", IMAGES), ("GET", "/api/v1/namespaces/default/secrets"), ("DELETE", IMAGES)]:
        answer = local.send(method, path, None, {"Host": host})
        assert answer.status in (400, 421), (method, path)
        assert b"items" not in answer.body


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_page_cannot_write_without_asking(local, kind):
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "project"}}
    headers = {"Content-Type": kind} if kind else {}
    answer = local.send("POST", "/api/v1/namespaces", json.dumps(namespace).encode(), headers)
    assert answer.status == 415
    asked = local.send("OPTIONS", "/api/v1/namespaces", None, {"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in asked.headers


def test_secrets_are_not_for_other_users_of_the_machine(start):
    server = start("filesystem")
    assert Client(server.host).get(IMAGES).status == 200
    for name in ["resources.redb", "upload-key"]:
        file = next(path for path in server.log.parent.rglob(name))
        assert file.stat().st_mode & 0o077 == 0


def test_the_server_stops_while_somebody_watches(start):
    server = start("filesystem")
    with Client(server.host).connect() as connection:
        connection.sendall(f"GET {IMAGES}?watch=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert server.stop() == 0
