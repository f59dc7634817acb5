"""Memory is bounded, whatever the size of what is pushed and pulled."""

import fcntl
import hashlib
import http.client
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from disk import MIB
from wire import Client

pytestmark = pytest.mark.slow

GIB = 1024 * MIB
CLIENTS, SIZE = 8, 2 * GIB


@pytest.fixture(autouse=True)
def room(tmp_path, tmp_path_factory):
    """One of them at a time, for the disk's sake; and what one that fails leaves would fail those after it."""
    with open(tmp_path_factory.getbasetemp().parent / "memory.lock", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        free = shutil.disk_usage(tmp_path).free
        assert free > CLIENTS * SIZE + GIB, f"{tmp_path} has {free // GIB} GiB left; this takes {CLIENTS * SIZE // GIB} GiB"
        yield
        shutil.rmtree(tmp_path)


def noise(seed):
    """2 GiB that do not compress and are in no other blob, a MiB at a time."""
    pool = hashlib.shake_256(seed.to_bytes(8, "big")).digest(8 * MIB)
    for i in range(SIZE // MIB):
        # The same bytes come again, but no block of a disk is like another.
        start = i * 4099 % (7 * MIB)
        yield pool[start : start + MIB]


def push(server, seed):
    client = Client(server.host)
    sha256 = hashlib.sha256()

    def pieces():
        for piece in noise(seed):
            sha256.update(piece)
            yield piece

    name = f"disks/of-{seed}"
    location = client.begin(name)
    patched = client.send("PATCH", location, pieces(), {"Transfer-Encoding": "chunked"}, chunked=True, timeout=600)
    assert patched.status == 202, patched
    digest = f"sha256:{sha256.hexdigest()}"
    assert client.finish(location, digest).status == 201
    return name, digest


def pull(server, name, digest):
    connection = http.client.HTTPConnection(server.host, timeout=600)
    connection.request("GET", f"/v2/{name}/blobs/{digest}")
    response = connection.getresponse()
    found = hashlib.file_digest(response, "sha256").hexdigest()
    connection.close()
    assert f"sha256:{found}" == digest


@pytest.mark.parametrize(
    ("backend", "resources", "limit"),
    # The API for resources and their controller take some for themselves, once; with a bucket, 128 MiB are what was read.
    [("filesystem", "false", 256), ("filesystem", "true", 320), ("s3", "false", 448)],
    indirect=["backend"],
)
def test_eight_clients_that_push_2_gib_each_stay_within_the_limit(start, backend, resources, limit):
    server = start(backend, DVCR_EMBEDDED_API=resources)
    with ThreadPoolExecutor(CLIENTS) as clients:
        pushed = list(clients.map(lambda seed: push(server, seed), range(CLIENTS)))
        after_push = server.peak_memory()
        list(clients.map(lambda blob: pull(server, *blob), pushed))
    print(f"{server.storage[0]}: peak {after_push:.0f} MiB after pushes, {server.peak_memory():.0f} MiB after pulls")
    assert server.peak_memory() < limit
