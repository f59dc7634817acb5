"""Pull of that blob to a client that discards it: whole, in ranges, by eight at once, from memory and from disk, over TLS.

The server has not been restarted since the push, and has been read from once, except where the page cache was told to forget its
files. nginx sends the same file with sendfile.
"""

import subprocess

from functools import partial

from bench.certificate import certificate
from bench.client import at_once, blob_path, connected
from bench.measure import forget_pages
from bench.race import Scene

TITLE = "Pull of one blob"

MIB = 1 << 20
ROWS = {
    "whole": "one GET, warm",
    "1MiB": "ranges of 1 MiB, one after the other, warm",
    "16MiB": "ranges of 16 MiB, one after the other, warm",
    "8clients": "eight clients at once, one GET each, warm",
    "cold": "one GET, nothing of it in the page cache",
    "tls": "one GET over TLS by curl, HTTP/1.1, warm",
}
NAME = "bench/disk"


def fill(turn, server, blob):
    """Puts the blob there, and reads it once."""
    if turn.peer.pushes:
        with connected(server) as client:
            client.push_whole(NAME, blob)
    else:
        turn.peer.put(server, NAME, blob)


def play(kind, turn):
    blob = turn.inputs.get(kind)
    if any(turn.wants(row) for row in ROWS if row != "tls"):
        server, path = turn.server(), blob_path(NAME, blob)
        fill(turn, server, blob)
        with connected(server) as client:
            client.pull(path, blob.size)
            turn.measure("whole", server, lambda: client.pull(path, blob.size), payload=blob.size)
            turn.measure("1MiB", server, lambda: client.pull_ranges(path, blob.size, MIB), payload=blob.size)
            turn.measure("16MiB", server, lambda: client.pull_ranges(path, blob.size, 16 * MIB), payload=blob.size)
        pulls = [lambda client: client.pull(path, blob.size)] * 8
        turn.measure("8clients", server, lambda: at_once(server, pulls), payload=8 * blob.size)
        if turn.wants("cold"):
            forget_pages(server.store.folder)
            with connected(server) as client:
                turn.measure("cold", server, lambda: client.pull(path, blob.size), payload=blob.size)
        turn.done(server)
    if turn.wants("tls") and turn.scene.store == "filesystem":
        over_tls(turn, blob)


def over_tls(turn, blob):
    tls = certificate(turn.folder)
    server = turn.server(tls)
    # curl pushes too, where somebody takes pushes.
    if turn.peer.pushes:
        push_by_curl(server, blob)
    else:
        turn.peer.put(server, NAME, blob)
    address = f"{server.url}{blob_path(NAME, blob)}"

    def pull():
        length = int(curl("--write-out", "%{size_download}", address))
        if length != blob.size:
            raise RuntimeError(f"{length} bytes of {blob.size}")

    pull()
    turn.measure("tls", server, pull, payload=blob.size)


def push_by_curl(server, blob):
    begin = f"{server.url}/v2/{NAME}/blobs/uploads/"
    place = curl("--request", "POST", "--data", "", "--write-out", "%header{location}", begin)
    place = place if "://" in place else server.url + place
    curl("--upload-file", blob.path, f"{place}{'&' if '?' in place else '?'}digest={blob.digest}")


def curl(*arguments):
    command = ["curl", "--silent", "--show-error", "--fail", "--insecure", "--http1.1", "--noproxy", "*", "--output", "/dev/null"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def scenes(settings):
    for store in ("filesystem", "seaweedfs", "minio"):
        for kind, what in {"random": "noise", "disk": "a layer with an ext4 disk"}.items():
            peers = ("dvcr", "dvcr-whole", "distribution", "docker-registry", "zot", "nginx")
            rows = tuple((row, f"{what}: {how}") for row, how in ROWS.items() if store == "filesystem" or row != "tls")
            yield Scene(f"pull/{store}/{kind}", partial(play, kind), store, peers, rows)
