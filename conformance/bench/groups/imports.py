"""From the address of a disk to an image in a registry: `dvcr import`, beside what people write who have no such command.

They fetch the file with curl, decompress it, put it into a tar, and copy that as an image with skopeo: here into their registries.
nginx serves the files, on the cores of the clients. `make bench-import` has the floors: sha256 and the decompressors alone.
"""

import hashlib
import resource
import subprocess

from dataclasses import replace
from functools import partial

from bench.groups.clients import layout, skopeo_copy
from bench.inputs import MIB, Blob
from bench.peers import PEERS
from bench.race import Scene
from bench.servers import Missing, Server
from bench_import import make_sources

TITLE = "Import"

ROWS = {
    "raw": "a raw disk, half noise and half programs, over HTTP into a registry",
    "qcow2": "the same as qcow2",
    "raw.gz": "the same, by gzip -1",
    "raw.xz": "the same, by xz -1 in blocks",
    "raw.zst": "the same, by zstd -1",
}
DECOMPRESS = {"raw.gz": "gzip -dc", "raw.xz": "xz -dc -T0", "raw.zst": "zstd -dcq"}


class Files:
    """A folder that is served as it is."""

    name = "filesystem"

    def __init__(self, folder):
        self.folder = folder


def web(inputs, settings):
    """Disks in every form, and a web server that has them; for the whole run."""
    nginx = PEERS["nginx"]
    if reason := nginx.missing():
        raise Missing(f"{reason}, which serves the disks")

    def start():
        folder = inputs.folder / "web"
        (folder / "files").mkdir(parents=True)
        sources = make_sources(folder / "files", inputs.size // MIB)
        among_clients = replace(settings, cores=(settings.cores[1], settings.cores[1]))
        return sources, inputs.stack.enter_context(Server(nginx, Files(folder / "files"), folder, among_clients))

    return inputs.once("web", start)


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-300:]}")


def by_command(server, address):
    run(PEERS["dvcr"].program(), "import", "--progress", "none", address, f"{server.host}/bench/disk:v1")


def by_hand(kind, folder, server, address):
    """A script of a page in a wiki."""
    suffix = "qcow2" if kind == "qcow2" else "raw"
    (folder / "disk").mkdir()
    disk, layer = folder / f"disk/disk.{suffix}", folder / "layer.tar"
    if expand := DECOMPRESS.get(kind):
        run("sh", "-c", f"curl -sSf --noproxy '*' {address} | {expand} > {disk}")
    else:
        run("curl", "-sSf", "--noproxy", "*", "-o", disk, address)
    run("tar", "-C", folder, "--owner=107", "--group=107", "-cf", layer, f"disk/disk.{suffix}")
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made = layout(folder / "layout", Blob(layer, layer.stat().st_size, f"sha256:{digest}", 0))
    skopeo_copy(f"oci:{made}", f"docker://{server.host}/bench/disk:v1", "--dest-tls-verify=false")


def one(kind, turn):
    sources, files = web(turn.inputs, turn.settings)
    server, address = turn.server(), f"http://{files.host}/{sources[kind].name}"
    work = turn.folder / kind
    work.mkdir()
    do = by_command if turn.peer.name == "dvcr" else partial(by_hand, kind, work)

    def action():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        do(server, address)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"client_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    turn.measure(kind, server, action, payload=turn.inputs.size)
    turn.done(server)


def play(turn):
    for kind in ROWS:
        turn.attempt(kind, partial(one, kind, turn))


def scenes(settings):
    for store in ("filesystem", "seaweedfs"):
        yield Scene(f"import/{store}", play, store, ("dvcr", "distribution", "docker-registry"), tuple(ROWS.items()))
