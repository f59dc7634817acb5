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
TIMES = 16
LONG = f"{TIMES}times"
"""The row by which it is seen whether memory grows with what is pushed."""
KINDS = {"random": "noise", "disk": "a layer with an ext4 disk"}
SMALL = 64 << 20
"""What is pushed into a bucket by the MiB, at most: distribution copies all that it has with each of them, which are terabytes for
a blob of 4 GiB."""
PEERS = ("dvcr", "dvcr-whole", "distribution", "docker-registry", "zot")


def play(kind, turn):
    for row, (_, send) in WAYS.items():
        small = row == "1MiB" and turn.scene.store != "filesystem"
        blob = partial(turn.inputs.get, kind, min(SMALL, turn.inputs.size) if small else None)
        turn.attempt(row, partial(one, row, send, blob, turn))
    if LONG in dict(turn.scene.rows):
        turn.attempt(LONG, partial(one, LONG, WAYS["patch"][1], partial(turn.inputs.repeated, kind, TIMES), turn))


def one(row, send, made, turn):
    blob, server = made(), turn.server()
    with connected(server) as client:
        push = partial(send, client, "bench/disk", blob)
        turn.measure(row, server, push, partial(client.holds, "bench/disk", blob), payload=blob.size, zeros=blob.zeros)
    turn.done(server)


def floor(kind, turn):
    blob = turn.inputs.get(kind)
    turn.record("sha256+write", hashed_and_written(blob.path, turn.folder / "copy", turn.settings) | {"payload": blob.size})


def scenes(settings):
    for store in ("filesystem", "seaweedfs", "minio"):
        for kind, what in KINDS.items():
            small = "" if store == "filesystem" else ", of 64 MiB at most"
            rows = tuple((row, f"{what}: {way}{small if row == '1MiB' else ''}") for row, (way, _) in WAYS.items())
            if (store, kind) == ("filesystem", "random"):
                rows += ((LONG, f"{what}, {TIMES} times over, each time in another order: one streamed PATCH"),)
            yield Scene(f"push/{store}/{kind}", partial(play, kind), store, PEERS, rows)
        if store == "filesystem":
            rows = (("sha256+write", "no server: sha256 of the noise, writing and syncing it, in one thread"),)
            yield Scene("push/floor/random", partial(floor, "random"), store, ("floor",), rows)
