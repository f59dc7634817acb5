"""dvcr collect: what nothing needs any more goes, everything else stays, and everybody goes on meanwhile."""

import contextlib
import functools
import http.client
import os
import pathlib
import random
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import pytest

from command import ASKED_WRONGLY, DONE, FAILED
from conftest import s3_storage
from disk import MIB
from dvcr import BINARY, free_port
from layers import Image
from test_other_registries import other  # noqa: F401
from test_rewrite import NAME, beside, flip, push, seen, stats, versions  # noqa: F401
from test_skopeo import PLAIN_FROM, PLAIN_TO, blob_bytes, layout, skopeo  # noqa: F401
from wire import IMAGE, INDEX, Client, at_once, descriptor, digest_of, encode, eventually, image, index

PATH, OTHER = "/v2/_dvcr/storage/collect", "disks/other"
KINDS = ["uploads", "members", "blobs", "data"]
NOTHING = {"count": 0, "bytes": 0}
WHILE = 60
"""Seconds for what takes a few."""

quick = functools.partial(dict, DVCR_GRACE="1", DVCR_COLLECT_INTERVAL="0")
"""Settings with which what nothing needs goes within seconds, when it is asked for."""


@pytest.fixture
def server(start, backend):
    """A registry over each backend in turn that waits no longer than it must, and collects when it is told to."""
    return start(backend, **quick())


@pytest.fixture
def folder(start):
    """The same over a directory alone."""
    return start("filesystem", **quick())


def collect(server, query=""):
    answer = Client(server.host).send("POST", PATH + query)
    assert answer.status == 200, answer
    return answer.json()


def dry_run(server):
    return collect(server, "?dryRun=true")


def collect_until(server, check):
    """Collects again and again until something is so. Gives how much of each kind was deleted."""
    deleted = {kind: Counter(NOTHING) for kind in KINDS}

    def again():
        done = collect(server)
        for kind in KINDS:
            deleted[kind].update(done[kind]["deleted"])
        return check()

    eventually(again, seconds=WHILE)
    return {kind: dict(amount) for kind, amount in deleted.items()}


def condemn(server, count):
    """Condemns all blobs of repositories that no manifest needs, when they are old enough: so many."""
    eventually(lambda: dry_run(server)["members"]["deleted"]["count"] == count, seconds=WHILE)
    assert collect(server)["members"]["condemned"]["count"] == count


def stored(server, *kinds):
    """Every object below these folders, and what changes when it is written."""
    found = {}
    if server.storage[0] == "--data":
        root = pathlib.Path(server.storage[1])
        for file in (file for kind in kinds for file in (root / kind).rglob("*") if not file.is_dir()):
            # It may go just now.
            with contextlib.suppress(FileNotFoundError):
                known = file.stat()
                found[str(file.relative_to(root))] = known.st_size, known.st_mtime_ns
        return found
    bucket, prefix = server.storage[1].removeprefix("s3://").split("/", 1)
    for kind in kinds:
        url = f"{server.storage[3]}/{bucket}?list-type=2&prefix={prefix}%2F{kind}%2F"
        login = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "dvcr-test:dvcr-test-secret"]
        listed = ElementTree.fromstring(subprocess.run(["curl", "-sf", *login, url], stdout=-1, check=True).stdout)
        assert listed.findtext("{*}IsTruncated") == "false"
        for entry in listed.findall("{*}Contents"):
            key = entry.findtext("{*}Key").removeprefix(f"{prefix}/")
            found[key] = (int(entry.findtext("{*}Size")), entry.findtext("{*}ETag"), entry.findtext("{*}LastModified"))
    return found


def data(server):
    """What takes space: the objects with the bytes of blobs, and with what they are made of."""
    return stored(server, "data", "recipes")


def everything(server):
    return stored(server, "blobs", "data", "recipes", "index", "condemned", "uploads", "catalog", "repositories")


