"""Others are told of pushes and deletions: what was answered is told, signed, also when somebody was killed in between."""

import base64
import os
import pathlib
import re
import secrets
import subprocess

import pytest

from conftest import s3_storage
from disk import build_disk_image
from dvcr import BINARY, free_port
from flaky_http import Authority
from receiver import Receiver
from test_auth import User, htpasswd
from test_collect import collect, quick, stored
from test_metrics import scraped, total
from test_skopeo import skopeo
from virtual_images import Embedded, from_web, virtual_image
from wire import IMAGE, Client, digest_of, encode, eventually

NAME = "disks/ubuntu"
WHILE = 60
"""Seconds for what takes a moment, on a machine that has much to do."""


@pytest.fixture
def receiver(opened):
    return opened(Receiver())


@pytest.fixture
def serve(start, tmp_path):
    """Starts a server that tells these receivers of everything."""

    def serve(*sections, backend="filesystem", storage=None, **environment):
        file = tmp_path / f"dvcr{secrets.token_hex(4)}.toml"
        file.write_text("\n".join(sections))
        return start(backend, storage, DVCR_CONFIG=str(file), **environment)

    return serve


def is_told(receiver, *expected, seconds=WHILE):
    """Waits until it was told just this, and everything was signed."""
    eventually(lambda: len(receiver.events()) >= len(expected), seconds)
    assert receiver.told() == list(expected)
    assert not receiver.wrong
    # A deletion that takes long may be told before it is confirmed, and behind that once more.
    pushes = [event.id for event in receiver.took if event.type == "dvcr.manifest.pushed"]
    assert len(pushes) == len(set(pushes))
    return receiver.events()


def is_delivered(server, seconds=WHILE):
    """Waits until nothing is left to deliver."""
    eventually(lambda: not stored(server, "outbox"), seconds)


def test_pushes_and_deletions_are_told(serve, backend, receiver):
    server = serve(receiver.config("ci"), backend=backend, storage=s3_storage() if backend == "s3" else None)
    client = Client(server.host)
    manifest = encode(client.image(NAME))
    digest = digest_of(manifest)
    answer = client.send("PUT", f"/v2/{NAME}/manifests/v1", manifest, {"Content-Type": IMAGE, "X-Request-Id": "build-42"})
    assert answer.status == 201
    assert client.put_manifest(NAME, digest, manifest, query="?tag=v2&tag=v3").status == 201
    assert client.put_manifest(NAME, digest, manifest).status == 201
    assert client.delete(f"/v2/{NAME}/manifests/v1").status == 202
    assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 202
    # What changes nothing is not told.
    assert client.delete(f"/v2/{NAME}/manifests/v1").status == 404
    assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 404
    assert client.put_manifest(NAME, "v1", b"{}").status == 400
    pushed, many, bare, untagged, deleted = is_told(
        receiver,
        ("manifest.pushed", f"{NAME}:v1"),
        ("manifest.pushed", f"{NAME}@{digest}"),
        ("manifest.pushed", f"{NAME}@{digest}"),
        ("tag.deleted", f"{NAME}:v1"),
        ("manifest.deleted", f"{NAME}@{digest}"),
    )
    assert pushed.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert pushed.body["specversion"] == "1.0" and pushed.body["source"] == f"//{server.host}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", pushed.body["time"])
    assert pushed.data == {
        "action": "push",
        "registry": server.host,
        "repository": NAME,
        "tags": ["v1"],
        "digest": digest,
        "mediaType": IMAGE,
        "size": len(manifest),
        "requestId": "build-42",
    }
    assert (many.data["tags"], bare.data["tags"]) == (["v2", "v3"], [])
    for event in [untagged, deleted]:
        assert (event.data["action"], event.data["digest"], event.data["size"]) == ("delete", digest, len(manifest))
    assert len(set(receiver.ids())) == 5
    is_delivered(server)
    assert {event.id for event in receiver.tried} == set(receiver.ids())


def test_who_did_it_is_told(start, receiver, tmp_path):
    users = htpasswd(tmp_path / "htpasswd", {"alice": "wonderland"})
    file = tmp_path / "dvcr.toml"
    file.write_text(f"registry_name = 'registry.example.com'\n{receiver.config('ci')}\n[auth]\nhtpasswd = '{users}'\n")
    server = start("filesystem", DVCR_CONFIG=str(file))
    User(server, "alice", "wonderland").push_image(NAME, "v1")
    [event] = is_told(receiver, ("manifest.pushed", f"{NAME}:v1"))
    assert event.data["user"] == "alice" and event.data["requestId"]
    assert event.data["registry"] == "registry.example.com" and event.body["source"] == "//registry.example.com"


