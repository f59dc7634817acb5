"""A store with a million blobs: how long a server takes to start over it, with which memory, and what it takes to collect it.

Every blob is of a few bytes, since it is their number that counts; a thousand are an image, and a tenth as many more are needed by
none. DVCR collects while it serves, and waits for its grace between its steps: a second here, which does not count. distribution is
stopped for it.
"""

import os
import resource
import subprocess
import time

from bench.client import Refused, connected
from bench.fill import in_parallel, manifest, push_small, put_manifest
from bench.measure import cpu, forget_pages, memory, taken
from bench.race import Scene
from bench.servers import Missing, surroundings

from wire import digest_of

TITLE = "Many blobs"

A_REPOSITORY, GRACE = 1000, 1
ROWS = {
    "empty": "start with an empty store, until /v2/ is answered",
    "start": "start over all of them, none of it in the page cache",
    "collect": "collection, until what nothing needs is gone",
}
LAYER = "application/vnd.oci.image.layer.v1.tar"


def fill(server, count):
    """Images of a thousand blobs each, and in each repository a tenth as many that no image has."""

    def image(client, number):
        name = f"bench/r{number:06}"
        layers = [f"{number} {at}".encode() for at in range(min(A_REPOSITORY, count))]
        for at, layer in enumerate([*layers, b"{}"]):
            push_small(client, name, layer)
            if at % 10 == 0:
                push_small(client, name, b"needed by none: " + layer)
        described = [{"mediaType": LAYER, "digest": digest_of(layer), "size": len(layer)} for layer in layers]
        put_manifest(client, name, "v1", manifest(b"{}", layers=described))

    in_parallel(server, range(max(1, count // A_REPOSITORY)), image)


def begin(server):
    """Starts a server; gives how long it took and what it had to do for it."""
    began = time.monotonic()
    server.start()
    with connected(server) as client:
        client.ask("GET", "/v2/", 200)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "cpu": cpu(server.pid), "rss": memory(server.pid, "VmRSS")}


def expect(server, there):
    """That a needed blob is there, and whether the blob that nothing needs is there."""
    with connected(server) as client:
        client.ask("HEAD", f"/v2/bench/r000000/blobs/{digest_of(b'needed by none: 0 0')}", 200 if there else 404)
        client.ask("HEAD", f"/v2/bench/r000000/blobs/{digest_of(b'0 1')}", 200)


def collect_online(server):
    """Asks for collections until nothing is left to be done."""

    def action():
        waited = 0
        for _ in range(3):
            done = subprocess.run([server.peer.program(), "collect", server.host], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Refused(f"dvcr collect: {done.stderr.strip()}")
            time.sleep(GRACE + 0.5)
            waited += GRACE + 0.5
        return {"waited": waited}

    row = taken(server, action)
    return row | {"seconds": row["seconds"] - row.pop("waited")}


def collect_offline(server):
    """As distribution documents it, while nobody is served."""
    server.stop()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [server.peer.program(), "garbage-collect", str(server.folder / "config.yml")]
    with (server.folder / "collect.log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", server.settings.cores[0], *command],
            stdout=log,
            stderr=log,
            env=surroundings() | {"OTEL_TRACES_EXPORTER": "none"},
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise Refused(f"garbage-collect: {(server.folder / 'collect.log').read_text(errors='replace')[-300:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    server.start()
    return {"seconds": seconds, "cpu": spent, "peak": used.ru_maxrss * 1024}


def play(turn):
    if turn.peer.collects is None:
        raise Missing("how it collects is not written here")
    server = turn.new_server(environment={"DVCR_GRACE": str(GRACE)})
    first = begin(server)
    if turn.wants("empty"):
        turn.record("empty", first)
    if not (turn.wants("start") or turn.wants("collect")):
        return
    fill(server, turn.settings.blobs)
    server.stop()
    forget_pages(server.store.folder)
    second = begin(server)
    if turn.wants("start"):
        turn.record("start", second)
    if turn.wants("collect"):
        expect(server, there=True)
        turn.record("collect", collect_online(server) if turn.peer.collects == "online" else collect_offline(server))
        expect(server, there=False)


def scenes(settings):
    rows = {row: what.replace("all of them", f"{settings.blobs} blobs") for row, what in ROWS.items()}
    for store in ("filesystem", "seaweedfs"):
        yield Scene(f"scale/{store}", play, store, ("dvcr", "distribution", "docker-registry", "zot"), tuple(rows.items()))