def manifest_of(server, tag, name=NAME):
    """The digest of an image, and its manifest."""
    answer = Client(server.host).get(f"/v2/{name}/manifests/{tag}")
    assert answer.status == 200, answer
    return digest_of(answer.body), answer.json()


def blobs_of(server, tag, name=NAME):
    """The descriptors of what an image is made of."""
    _, manifest = manifest_of(server, tag, name)
    return [*manifest["layers"], manifest["config"]]


def layer_bytes(server, tag, name=NAME):
    """The bytes of the only layer of an image."""
    layer, _ = blobs_of(server, tag, name)
    answer = Client(server.host).get(f"/v2/{name}/blobs/{layer['digest']}")
    assert answer.status == 200 and digest_of(answer.body) == layer["digest"]
    return answer.body


def delete(server, tag, name=NAME):
    """Deletes an image by its digest, and gives the blobs that it had."""
    blobs, (digest, _) = blobs_of(server, tag, name), manifest_of(server, tag, name)
    assert Client(server.host).delete(f"/v2/{name}/manifests/{digest}").status == 202
    return [blob["digest"] for blob in blobs]


def has(server, digest, name=NAME):
    """Whether a blob is there. This is GET, which spares nothing."""
    answer = Client(server.host).get(f"/v2/{name}/blobs/{digest}")
    assert answer.status in (200, 404), answer
    assert answer.status == 404 or digest_of(answer.body) == digest
    return answer.status == 200


def none_of(server, digests, name=NAME):
    return not any(has(server, digest, name) for digest in digests)


def fill_and_delete(server, mib=2):
    """An image in a repository of its own that is pushed and deleted. Gives its blobs."""
    push(server, "waste", os.urandom(mib * MIB), name="disks/waste")
    return delete(server, "waste", "disks/waste")


# What stays.


def test_what_a_client_pushed_stays_bit_for_bit(server, layout, tmp_path):  # noqa: F811
    (source, digest), client, reference = layout, Client(server.host), f"docker://{server.host}/{NAME}:skopeo"
    skopeo("copy", "--preserve-digests", PLAIN_TO, f"oci:{source}:v1", reference)
    push(server, "chunks", os.urandom(3 * MIB))
    push(server, "gzip", os.urandom(2 * MIB), "gzip")
    # Without a tag of their own: below an index, about another one, and moved away from.
    below = client.push_image(NAME, "below", os.urandom(100_000))
    many = encode(index([(below, 500)]))
    assert client.put_manifest(NAME, "many", many, INDEX).status == 201
    assert client.delete(f"/v2/{NAME}/manifests/below").status == 202
    signature = encode(client.image(NAME, os.urandom(90_000), subject=descriptor(IMAGE, below, 500)))
    assert client.put_manifest(NAME, digest_of(signature), signature).status == 201
    moved = [client.push_image(NAME, "moved", os.urandom(80_000)) for _ in range(2)]

    def look():
        found = {}
        paths = [f"manifests/{reference}" for reference in [below, digest_of(many), digest_of(signature), *moved]]
        paths += ["manifests/many", "manifests/moved", "tags/list", f"referrers/{below}"]
        for path in paths:
            answer = client.get(f"/v2/{NAME}/{path}")
            assert answer.status == 200, (path, answer)
            found[path] = answer.body
            manifest = answer.json() if path.startswith("manifests/") else {}
            for blob in manifest.get("layers", []):
                assert has(server, blob["digest"])
        for tag in ["skopeo", "chunks", "gzip"]:
            found[tag] = layer_bytes(server, tag)
        return found

    shown, kept = look(), data(server)
    waste = fill_and_delete(server)
    # So these were many collections, and each step did something.
    collect_until(server, lambda: data(server) == kept)
    assert none_of(server, waste, "disks/waste")
    assert look() == shown
    server.restart()
    assert look() == shown
    skopeo("copy", "--preserve-digests", PLAIN_FROM, reference, f"oci:{tmp_path / 'back'}:v1")
    assert blob_bytes(tmp_path / "back", digest) == blob_bytes(source, digest)