def test_each_is_told_what_it_wants_to_hear(serve, opened):
    deletions, production = opened(Receiver()), opened(Receiver())
    server = serve(
        deletions.config("deletions", events=["delete"]),
        production.config("production", repositories=["prod/**", "*/noble"], headers={"Authorization": "Bearer T0KEN"}),
    )
    client = Client(server.host)
    for name in ["prod/a/b", "test/noble", "test/a"]:
        client.push_image(name, "v1")
    assert client.delete("/v2/test/a/manifests/v1").status == 202
    is_told(deletions, ("tag.deleted", "test/a:v1"))
    events = is_told(production, ("manifest.pushed", "prod/a/b:v1"), ("manifest.pushed", "test/noble:v1"))
    assert all(event.headers["Authorization"] == "Bearer T0KEN" for event in events)


def test_nothing_is_stored_for_nobody(serve, receiver):
    server = serve(receiver.config("ci", repositories=["other/**"]))
    client = Client(server.host)
    client.push_image(NAME, "v1")
    assert client.delete(f"/v2/{NAME}/manifests/v1").status == 202
    assert not stored(server, "outbox", "leases")


def test_stock_clients_are_told_of(serve, receiver):
    server = serve(receiver.config("ci"))
    client = Client(server.host)
    digest = client.push_image(NAME, "v1")
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    skopeo("copy", "--preserve-digests", *plain, f"docker://{server.host}/{NAME}:v1", f"docker://{server.host}/copies/ubuntu:v2")
    skopeo("delete", "--tls-verify=false", f"docker://{server.host}/copies/ubuntu:v2")
    is_told(
        receiver,
        ("manifest.pushed", f"{NAME}:v1"),
        ("manifest.pushed", "copies/ubuntu:v2"),
        ("manifest.deleted", f"copies/ubuntu@{digest}"),
    )


@pytest.mark.slow
def test_docker_is_told_of(serve, receiver, docker, tmp_path):
    server = serve(receiver.config("ci"))
    reference = f"{server.host}/disks/noble:v1"
    build_disk_image(docker, tmp_path / "build", reference, 8)
    docker.run("push", reference)
    [event] = is_told(receiver, ("manifest.pushed", "disks/noble:v1"))
    assert event.data["digest"] == Client(server.host).head("/v2/disks/noble/manifests/v1").headers["Docker-Content-Digest"]


def test_images_of_resources_are_told_of(serve, receiver, cache, web, images, tmp_path):
    server = serve(receiver.config("ci"))
    world = Embedded(server, cache, tmp_path / "kubectl")
    world.ready(virtual_image("noble", from_web(web.add("/disk.img", images.image("qcow2").read_bytes()))))
    pushed = eventually(lambda: [event for event in receiver.took if event.type == "dvcr.manifest.pushed"], WHILE)
    assert pushed[0].data["repository"] == "vi/default/noble"
    world.delete("vi", "noble")
    eventually(lambda: any(event.type.endswith(".deleted") for event in receiver.took), WHILE)


@pytest.mark.parametrize("status", [301, 400, 401, 410, 429, 500, 503])
def test_what_is_not_taken_is_sent_again(serve, receiver, status):
    receiver.status, receiver.headers = status, {"Location": receiver.url}
    server = serve(receiver.config("ci"))
    Client(server.host).push_image(NAME, "v1")
    eventually(lambda: len(receiver.tried) >= 2, WHILE)
    assert stored(server, "outbox")
    receiver.status = 200
    [event] = is_told(receiver, ("manifest.pushed", f"{NAME}:v1"))
    # The same event, signed anew.
    assert {tried.id for tried in receiver.tried} == {event.id}
    is_delivered(server)
    series = scraped(server.host)
    assert total(series, "dvcr_webhook_deliveries_total", 'webhook="ci"', 'outcome="failed"') >= 2
    assert total(series, "dvcr_webhook_deliveries_total", 'webhook="ci"', 'outcome="delivered"') == 1
    eventually(lambda: total(scraped(server.host), "dvcr_webhook_pending", 'webhook="ci"') == 0, WHILE)


