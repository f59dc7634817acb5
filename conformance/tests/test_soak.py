"""Everybody at once, for long: clients and programs come and go against collection that never rests, and nothing is lost.

Clients push, mount, retag, pull, delete, and leave uploads that they go on with later; among them are skopeo, crane and docker.
What any of them was told goes into a ledger, and is compared with what is there: at once, byte for byte, what was pushed, and
all of it now and then, when everybody stands still for a moment. In the end all is deleted, and nothing stays.

Here for a minute; `make soak-collect` has a hundred thousand events, and `make soak-clients` ten minutes of 64 clients.
"""

import collections
import contextlib
import os
import pathlib
import random
import threading
import time

import pytest

from conftest import s3_storage
from crowd import Layers
from disk import MIB
from patient import Patient
from programs import Crane, Docker, Skopeo
from test_kills import GRACE, SETTINGS, Trial
from wire import Client

SEED = int(os.environ.get("CONFORMANCE_SEED", "1"))
EVENTS = int(os.environ.get("CONFORMANCE_EVENTS", "1000"))
"""What is done on each backend, at least."""
SECONDS = float(os.environ.get("CONFORMANCE_SECONDS", "15"))
PEOPLE, CLIENTS = 8, 64
ROUND = 1000
"""Events between two looks at everything; where it is counted in seconds, a minute."""
MOST = 100
"""Rounds in which something must have been collected."""

LONG = 300
"""Seconds of a soak from which on it is told whether memory grows."""

SHORT = 3
"""The grace in seconds, where nobody is killed."""

INDEX, READ = 64 * MIB, 64 * MIB
"""Memory for what is known of chunks, and for what was read lately, as the servers of the clients are told."""

pytestmark = pytest.mark.slow


class Soak(Trial):
    """A trial with real programs among the crowd."""

    def __init__(self, servers, folder, cache, docker, **options):
        self.downs = []
        """When the server that is killed went, and when it was there again: nothing, while it is not."""
        self.mortal = servers[-1]
        person = lambda *arguments: Patient(*arguments, may_hang_up=self.may_hang_up)  # noqa: E731
        super().__init__(servers, SEED, person=person, **options)
        Crane.binary, Docker.daemon = cache / "bin/crane", docker
        killed = lambda since: self.may_hang_up(self.mortal.host, since)  # noqa: E731
        for number, program in enumerate([Skopeo, Crane, Docker]):
            self.people[number] = program(number, lambda: self.hosts, self.ledger, SEED, folder / program.__name__, killed)
        self.begun, self.looks = time.monotonic(), 0

    def may_hang_up(self, host, since):
        return host == self.mortal.host and any(up is None or up >= since for _, up in self.downs)

    def events(self):
        return sum(sum(person.counts.values()) for person in self.people)

    def collected(self):
        """How many objects the servers have collected since they began."""
        return sum(map(deleted_by, self.servers))

    def tell(self):
        """What a person reads at the end."""
        again = sum((person.again for person in self.people), collections.Counter())
        moved = sum(person.moved for person in self.people)
        print(
            f"\nseed {SEED}, {self.servers[0].storage[0]}: {self.events()} events, 0 failures in "
            f"{time.monotonic() - self.begun:.0f} s; {moved / MIB:.0f} MiB moved and compared, {self.rounds} looks at everything, "
            f"{self.collected()} objects collected; {dict(again)} tried again\n  {self.counts()}"
        )
        assert self.collected(), "nothing was collected, so nothing was tried"


def deleted_by(server):
    lines = Client(server.host).get("/metrics").body.decode().splitlines()
    found = [line for line in lines if line.startswith("dvcr_collection_objects_total{") and 'step="deleted"' in line]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in found)


@pytest.fixture
def servers(start, backend):
    settings = {**SETTINGS, "DVCR_GRACE": str(SHORT)}
    if backend == "filesystem":
        return [start("filesystem", **settings)]
    storage = s3_storage()
    return [start("s3", storage, **settings) for _ in range(2)]