def test_a_manifest_keeps_blobs_that_were_condemned(server):
    client, layer = Client(server.host), os.urandom(2 * MIB)
    manifest = encode(client.image(NAME, layer))
    waste = client.push_blob(NAME, os.urandom(50_000))
    condemn(server, 3)
    assert client.put_manifest(NAME, "v1", manifest).status == 201
    collect_until(server, lambda: not has(server, waste))
    collect_until(server, lambda: dry_run(server)["data"]["deleted"] == NOTHING)
    assert client.get(f"/v2/{NAME}/blobs/{digest_of(layer)}").body == layer
    assert has(server, digest_of(b"{}"))


# What goes.


def test_an_image_that_was_deleted_frees_what_no_other_one_needs(dvcr, server, versions):  # noqa: F811
    old, new = versions
    push(server, "old", old)
    shown, kept = seen(server), data(server)
    push(server, "new", new)
    push(server, "different", os.urandom(3 * MIB))
    gone = [*delete(server, "new"), *delete(server, "different")]
    collect_until(server, lambda: data(server) == kept)
    assert none_of(server, gone)
    assert stats(dvcr, server)["unreferenced_bytes"] == 0
    assert seen(server) == shown
    # All of it can be pushed again.
    push(server, "new", new)
    assert Image(server.host, NAME, "new").file()[1] == new
    server.restart()
    assert Image(server.host, NAME, "new").file()[1] == new


def test_an_image_stays_whole_when_the_one_goes_that_has_most_of_its_chunks(dvcr, server, versions):  # noqa: F811
    old, new = versions
    push(server, "old", old)
    one = stats(dvcr, server)["stored_bytes"]
    push(server, "new", new)
    assert stats(dvcr, server)["stored_bytes"] < one + MIB
    push(server, "different", os.urandom(3 * MIB))
    gone = [*delete(server, "old"), *delete(server, "different")]
    shown = seen(server)
    collect_until(server, lambda: none_of(server, gone))
    # What was condemned behind that, goes too.
    collect_until(server, lambda: stats(dvcr, server)["unreferenced_bytes"] < MIB)
    assert seen(server) == shown
    server.restart()
    assert seen(server) == shown
    assert Image(server.host, NAME, "new").file()[1] == new
    push(server, "old", old)
    assert Image(server.host, NAME, "old").file()[1] == old


def test_blobs_that_no_manifest_came_for_go(server):
    client = Client(server.host)
    digests = [client.push_blob(NAME, os.urandom(size)) for size in [1, 16384, 16385, 2 * MIB]]
    collect_until(server, lambda: none_of(server, digests))
    for digest in digests:
        assert client.head(f"/v2/{NAME}/blobs/{digest}").status == 404
        # Nor can it be mounted, which begins an upload then.
        for source in [f"&from={NAME}", ""]:
            location = client.begin(OTHER, f"?mount={digest}{source}")
            assert client.delete(location).status == 204
        assert not has(server, digest, OTHER)
    collect_until(server, lambda: not data(server))


def test_a_dry_run_changes_nothing_and_promises_what_then_happens(dvcr, server):
    push(server, "stays", os.urandom(2 * MIB))
    kept = data(server)
    for tag in ["one", "two"]:
        push(server, tag, os.urandom(2 * MIB))
    blobs = [*blobs_of(server, "one"), *blobs_of(server, "two")]
    takes = sum(size for key, (size, *_) in data(server).items() if key not in kept)
    for tag in ["one", "two"]:
        delete(server, tag)
    # What is too young is left alone.
    eventually(lambda: dry_run(server)["members"]["deleted"]["count"] == 4, seconds=WHILE)
    eventually(lambda: dry_run(server)["data"]["deleted"]["bytes"] == takes, seconds=WHILE)
    before, promised = everything(server), dry_run(server)
    assert promised["unreadable"] == 0
    assert all(promised[kind]["condemned"] == NOTHING for kind in KINDS)
    amount = {"count": 4, "bytes": sum(blob["size"] for blob in blobs)}
    assert promised["members"]["deleted"] == promised["blobs"]["deleted"] == amount
    assert dvcr.run("collect", "--dry-run", "--output", "json", server.host).json() == promised
    for _ in range(3):
        assert dry_run(server) == promised
    assert everything(server) == before
    deleted = collect_until(server, lambda: data(server) == kept)
    assert deleted == {kind: promised[kind]["deleted"] for kind in KINDS}
    assert all(dry_run(server)[kind]["deleted"] == NOTHING for kind in KINDS)


