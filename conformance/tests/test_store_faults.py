"""The store fails under the registry: it is down, slow, full, or its answers are lost. Clients are told of a failure that passes, or of success."""

import contextlib
import json
import os
import random
import subprocess
import time

import pytest

from conftest import s3_storage
from disk import MIB
from store_proxy import INSUFFICIENT, QUOTA, StoreProxy
from test_collect import collect, quick, stored
from test_kills import SEED, SETTINGS, WHILE, Trial
from test_metrics import scraped, total
from virtual_images import from_web, virtual_image
from wire import Client, digest_of, encode, eventually

NAME = "disks/ubuntu"
SECONDS = float(os.environ.get("CONFORMANCE_SECONDS", "20"))
SHARE = 0.12
"""Of all requests to the store so many come to grief."""
ANSWERS = ("busy", "failed", "none")
"""What the store answers, as the metrics have it."""


@pytest.fixture
def store(opened):
    """A wire to the S3 server that can be told to fail."""
    return opened(StoreProxy(os.environ["CONFORMANCE_S3_ENDPOINT"]))


@pytest.fixture
def through(start, store):
    """Starts servers over one prefix behind that wire."""
    arguments, environment = s3_storage()
    arguments[3] = store.endpoint
    return lambda **settings: start("s3", (arguments, environment), **settings)


@pytest.mark.slow
def test_a_store_that_fails_at_random_loses_nothing(store, through):
    """Requests are cut, answers are lost, slow or half, and the store wants everybody to slow down; two servers collect meanwhile."""
    servers = [through(**SETTINGS) for _ in range(2)]
    trial = Trial(servers, SEED)
    for person in trial.people:
        person.failures = (503,)

    def is_tried():
        calls = [scraped(server.host) for server in servers]
        answers = [sum(total(found, "dvcr_store_requests_total", f'answer="{answer}"') for found in calls) for answer in ANSWERS]
        return len(store.happened) >= 6 and all(answers)

    until = time.monotonic() + SECONDS
    # On a machine that has much to do a round is few requests.
    while time.monotonic() < until or not is_tried():
        assert time.monotonic() < until + WHILE, store.happened

        def trouble():
            store.fails_now_and_then(f"{SEED}-{trial.rounds}", SHARE)
            time.sleep(2)
            store.heal()

        trial.round(trouble)
        trial.look()
    trial.end()
    print(f"seed {SEED}: {trial.rounds} rounds, {trial.counts()}, {store.happened}")


def assert_full(answer):
    assert answer.status == 507 and answer.codes() == ["UNAVAILABLE"], answer
    assert "full" in answer.json()["errors"][0]["message"]


def assert_reads_go_on(client, images):
    for tag, (digest, layer) in images.items():
        answer = client.get(f"/v2/{NAME}/manifests/{tag}")
        assert answer.status == 200 and digest_of(answer.body) == digest
        answer = client.get(f"/v2/{NAME}/blobs/{digest_of(layer)}")
        assert answer.status == 200 and answer.body == layer
    assert client.get(f"/v2/{NAME}/tags/list").json()["tags"] == sorted(images)


def push(client, images, tag, layer):
    images[tag] = client.push_image(NAME, tag, layer), layer


def pushes(client):
    """What is answered to every way to bring something new."""
    small, large = os.urandom(100), os.urandom(2 * MIB)
    for data in (small, large):
        headers = {"Content-Type": "application/octet-stream"}
        yield client.send("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(data)}", data, headers)
    yield client.send("POST", f"/v2/{NAME}/blobs/uploads/")