def test_one_that_does_not_answer_holds_up_neither_clients_nor_others(serve, opened):
    dead, stalled, well = opened(Receiver()), opened(Receiver()), opened(Receiver())
    dead.stop()
    stalled.stalled = True
    server = serve(dead.config("dead"), stalled.config("stalled"), well.config("well"))
    client = Client(server.host)
    for number in range(10):
        client.push_image(f"disks/{number}", "v1")
    is_told(well, *[("manifest.pushed", f"disks/{number}:v1") for number in range(10)])
    eventually(lambda: total(scraped(server.host), "dvcr_webhook_deliveries_total", 'webhook="dead"', 'outcome="failed"') > 1, WHILE)
    assert not well.wrong and not stalled.took
    # Nor does it hold up the end.
    assert server.stop() == 0
    assert len([key for key in stored(server, "outbox") if "/dead/" in key or "/stalled/" in key]) == 20


def test_a_delivery_that_takes_too_long_is_sent_again(serve, receiver):
    receiver.stalled = True
    server = serve(receiver.config("ci", timeout=1))
    Client(server.host).push_image(NAME, "v1")
    eventually(lambda: len(receiver.tried) >= 2, WHILE)
    receiver.stalled = False
    eventually(lambda: receiver.took and not stored(server, "outbox"), WHILE)
    assert len(set(receiver.ids())) == 1


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_what_was_answered_is_told_after_a_restart(serve, receiver, how):
    receiver.status = 503
    server = serve(receiver.config("ci"))
    client = Client(server.host)
    digest = client.push_image(NAME, "v1")
    assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 202
    getattr(server, how)()
    receiver.status = 204
    server.start()
    eventually(lambda: len(receiver.events()) == 2, WHILE)
    assert {kind for kind, _ in receiver.told()} == {"manifest.pushed", "manifest.deleted"}
    assert not receiver.wrong
    is_delivered(server)


@pytest.mark.slow
def test_what_was_answered_is_told_however_often_the_server_is_killed(serve, receiver):
    server = serve(receiver.config("ci"))
    answered = []
    for number in range(12):
        client = Client(server.host)
        for each in range(3):
            client.push_image(f"disks/{number}", f"v{each}")
            answered.append(f"disks/{number}:v{each}")
        server.kill()
        server.start()
    eventually(lambda: {subject for _, subject in receiver.told()} == set(answered), WHILE)
    is_delivered(server)
    assert not receiver.wrong


def test_what_a_rule_takes_away_is_told(serve, backend, receiver):
    rule = "[[retention]]\nrepositories = ['disks/**']\nkeep_last = 1\nuntagged_after = 1"
    storage = s3_storage() if backend == "s3" else None
    server = serve(receiver.config("ci"), rule, backend=backend, storage=storage, **quick())
    client = Client(server.host)
    pushed = [client.push_image(NAME, tag, os.urandom(3000)) for tag in ("v1", "v2")]
    expected = [
        ("manifest.pushed", f"{NAME}:v1"),
        ("manifest.pushed", f"{NAME}:v2"),
        ("tag.deleted", f"{NAME}:v1"),
        ("manifest.deleted", f"{NAME}@{pushed[0]}"),
    ]
    eventually(lambda: collect(server) and len(receiver.events()) >= len(expected), WHILE)
    *_, tag, manifest = is_told(receiver, *expected)
    for event in (tag, manifest):
        assert event.data["reason"].startswith("rule of retention 1: ")
        assert event.data["digest"] == pushed[0] and "user" not in event.data and "requestId" not in event.data
    is_delivered(server)


def test_replicas_tell_everything_and_as_a_rule_once(serve, receiver):
    storage = s3_storage()
    servers = [serve(receiver.config("ci"), backend="s3", storage=storage) for _ in range(2)]
    expected = []
    for number in range(12):
        Client(servers[number % 2].host).push_image(f"disks/{number}", "v1")
        expected.append(f"disks/{number}:v1")
    eventually(lambda: {subject for _, subject in receiver.told()} == set(expected), 2 * WHILE)
    is_delivered(servers[0], 2 * WHILE)
    assert len(receiver.took) <= len(expected) + 2, receiver.ids()
    assert len(set(receiver.ids())) == len(expected)
    assert not receiver.wrong


@pytest.mark.slow
def test_another_replica_tells_what_one_that_was_killed_did_not(serve, receiver):
    storage = s3_storage()
    first = serve(receiver.config("ci"), backend="s3", storage=storage)
    receiver.status = 500
    Client(first.host).push_image(NAME, "v1")
    eventually(lambda: receiver.tried, WHILE)
    second = serve(receiver.config("ci"), backend="s3", storage=storage)
    first.kill()
    receiver.status = 204
    is_told(receiver, ("manifest.pushed", f"{NAME}:v1"), seconds=3 * WHILE)
    is_delivered(second)