def test_what_is_condemned_is_told_until_it_goes(folder):
    digest = Client(folder.host).push_blob(NAME, os.urandom(2 * MIB))
    amount = {"count": 1, "bytes": 2 * MIB}
    condemn(folder, 1)
    promised, told = dry_run(folder)["members"], collect(folder)["members"]
    assert promised["deleted"] == amount, "it would go in the end"
    # It is over at some time.
    assert amount in told.values(), told
    collect_until(folder, lambda: not has(folder, digest))


# What is spared.


def test_a_blob_that_a_client_was_told_of_is_spared(server):
    client = Client(server.host)
    asked, forgotten = (client.push_blob(NAME, os.urandom(2 * MIB)) for _ in range(2))
    condemn(server, 2)
    assert client.head(f"/v2/{NAME}/blobs/{asked}").status == 200
    collect_until(server, lambda: not has(server, forgotten))
    assert has(server, asked)
    # Until nobody asks any more.
    collect_until(server, lambda: not has(server, asked))
    collect_until(server, lambda: not data(server))


def test_a_blob_that_is_mounted_in_its_grace_stays_there(server):
    client, targets = Client(server.host), {}
    for name, source in [(OTHER, f"&from={NAME}"), ("disks/third", "")]:
        targets[name] = os.urandom(2 * MIB), source
        client.push_image(NAME, "v1", targets[name][0])
        delete(server, "v1")
    gone = [*(digest_of(layer) for layer, _ in targets.values()), digest_of(b"{}")]
    condemn(server, 3)
    for name, (layer, source) in targets.items():
        for digest in [digest_of(layer), digest_of(b"{}")]:
            assert client.send("POST", f"/v2/{name}/blobs/uploads/?mount={digest}{source}").status == 201
        manifest = encode(image([(digest_of(layer), len(layer))], (digest_of(b"{}"), 2)))
        assert client.put_manifest(name, "v1", manifest).status == 201
    waste = fill_and_delete(server)
    collect_until(server, lambda: none_of(server, gone) and none_of(server, waste, "disks/waste"))
    collect_until(server, lambda: dry_run(server)["data"]["deleted"] == NOTHING)
    for name, (layer, _) in targets.items():
        assert layer_bytes(server, "v1", name) == layer


# Uploads.


def slow_patches(client, content):
    """Pushes in several requests, with time between them. Gives the last answer."""
    location, step = client.begin(NAME), len(content) // 6
    for start in range(0, len(content), step):
        answer = client.patch(location, content[start : start + step], start)
        if answer.status != 202:
            return answer
        time.sleep(0.4)
    return client.finish(location, digest_of(content))


def slow_put(client, content):
    """Pushes in one request without a length that waits in the middle."""

    def pieces():
        for start in range(0, len(content), MIB):
            yield content[start : start + MIB]
            if start == 4 * MIB:
                time.sleep(2.5)

    location = client.begin(NAME)
    return client.send("PUT", f"{location}?digest={digest_of(content)}", pieces(), chunked=True)


