"""Eight clients at once: with blobs of their own, with the same blob, and a blob that another repository has already."""

from functools import partial

from bench.client import at_once, connected
from bench.race import Scene

TITLE = "Eight clients at once"

CLIENTS = 8
ROWS = {
    "different": "eight clients push different noise at once, one PUT each, of a quarter of the size",
    "same": "eight clients push the same noise at once, each into a repository of its own",
    "known": "one client pushes noise that another repository has, all of it once more",
    "mount": "one client mounts it instead",
}
PEERS = ("dvcr", "dvcr-whole", "distribution", "docker-registry", "zot")


def push(name, blob, client):
    client.push_whole(name, blob)
    client.holds(name, blob)


def play(turn):
    part = turn.inputs.size // 4
    turn.attempt("different", partial(push_all, turn, "different", range(CLIENTS)))
    turn.attempt("same", partial(push_all, turn, "same", [0] * CLIENTS))
    if turn.wants("known") or turn.wants("mount"):
        blob, server = turn.inputs.get("random", part), turn.server()
        with connected(server) as client:
            push("bench/first", blob, client)
            turn.measure("known", server, partial(push, "bench/known", blob, client), payload=part)
            turn.measure("mount", server, partial(mount, "bench/mounted", "bench/first", blob, client))


def push_all(turn, row, seeds):
    """Noise of each seed by a client of its own, into a repository of its own."""
    blobs, server = [turn.inputs.get("random", turn.inputs.size // 4, seed) for seed in seeds], turn.server()
    pushes = [partial(push, f"bench/{number}", blob) for number, blob in enumerate(blobs)]
    turn.measure(row, server, partial(at_once, server, pushes), payload=sum(blob.size for blob in blobs))
    turn.done(server)


def mount(name, source, blob, client):
    path = f"/v2/{name}/blobs/uploads/?mount={blob.digest}&from={source}"
    client.ask("POST", path, 201, {"Content-Length": "0"})


def scenes(settings):
    for store in ("filesystem", "seaweedfs", "minio"):
        yield Scene(f"concurrent/{store}", play, store, PEERS, tuple(ROWS.items()))