def test_a_secret_is_changed_without_a_gap(serve, receiver, tmp_path):
    file = tmp_path / "secret"
    new = base64.b64encode(os.urandom(32)).decode()
    file.write_text(f"{receiver.secret}\n{new}\n")
    server = serve(receiver.config("ci", secret=None, secret_file=str(file)))
    Client(server.host).push_image(NAME, "v1")
    [event] = is_told(receiver, ("manifest.pushed", f"{NAME}:v1"))
    assert len(event.headers["webhook-signature"].split(" ")) == 2


def test_a_receiver_may_have_a_certificate_of_its_own(serve, opened, authority, tmp_path):
    receiver = opened(Receiver(authority.certify("127.0.0.1")))
    strange = opened(Receiver(Authority(tmp_path / "stranger").certify("127.0.0.1")))
    server = serve(*[each.config(name, ca_file=str(authority.certificate)) for name, each in [("own", receiver), ("strange", strange)]])
    Client(server.host).push_image(NAME, "v1")
    is_told(receiver, ("manifest.pushed", f"{NAME}:v1"))
    eventually(lambda: total(scraped(server.host), "dvcr_webhook_deliveries_total", 'webhook="strange"', 'outcome="failed"'), WHILE)
    assert not strange.tried


def test_secrets_are_not_logged(serve, opened, tmp_path):
    failing, gone = opened(Receiver()), opened(Receiver())
    failing.status = 500
    gone.stop()
    words = [secrets.token_hex(16) for _ in range(3)]
    server = serve(
        failing.config("failing", url=f"{failing.url}/{words[0]}?key={words[1]}", headers={"X-Token": words[2]}),
        gone.config("gone", url=f"{gone.url}/{words[0]}?key={words[1]}"),
        DVCR_LOG_LEVEL="debug",
    )
    Client(server.host).push_image(NAME, "v1")

    def has_failed(name):
        return total(scraped(server.host), "dvcr_webhook_deliveries_total", f'webhook="{name}"', 'outcome="failed"')

    eventually(lambda: has_failed("failing") and has_failed("gone"), WHILE)
    assert failing.tried[0].headers["X-Token"] == words[2]
    text = eventually(lambda: "500" in (text := server.log.read_text()) and text)
    for word in [*words, failing.secret.removeprefix("whsec_"), gone.secret.removeprefix("whsec_")]:
        assert word not in text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"secret": "hunter2"}, ["secret", "openssl rand"]),
        ({"secret": None}, ["ci", "secret_file"]),
        ({"secret": None, "secret_file": "/nonexistent/secret"}, ["ci", "/nonexistent/secret"]),
        ({"ca_file": "/dev/null"}, ["ci", "certificate"]),
        ({"url": "ftp://x"}, ["ci", "http"]),
        ({"url": "http://u:hunter2@x"}, ["ci", "Authorization"]),
        ({"events": ["pull"]}, ["pull", "push"]),
        ({"repositories": ["{namespace}/x"]}, ["ci", "{namespace}/x"]),
        ({"timeout": 0}, ["ci", "timeout", "60"]),
        ({"headers": {"webhook-id": "hunter2"}}, ["ci", "webhook-id"]),
        ({"name": "A B"}, ["A B", "lower-case"]),
        ({"colour": "red"}, ["colour", "repositories"]),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_at_the_start(receiver, tmp_path, more, words):
    file = tmp_path / "dvcr.toml"
    file.write_text(receiver.config(**{"name": "ci", **more}))
    command = [BINARY, "serve", "--listen", f"127.0.0.1:{free_port()}", "--data", tmp_path / "data", "--config", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    assert all(word in done.stderr for word in words), done.stderr
    assert "hunter2" not in done.stderr


def test_collections_and_verifications_leave_events_alone(serve, receiver):
    receiver.status = 500
    server = serve(receiver.config("ci"))
    client = Client(server.host)
    client.push_image(NAME, "v1")
    before = set(stored(server, "outbox"))
    assert before
    collect(server)
    done = subprocess.run([BINARY, "verify", server.host, "--deep"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert set(stored(server, "outbox")) == before


def test_a_push_that_cannot_be_told_is_not_answered_with_success(serve, receiver):
    """On a filesystem, where something stands in the way of the queue."""
    server = serve(receiver.config("ci"))
    client = Client(server.host)
    manifest = encode(client.image(NAME))
    folder = pathlib.Path(server.storage[1], "outbox")
    folder.touch(exist_ok=False)
    assert client.put_manifest(NAME, "v1", manifest).status == 503
    folder.unlink()
    assert client.put_manifest(NAME, "v1", manifest).status == 201
    is_told(receiver, ("manifest.pushed", f"{NAME}:v1"))