def test_a_push_under_way_is_right_or_told_to_begin_again(server, versions):  # noqa: F811
    """It finds most of its chunks in an image that goes just then."""
    (old, new), client = versions, Client(server.host)
    push(server, "old", old)
    delete(server, "old")
    contents = [new[:-1], new[:-2], new[: 8 * MIB] + os.urandom(MIB)]
    ways = [slow_patches, slow_put, slow_patches]

    def upload(way, content):
        for _ in range(5):
            answer = way(client, content)
            if answer.status == 201:
                return
            # Told to begin again.
            assert (answer.status, answer.codes()) == (404, ["BLOB_UPLOAD_UNKNOWN"]), answer
        raise AssertionError("told to begin again each time")

    def finish(way, content):
        upload(way, content)
        manifest = encode(image([(digest_of(content), len(content))], (client.push_blob(NAME, b"{}"), 2)))
        answer = client.put_manifest(NAME, f"v{contents.index(content)}", manifest)
        assert answer.status == 201, answer

    with beside(lambda: collect(server)):
        at_once([functools.partial(finish, *both) for both in zip(ways, contents, strict=True)])
    waste = fill_and_delete(server)
    collect_until(server, lambda: none_of(server, waste, "disks/waste"))
    collect_until(server, lambda: dry_run(server)["data"]["deleted"] == NOTHING)
    for _ in range(2):
        for number, content in enumerate(contents):
            assert layer_bytes(server, f"v{number}") == content
        server.restart()


def test_an_upload_that_nobody_goes_on_with_goes(start, backend):
    # Servers tell no time of less than a second.
    server = start(backend, **quick(DVCR_ABANDONED_AFTER="3"))
    client, content = Client(server.host), os.urandom(40 * 10_000)
    left = [client.begin(NAME) for _ in range(3)]
    for location, size in zip(left[1:], [100, 3 * MIB], strict=True):
        assert client.patch(location, os.urandom(size)).status == 202
    going, sent = client.begin(NAME), 0

    def go_on():
        nonlocal sent
        if client.get(left[2]).status == 404:
            return True
        if sent < len(content) - 10_000:
            assert client.patch(going, content[sent : sent + 10_000], sent).status == 202
            sent += 10_000
        time.sleep(0.15)
        return False

    deleted = collect_until(server, go_on)
    assert deleted["uploads"] == {"count": 3, "bytes": 100 + 3 * MIB}
    for location in left:
        assert client.get(location).status == 404
        assert client.patch(location, b"more").status == 404
        assert client.finish(location, digest_of(b"")).status == 404
    assert client.offset(going) == sent
    assert client.finish(going, digest_of(content), content[sent:]).status == 201
    manifest = encode(image([(digest_of(content), len(content))], (client.push_blob(NAME, b"{}"), 2)))
    assert client.put_manifest(NAME, "v1", manifest).status == 201
    collect_until(server, lambda: sum(size for size, *_ in data(server).values()) < MIB)
    assert client.get(f"/v2/{NAME}/blobs/{digest_of(content)}").body == content


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_that_goes_on_in_one_request_stays(start, method):
    server = start("filesystem", **quick(DVCR_ABANDONED_AFTER="1"))
    client, content = Client(server.host), os.urandom(4 * MIB)

    def pieces():
        for start in range(0, len(content), MIB):
            yield content[start : start + MIB]
            time.sleep(0.5)
            collect(server)

    location = client.begin(NAME)
    if method == "PUT":
        answer = client.send("PUT", f"{location}?digest={digest_of(content)}", pieces(), chunked=True)
    else:
        answer = client.send("PATCH", location, pieces(), chunked=True)
        assert answer.status == 202, answer
        answer = client.finish(location, digest_of(content))
    assert answer.status == 201, answer
    assert client.get(f"/v2/{NAME}/blobs/{digest_of(content)}").body == content


# By itself.


def test_it_happens_by_itself(dvcr, start, backend):
    server = start(backend, **quick(DVCR_COLLECT_INTERVAL="1", DVCR_ABANDONED_AFTER="1"))
    client = Client(server.host)
    push(server, "stays", os.urandom(2 * MIB))
    shown, kept = seen(server), data(server)
    push(server, "goes", os.urandom(2 * MIB))
    gone, location = delete(server, "goes"), client.begin(NAME)
    client.patch(location, os.urandom(2 * MIB))
    eventually(lambda: data(server) == kept and client.get(location).status == 404, seconds=WHILE)
    assert none_of(server, gone)
    assert stats(dvcr, server)["unreferenced_bytes"] == 0
    assert seen(server) == shown
    assert server.stop() == 0