def test_everybody_comes_and_goes_while_everything_is_collected(servers, tmp_path, cache, docker):
    # So many layers that each of them is not needed now and then for longer than the grace.
    layers = Layers(SEED, count=400)
    soak, until = Soak(servers, tmp_path, cache, docker, layers=layers, number=PEOPLE, grace=SHORT), 0

    def enough():
        while soak.events() < until and all(thread.is_alive() for thread in soak.threads):
            time.sleep(0.05)

    while soak.events() < EVENTS or (not soak.collected() and soak.rounds < MOST):
        until = soak.events() + ROUND
        soak.round(enough)
        soak.look(thoroughness=0.05)
        print(f"{soak.events()} of {EVENTS} events, {time.monotonic() - soak.begun:.0f} s", flush=True)
    soak.tell()
    soak.end()


# Many clients, and a server that is killed again and again.


def mixed(seed):
    """Layers from a byte to 24 MiB, most of them small, which have pieces in common."""
    layers, dice = Layers(seed), random.Random(seed)
    noise = [dice.randbytes(MIB) for _ in range(24)]
    for mib, count in [(2, 5), (8, 3), (24, 1)]:
        for _ in range(count):
            first = dice.randrange(len(noise))
            parts = [noise[(first + i) % len(noise)] for i in range(mib)]
            parts.insert(dice.randrange(len(parts)), dice.randbytes(5000))
            layers.all.append(b"".join(parts))
    return layers


class Memory(threading.Thread):
    """What a process takes, twice a second, in MiB."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.status, self.samples, self.stopped = pathlib.Path(f"/proc/{pid}/status"), [], threading.Event()

    def run(self):
        # When a test fails, the process goes first.
        with contextlib.suppress(FileNotFoundError, ValueError):
            while not self.stopped.wait(0.5):
                (line,) = (line for line in self.status.read_text().splitlines() if line.startswith("VmRSS:"))
                self.samples.append(int(line.split()[1]) / 1024)

    def stop(self):
        self.stopped.set()
        self.join()

    def parts(self, number=10):
        """The peak of each tenth."""
        size = max(1, len(self.samples) // number)
        return [round(max(self.samples[at : at + size])) for at in range(0, len(self.samples), size)][:number]


def limit():
    """What a server may take that serves all clients at the same moment, in MiB.

    Each of them may have a part of 8 MiB that fills and four batches of 1 MiB on their way through hashes and zstd; eight parts
    are sent at one time; and then there is what servers keep to themselves, and 64 MiB for the process.
    """
    return CLIENTS * (8 + 4) + 8 * 8 + (INDEX + READ) // MIB + 64


def test_clients_lose_nothing_when_one_of_two_replicas_is_killed_again_and_again(start, tmp_path, cache, docker):
    memory = {"DVCR_CHUNK_INDEX_MEMORY": str(INDEX), "DVCR_READ_MEMORY": str(READ)}
    storage = s3_storage()
    servers = [start("s3", storage, **SETTINGS, **memory) for _ in range(2)]
    survivor, mortal = servers
    soak = Soak(servers, tmp_path, cache, docker, layers=mixed(SEED), number=CLIENTS, grace=GRACE)
    sampled = Memory(survivor.pid)
    sampled.start()
    lived = 0

    def kills(seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until and all(thread.is_alive() for thread in soak.threads):
            time.sleep(soak.dice.uniform(1, 6))
            soak.downs.append((time.time(), None))
            mortal.kill()
            soak.hosts = [survivor.host]
            time.sleep(soak.dice.uniform(0, 3))
            mortal.start()
            soak.downs[-1] = soak.downs[-1][0], time.time()
            soak.hosts = [server.host for server in servers]

    while lived < SECONDS:
        begun = time.monotonic()
        soak.round(lambda: kills(min(60, SECONDS - lived)))
        lived += time.monotonic() - begun
        soak.look(thoroughness=0.1)
        print(f"{lived:.0f} s, {soak.events()} events, {len(soak.downs)} kills, {sampled.samples[-1]:.0f} MiB", flush=True)
    sampled.stop()
    soak.tell()
    peaks = sampled.parts()
    moved = sum(person.moved for person in soak.people) / MIB
    print(
        f"  {CLIENTS} clients for {lived:.0f} s, {len(soak.downs)} kills; memory of the other server by tenths of the time: {peaks} "
        f"MiB, at most {survivor.peak_memory():.0f}; the limit is {limit()}, and {moved:.0f} MiB went through both"
    )
    assert survivor.peak_memory() < limit()
    if lived > LONG:
        assert max(peaks[5:]) < 1.25 * max(peaks[1:5]), f"memory grows: {peaks}"
    soak.end()