@pytest.mark.parametrize("answer", [INSUFFICIENT, QUOTA], ids=["full", "quota"])
def test_a_full_bucket_takes_nothing_and_loses_nothing(store, through, answer):
    client, images, dice = Client(through().host), {}, random.Random(SEED)
    push(client, images, "small", dice.randbytes(1000))
    push(client, images, "large", dice.randbytes(3 * MIB))
    location, rest = client.begin(NAME), dice.randbytes(20_000)
    manifest = json.loads(client.get(f"/v2/{NAME}/manifests/small").body)
    store.full(answer)
    for refused in pushes(client):
        assert_full(refused)
    assert_full(client.patch(location, rest))
    assert_full(client.finish(location, digest_of(rest), rest))
    assert_full(client.put_manifest(NAME, "new", encode({**manifest, "annotations": {"new": "yes"}})))
    assert_reads_go_on(client, images)
    store.heal()
    assert client.patch(location, rest).status == 202
    assert client.finish(location, digest_of(rest)).status == 201
    push(client, images, "new", dice.randbytes(2 * MIB))
    assert_reads_go_on(client, images)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 48 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Somebody else takes all space that is left."""
    with contextlib.suppress(OSError), open(folder / "filler", "wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


def test_a_full_disk_takes_nothing_loses_nothing_and_can_be_cleared(start, small_disk):
    """Also when nothing at all is left of it, and the server is killed: it starts, reads go on, and what nothing needs is collected."""
    server = start("filesystem", (["--data", str(small_disk / "data")], {}), DVCR_EMBEDDED_API="false", **quick())
    client, images, dice = Client(server.host), {}, random.Random(SEED)
    location, rest = client.begin(NAME), dice.randbytes(20_000)
    assert client.patch(location, rest[:10_000], 0).status == 202
    for number in range(40):
        layer = dice.randbytes(3 * MIB)
        answer = client.finish(client.begin(NAME), digest_of(layer), layer)
        if answer.status != 201:
            break
        push(client, images, f"v{number:02}", layer)
    assert_full(answer)
    assert len(images) > 5
    before = stored(server, "data")
    assert_reads_go_on(client, images)
    fill(small_disk)
    # Something small may still find space, which was kept for what makes space; then there is none.
    small = next(pushes(client))
    assert small.status in (201, 507), small
    manifest = json.loads(client.get(f"/v2/{NAME}/manifests/v00").body)
    for _ in range(50):
        for refused in pushes(client):
            assert_full(refused)
        assert_full(client.patch(location, rest[10_000:], 10_000))
        assert_full(client.put_manifest(NAME, "new", encode({**manifest, "annotations": {"new": "yes"}})))
    assert stored(server, "data") == before
    server.kill()
    server.start()
    assert_reads_go_on(client, images)
    for tag in list(images)[:3]:
        digest, _ = images.pop(tag)
        assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 202
    assert_reads_go_on(client, images)

    def is_freed():
        collect(server)
        return len(stored(server, "data")) <= len(before) - 3

    eventually(is_freed, seconds=30)
    assert_reads_go_on(client, images)
    (small_disk / "filler").unlink(missing_ok=True)
    assert client.offset(location) == 10_000
    assert client.finish(location, digest_of(rest), rest[10_000:]).status == 201
    push(client, images, "new", dice.randbytes(2 * MIB))
    assert_reads_go_on(client, images)


def test_resources_on_a_full_disk_are_refused_and_taken_when_there_is_space_again(start, small_disk, web, images):
    """Also when the server is killed on the full disk: it starts, and tells what it told before."""
    server = start("filesystem", (["--data", str(small_disk / "data")], {}), DVCR_EMBEDDED_API="true")
    client, group = Client(server.host), "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualimages"
    url = web.add("/disk.img", images.disk().read_bytes())

    def create(name, **annotations):
        image = virtual_image(name, from_web(url))
        image["metadata"]["annotations"] = annotations
        return client.send("POST", group, encode(image), {"Content-Type": "application/json"})

    def names():
        answer = client.get(group)
        assert answer.status == 200, answer
        return {image["metadata"]["name"] for image in answer.json()["items"]}

    def is_ready(name):
        return client.get(f"{group}/{name}").json().get("status", {}).get("phase") == "Ready"

    def fills_up(prefix):
        """Creates images until there is no space for one, and gives the names of those that were taken."""
        fill(small_disk)
        for number in range(1000):
            answer = create(f"{prefix}-{number}", large="x" * 100_000)
            if answer.status != 201:
                break
            taken.add(f"{prefix}-{number}")
        assert answer.status == 507 and "no space left" in answer.json()["message"], answer
        assert names() == taken

    taken = {"before"}
    assert create("before").status == 201
    eventually(lambda: is_ready("before"), 60)
    fills_up("first")
    server.kill()
    server.start()
    assert names() == taken
    fills_up("second")
    [tag] = client.get("/v2/vi/default/before/tags/list").json()["tags"]
    assert client.get(f"/v2/vi/default/before/manifests/{tag}").status == 200
    (small_disk / "filler").unlink()
    taken.add("after")
    assert create("after").status == 201
    eventually(lambda: is_ready("after"), 60)
    server.kill()
    server.start()
    assert names() == taken