def test_nothing_happens_by_itself_when_that_is_not_wanted(folder):
    waste = fill_and_delete(folder)
    before = everything(folder)
    time.sleep(1.5)
    assert everything(folder) == before
    assert not none_of(folder, waste, "disks/waste")


def test_no_grace_is_refused(tmp_path):
    for name in ["DVCR_GRACE", "DVCR_ABANDONED_AFTER"]:
        arguments = [BINARY, "serve", "--listen", f"127.0.0.1:{free_port()}", "--data", tmp_path / "data"]
        environment = {**os.environ, name: "0"}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode != DONE
        assert name.removeprefix("DVCR_").lower() in done.stderr.lower(), done


# Many at once.


class Pusher:
    """A client that pushes and deletes images of a few layers at any replica, and looks at what it has."""

    def __init__(self, clients, layers, number):
        self.clients, self.layers, self.number = clients, layers, number
        self.dice, self.there, self.gone, self.again = random.Random(f"pusher {number}"), {}, set(), 0

    def client(self):
        return self.dice.choice(self.clients)

    def push_blob(self, content):
        """As docker does: only what is not there."""
        if self.client().head(f"/v2/{NAME}/blobs/{digest_of(content)}").status == 200:
            return
        for _ in range(10):
            answer = self.client().finish(self.client().begin(NAME), digest_of(content), content)
            if answer.status == 201:
                return
            assert (answer.status, answer.codes()) == (404, ["BLOB_UPLOAD_UNKNOWN"]), answer
            self.again += 1
        raise AssertionError("told to begin again each time")

    def push(self):
        layer, config = self.dice.choice(self.layers), encode({"number": self.number, "salt": os.urandom(8).hex()})
        manifest = encode(image([(digest_of(layer), len(layer))], (digest_of(config), len(config))))
        for _ in range(10):
            self.push_blob(layer)
            self.push_blob(config)
            answer = self.client().put_manifest(NAME, f"v{self.number}-{len(self.there)}", manifest)
            if answer.status == 201:
                self.there[digest_of(manifest)] = manifest, layer, config
                return
            # It took longer than the grace.
            assert answer.codes() == ["MANIFEST_BLOB_UNKNOWN"], answer
            self.again += 1
        raise AssertionError("told to begin again each time")

    def delete(self):
        digest = self.dice.choice(list(self.there))
        del self.there[digest]
        assert self.client().delete(f"/v2/{NAME}/manifests/{digest}").status == 202
        self.gone.add(digest)

    def look(self, digest):
        manifest, layer, config = self.there[digest]
        assert self.client().get(f"/v2/{NAME}/manifests/{digest}").body == manifest
        for content in [layer, config]:
            answer = self.client().get(f"/v2/{NAME}/blobs/{digest_of(content)}")
            assert answer.status == 200 and answer.body == content, answer

    def look_at_all(self):
        for digest in self.there:
            self.look(digest)
        for digest in self.gone:
            assert self.client().get(f"/v2/{NAME}/manifests/{digest}").status == 404

    def run(self, deadline):
        while time.monotonic() < deadline:
            self.push()
            if self.dice.random() < 0.3:
                self.look(self.dice.choice(list(self.there)))
            while self.there and self.dice.random() < 0.5:
                self.delete()
            if self.dice.random() < 0.2:
                # Layers have to be without an image for long enough.
                while self.there:
                    self.delete()
                time.sleep(self.dice.random() * 4)
        self.look_at_all()


