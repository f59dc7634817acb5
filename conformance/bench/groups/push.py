"""Push of one large blob, in the ways in which clients do it, to new servers: noise, and a disk as people have them."""

from functools import partial

from bench.client import connected
from bench.floors import hashed_and_written
from bench.race import Scene

TITLE = "Push of one blob"

WAYS = {
    "patch": ("one streamed PATCH, as docker does", lambda client, name, blob: client.push_stream(name, blob)),
    "put": ("one PUT, as containerd does", lambda client, name, blob: client.push_whole(name, blob)),
    "1MiB": ("a PATCH for each MiB", lambda client, name, blob: client.push_chunks(name, blob, 1 << 20)),
    "64MiB": ("a PATCH for each 64 MiB", lambda client, name, blob: client.push_chunks(name, blob, 64 << 20)),
}
KINDS = {"random": "noise", "disk": "a layer with an ext4 disk"}
SMALL = 64 << 20
"""What is pushed into a bucket by the MiB, at most: distribution copies all that it has with each of them, which are terabytes for
a blob of 4 GiB."""
PEERS = ("dvcr", "dvcr-whole", "distribution", "docker-registry", "zot")


def play(kind, turn):
    for row in WAYS:
        turn.attempt(row, partial(one, kind, row, turn))


def one(kind, row, turn):
    small = row == "1MiB" and turn.scene.store != "filesystem"
    blob = turn.inputs.get(kind, min(SMALL, turn.inputs.size) if small else None)
    server = turn.server()
    with connected(server) as client:
        push = partial(WAYS[row][1], client, "bench/disk", blob)
        turn.measure(row, server, push, payload=blob.size, zeros=blob.zeros)
        client.holds("bench/disk", blob)
    turn.done(server)


def floor(kind, turn):
    blob = turn.inputs.get(kind)
    turn.record("sha256+write", hashed_and_written(blob.path, turn.folder / "copy", turn.settings) | {"payload": blob.size})


def scenes(settings):
    for store in ("filesystem", "seaweedfs", "minio"):
        for kind, what in KINDS.items():
            small = "" if store == "filesystem" else ", of 64 MiB at most"
            rows = tuple((row, f"{what}: {way}{small if row == '1MiB' else ''}") for row, (way, _) in WAYS.items())
            yield Scene(f"push/{store}/{kind}", partial(play, kind), store, PEERS, rows)
        if store == "filesystem":
            rows = (("sha256+write", "no server: sha256 of the noise, writing and syncing it, in one thread"),)
            yield Scene("push/floor/random", partial(floor, "random"), store, ("floor",), rows)
