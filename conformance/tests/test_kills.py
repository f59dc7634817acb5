"""201 means durable: a server is killed at random points, again and again, and what was acknowledged is there each time.

A crowd pushes, mounts, moves, deletes and leaves uploads open while everything is collected that nobody needs for some seconds.
In the middle of it the server, or one of two on a bucket, is killed and started again on what it left; then it is looked from
outside whether everything is as the crowd was told, and nothing is there by halves. In the end all is deleted, and nothing stays.
"""

import os
import random
import threading
import time

import pytest

from conftest import s3_storage
from crowd import Layers, Person, crowd
from ledger import GONE, Ledger, Look, resume
from test_collect import collect, stored
from wire import Client, eventually

SEED = int(os.environ.get("CONFORMANCE_SEED", "1"))
SECONDS = float(os.environ.get("CONFORMANCE_SECONDS", "45"))
KILLS = int(os.environ.get("CONFORMANCE_KILLS", "0"))
"""So many at least, however long they take."""
PEOPLE = 6
GRACE, MARGIN = 6, 5
"""Seconds for which a blob that a client was told of stays, and how many of those a look may take."""

SETTINGS = {
    "DVCR_EMBEDDED_API": "false",
    "DVCR_GRACE": str(GRACE),
    "DVCR_COLLECT_INTERVAL": "1",
    "DVCR_CHUNK_FROM": "65536",
    "DVCR_LOG_LEVEL": "warn",
}
QUICK = {"DVCR_GRACE": "1", "DVCR_UPLOAD_TIMEOUT": "1", "DVCR_ABANDONED_AFTER": "1", "DVCR_COLLECT_INTERVAL": "0"}
WHILE = 180
"""Seconds for a few collections, on a machine that has much to do."""
KINDS, RECORDS = ("data", "recipes", "uploads", "index"), ("blobs", "repositories")

pytestmark = pytest.mark.slow


class Trial:
    """Servers over one store, and a crowd of `number`, each of whom is made by `person`."""

    def __init__(self, servers, seed, pieces=4, layers=None, number=PEOPLE, person=Person, grace=GRACE):
        self.servers, self.seed, self.dice = servers, seed, random.Random(seed)
        self.ledger = Ledger(grace=grace)
        self.hosts = [server.host for server in servers]
        layers = layers or Layers(seed, pieces=pieces)
        self.people = [person(n, lambda: self.hosts, self.ledger, layers, seed, number) for n in range(number)]
        self.threads, self.rounds = [], 0

    def round(self, happening):
        """The crowd is at work, something happens, and it is looked what there is."""
        stop = threading.Event()
        self.threads, failures = crowd(self.people, stop)
        happening()
        stop.set()
        for thread in self.threads:
            thread.join()
        assert not failures, f"seed {self.seed}, round {self.rounds}: {failures}"

    def look(self, thoroughness=0.2):
        reads = lambda: self.dice.random() < thoroughness  # noqa: E731
        look = Look(self.ledger, self.dice.choice(self.hosts), grace=max(1, self.ledger.grace - MARGIN), reads=reads)
        assert not look.wrong, f"seed {self.seed}, round {self.rounds}: {look.wrong}"
        self.ledger.settle(look)
        for person in self.people:
            person.remember(look)
        self.rounds += 1
        return look

    def counts(self):
        names = {name for person in self.people for name in person.counts}
        return {name: sum(person.counts.get(name, 0) for person in self.people) for name in sorted(names)}

    def end(self):
        """Everything is right; and when all is deleted, nothing stays."""
        look = self.look(thoroughness=1)
        assert not (wrong := resume(self.ledger, self.hosts[0], look)), wrong
        for server in self.servers:
            server.stop()
        server = self.servers[0]
        server.environment = {**server.environment, **QUICK}
        client = Client(server.start().host)
        for (kind, name, what), value in look.seen.items():
            if kind == "manifest" and value:
                assert client.delete(f"/v2/{name}/manifests/{what}").status == 202

        left = {}

        def is_empty():
            nonlocal left
            assert collect(server)["unreadable"] == 0
            left = stored(server, *KINDS)
            if server.storage[0] == "--data":
                # In a bucket records are more than a page of them. Of each there is a tombstone left.
                left |= {key: found for key, found in stored(server, *RECORDS).items() if found[0] > 16}
            return not left

        eventually(is_empty, WHILE, otherwise=lambda: f"seed {self.seed}: there is {left}")
        assert {value for (kind, _, _), value in Look(self.ledger, server.host, grace=0).seen.items() if kind == "upload"} <= {GONE}


@pytest.fixture
def servers(start, backend):
    if backend == "filesystem":
        return [start("filesystem", **SETTINGS)]
    storage = s3_storage()
    return [start("s3", storage, **SETTINGS) for _ in range(2)]


def test_what_was_acknowledged_survives_kills_at_any_moment(servers):
    trial = Trial(servers, SEED)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until or trial.rounds < KILLS:
        victim = trial.dice.choice(servers)

        def kill(victim=victim):
            time.sleep(trial.dice.uniform(0.02, 0.6))
            victim.kill()
            trial.hosts = [server.host for server in servers if server is not victim]
            if trial.hosts:
                # The other one goes on; and what was on its way to the bucket arrives.
                time.sleep(trial.dice.uniform(0.3, 0.5))
            else:
                trial.hosts = [victim.host]

        trial.round(kill)
        victim.start()
        trial.hosts = [server.host for server in servers]
        trial.look()
    trial.end()
    print(f"seed {SEED}: {trial.rounds} kills, {trial.counts()}")