@pytest.mark.slow
def test_two_replicas_collect_beside_pushes_and_deletions(start):
    storage, settings = s3_storage(), quick(DVCR_COLLECT_INTERVAL="1", DVCR_ABANDONED_AFTER="5")
    servers = [start("s3", storage, **settings) for _ in range(2)]
    clients, base = [Client(server.host) for server in servers], os.urandom(2 * MIB)
    layers = [os.urandom(200_000) + base + os.urandom(1000) for _ in range(3)] + [os.urandom(40_000), base[:-1]]
    pushers = [Pusher(clients, layers, number) for number in range(3)]
    deadline = time.monotonic() + 12
    at_once([functools.partial(pusher.run, deadline) for pusher in pushers])
    assert sum(len(pusher.gone) for pusher in pushers) > 5
    for pusher in pushers:
        pusher.look_at_all()
    # And all the rest goes.
    for pusher in pushers:
        while pusher.there:
            pusher.delete()
    eventually(lambda: not data(servers[0]), seconds=WHILE)
    pushers[0].push()
    pushers[0].look_at_all()


def test_many_collections_at_the_same_moment_do_no_harm(folder):
    push(folder, "stays", os.urandom(2 * MIB))
    shown, kept = seen(folder), data(folder)
    push(folder, "goes", os.urandom(2 * MIB))
    gone = delete(folder, "goes")

    def again():
        at_once([lambda: collect(folder)] * 4)
        return data(folder) == kept

    eventually(again, seconds=WHILE)
    assert none_of(folder, gone)
    assert seen(folder) == shown


def test_a_server_that_is_killed_in_the_middle_loses_nothing_and_finishes_later(dvcr, server):
    dice, gone = random.Random("when it is killed"), []

    def collect_on(ended):
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            while not ended.is_set():
                collect(server)

    for number in range(4):
        for tag in ["stays", "goes"]:
            push(server, f"{tag}{number}", os.urandom(2 * MIB))
        gone += delete(server, f"goes{number}")
        shown, ended = seen(server), threading.Event()
        with ThreadPoolExecutor(1) as threads:
            collecting = threads.submit(collect_on, ended)
            time.sleep(0.2 + dice.random())
            server.kill()
            ended.set()
            collecting.result()
        server.start()
        assert seen(server) == shown
    collect_until(server, lambda: none_of(server, gone) and stats(dvcr, server)["unreferenced_bytes"] == 0)
    assert seen(server) == shown


# What is damaged.


def half_of_it_goes(path):
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


@contextlib.contextmanager
def damaged(path, damage):
    """A file that is damaged, and whole again behind that."""
    whole = path.read_bytes()
    damage(path)
    yield
    path.write_bytes(whole)


def manifest_file(server, tag):
    digest = manifest_of(server, tag)[0].removeprefix("sha256:")
    return pathlib.Path(server.storage[1]) / "repositories" / NAME / "_manifests/sha256" / digest


def damage_layer(path):
    """Makes the manifest name another layer."""
    flip(path, path.read_bytes().rindex(b"sha256:") + 20)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(half_of_it_goes, id="half of it is gone"),
        pytest.param(damage_layer, id="the digest of its layer"),
    ],
)
def test_nothing_goes_from_a_repository_with_a_damaged_manifest(folder, damage):
    layer = push(folder, "damaged", os.urandom(2 * MIB))
    shown = seen(folder)
    push(folder, "goes", os.urandom(2 * MIB))
    blobs = delete(folder, "goes")
    with damaged(manifest_file(folder, "damaged"), damage):
        waste = fill_and_delete(folder)
        # Another repository is no worse off.
        collect_until(folder, lambda: none_of(folder, waste, "disks/waste"))
        collect_until(folder, lambda: dry_run(folder)["data"]["deleted"] == NOTHING)
        assert has(folder, layer)
        assert all(has(folder, blob) for blob in blobs)
    assert seen(folder) == shown
    collect_until(folder, lambda: none_of(folder, blobs))
    assert seen(folder) == shown


def test_no_data_goes_while_a_recipe_is_damaged(dvcr, folder):
    push(folder, "damaged", os.urandom(2 * MIB))
    shown, kept = seen(folder), data(folder)
    (recipe,) = (key for key in kept if key.startswith("recipes/"))
    path, size = pathlib.Path(folder.storage[1]) / recipe, kept[recipe][0]
    push(folder, "goes", os.urandom(2 * MIB))
    blobs = delete(folder, "goes")
    collect_until(folder, lambda: none_of(folder, blobs))
    both = data(folder)
    damages = [half_of_it_goes, *(functools.partial(flip, at=at) for at in [0, size // 2, size - 1])]
    for damage in [*damages, pathlib.Path.unlink]:
        with damaged(path, damage):
            for _ in range(2):
                assert collect(folder)["unreadable"] == 1
                assert dry_run(folder)["unreadable"] == 1
                done = dvcr.run("collect", "--output", "json", folder.host, code=FAILED)
                assert done.json()["unreadable"] == 1 and done.json()["data"]["deleted"] == NOTHING
                assert folder.host in done.error()
                time.sleep(0.25)
        assert data(folder).keys() == both.keys()
    collect_until(folder, lambda: data(folder).keys() == kept.keys())
    assert seen(folder) == shown


# What is asked, and what is answered.


def test_the_answer_is_json(dvcr, folder):
    push(folder, "goes", os.urandom(2 * MIB))
    delete(folder, "goes")
    condemn(folder, 2)
    for arguments in [[], ["--dry-run"]]:
        answer = dvcr.run("collect", "--output", "json", *arguments, folder.host).json()
        kinds = [*KINDS, "tags", "manifests"]
        assert set(answer) == {*kinds, "unreadable", "expired", "notTold"}
        assert (answer["unreadable"], answer["expired"], answer["notTold"]) == (0, [], 0)
        for kind in kinds:
            assert set(answer[kind]) == {"condemned", "deleted"}
            for amount in answer[kind].values():
                assert set(amount) == {"count", "bytes"}
                assert all(isinstance(number, int) for number in amount.values())
    answer = Client(folder.host).send("POST", f"{PATH}?dryRun=false")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")


def test_a_person_is_told_what_went_and_what_would_go(dvcr, folder):
    client = Client(folder.host)
    digest = client.push_blob(NAME, os.urandom(3 * MIB))
    eventually(lambda: dry_run(folder)["data"]["deleted"]["bytes"], seconds=WHILE)
    text = dvcr.run("collect", "--dry-run", folder.host).out.decode()
    for told in ["abandoned uploads", "no manifest", "in no repository", "nothing refers to", "WOULD GO", "1 (3"]:
        assert told in text, text
    assert has(folder, digest)
    found = []

    def collects():
        found.append(dvcr.run("collect", folder.host).out.decode())
        return not data(folder)

    eventually(collects, seconds=WHILE)
    assert all("GONE" in text and "TO GO" in text for text in found), found
    for line in ["no manifest", "in no repository"]:
        lines = [row for text in found for row in text.splitlines() if line in row]
        assert any("1 (3" in row for row in lines), lines


def test_a_registry_that_is_not_dvcr_is_named(dvcr, other):  # noqa: F811
    for arguments in [[], ["--dry-run"]]:
        assert f"{other} is no registry of DVCR" in dvcr.refuses("collect", *arguments, other, code=FAILED)


def test_a_registry_that_is_not_there_is_named(dvcr):
    # The port is one that nobody can have.
    assert "127.0.0.1:1" in dvcr.refuses("collect", "127.0.0.1:1", code=FAILED)


def test_a_registry_is_named_without_a_repository(dvcr, local):
    dvcr.run("collect", f"{local.host}/{NAME}", code=ASKED_WRONGLY)
    dvcr.run("collect", code=ASKED_WRONGLY)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_collects(local, method):
    answer = local.send(method, PATH)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert answer.codes()


@pytest.mark.parametrize("value", ["", "yes", "True", "1", "true,false"])
def test_a_dry_run_is_asked_for_in_plain_words(local, value):
    answer = local.send("POST", f"{PATH}?dryRun={value}")
    assert answer.status == 400 and answer.codes()
    (error,) = answer.json()["errors"]
    assert "true or false" in error["message"]
