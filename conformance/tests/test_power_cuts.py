"""201 means durable: whenever the power is cut, what was acknowledged is there, and nothing is there by halves.

A crowd pushes, moves and deletes while everything that the server does to its files is recorded (`power.py`). Then the power
is cut at many moments, most of them just behind an answer; of what was not synced by then nothing, everything, or any
mixture is there; and the server is started on that.
"""

import contextlib
import os
import random
import re
import threading
import time

import pytest

from crowd import Layers, Person, crowd
from dvcr import Dvcr
from ledger import Ledger, Look, resume
from power import Recorded, fingerprint, remove, write
from wire import Client, eventually

SEED = int(os.environ.get("CONFORMANCE_SEED", "1"))
SECONDS = float(os.environ.get("CONFORMANCE_SECONDS", "5"))
CUTS = int(os.environ.get("CONFORMANCE_CUTS", "25"))
PEOPLE = 5

SETTINGS = {"DVCR_EMBEDDED_API": "false", "DVCR_COLLECT_INTERVAL": "0", "DVCR_LOG_LEVEL": "warn", "DVCR_CHUNK_FROM": "65536"}
QUICK = {"DVCR_GRACE": "1", "DVCR_UPLOAD_TIMEOUT": "1", "DVCR_ABANDONED_AFTER": "1"}
COLLECT = "/v2/_dvcr/storage/collect"

pytestmark = pytest.mark.slow


def record(folder, seed, seconds):
    """What a server did to its files while a crowd was at work and it collected, and what the crowd was told."""
    server = Recorded(folder, {**SETTINGS, "DVCR_GRACE": "1"})
    ledger, stop = Ledger(grace=1), threading.Event()
    server.start()
    try:
        people = [Person(n, lambda: [server.host], ledger, Layers(seed), seed, PEOPLE) for n in range(PEOPLE)]
        threads, failures = crowd(people, stop)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not stop.is_set():
            # Now and then, and while the crowd is at work.
            assert Client(server.host).send("POST", COLLECT).status == 200
            time.sleep(0.2)
        # The last answers are still on their way: the power is cut in the middle of them too.
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures, failures
    finally:
        server.kill()
        # The recorder ends behind what it records.
        time.sleep(0.5)
    done = {}
    for person in people:
        for deed, count in person.counts.items():
            done[deed] = done.get(deed, 0) + count
    recording = server.recording()
    print(f"seed {seed}: {len(recording.events)} calls, {len(ledger.deeds)} deeds, {done}")
    assert not server.panics()
    return recording, ledger


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded"), SEED, SECONDS)


def moments(recording, ledger, dice, count):
    """Moments to cut the power: just behind an answer, and while something is being synced."""
    answers = [deed.ended for deed in ledger.deeds if deed.ended]
    syncs = [time - 1e-6 for time in recording.syncs(min(answers) - 1)]
    return sorted([dice.choice(answers if dice.random() < 0.6 else syncs) for _ in range(count)])


class Restarted:
    """A server on what is left of a disk."""

    def __init__(self, folder, found):
        self.folder = folder
        folder.mkdir()
        write(found, folder)
        self.log = folder / "log"

    def __enter__(self):
        self.server = Dvcr(["--data", str(self.folder / "data")], self.log, SETTINGS).start()
        return self

    def __exit__(self, *error):
        self.server.kill()
        panics = self.server.panics()
        remove(self.folder)
        assert not panics, panics

    def check(self, ledger, when, is_thorough):
        """What is wrong, seen from outside."""
        look = Look(ledger, self.server.host, when)
        wrong = look.wrong or resume(ledger, self.server.host, look)
        if is_thorough and not wrong:
            wrong = self.push_again(ledger, look) or self.sweep(ledger, look, when)
        return wrong

    def push_again(self, ledger, look):
        """Everything that was ever pushed can be pushed again."""
        client = Client(self.server.host)
        for register in look.known:
            kind, name, digest = register
            if kind == "blob":
                client.push_blob(name, ledger.blobs[digest])
        for register in look.known:
            kind, name, digest = register
            if kind == "manifest" and all(("blob", name, blob) in look.known for blob in ledger.manifests[digest][1]):
                answer = client.put_manifest(name, digest, ledger.manifests[digest][0])
                assert answer.status == 201, answer
                look.seen[register] = True
        wrong = []
        for kind, name, digest in (register for register in look.known if register[0] == "blob"):
            if client.get(f"/v2/{name}/blobs/{digest}").body != ledger.blobs[digest]:
                wrong.append(f"blob {digest} of {name} was pushed again and is not what was sent")
        return wrong

    def sweep(self, ledger, look, when):
        """Collections take away what nothing needs, and, once all images are deleted, everything."""
        self.server.stop()
        self.server.environment = {**SETTINGS, **QUICK}
        client = Client(self.server.start().host)
        for _ in range(4):
            time.sleep(0.6)
            assert client.send("POST", COLLECT).json()["unreadable"] == 0
        wrong = []
        for (kind, name, digest), is_there in look.seen.items():
            if kind == "manifest" and is_there:
                for blob in ledger.manifests[digest][1]:
                    if client.get(f"/v2/{name}/blobs/{blob}").body != ledger.blobs[blob]:
                        wrong.append(f"blob {blob} of {name} went by a collection after {when}")
                assert client.delete(f"/v2/{name}/manifests/{digest}").status == 202

        def is_empty():
            assert client.send("POST", COLLECT).json()["unreadable"] == 0
            return not self.left()

        with contextlib.suppress(AssertionError):
            eventually(is_empty, 20)
        return wrong or [f"{path} stays" for path in self.left()]

    def left(self):
        """Files that hold something, or are no objects at all, though nothing is stored."""
        root = self.folder / "data"
        files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        kinds = ("data", "recipes", "uploads", "index")
        strange = [path for path in files if not re.fullmatch(r"[\w./=!-]+", str(path))]
        return [path for path in files if path.parts[0] in kinds] + strange


def cuts(recording, ledger, seed, count):
    """Disks after power cuts, each once: when, what is there, and which mixture that is."""
    dice, seen = random.Random(seed), set()
    for number, when in enumerate(moments(recording, ledger, dice, count)):
        disk = recording.disk(when)
        mixtures = [("nothing", disk.nothing_unsafe()), ("some", disk.some(dice))]
        if number % 4 == 0:
            mixtures += [("everything", disk.everything()), ("names", disk.names_without_bytes())]
        for mixture, found in mixtures:
            if (look := fingerprint(found)) not in seen:
                seen.add(look)
                yield when, found, mixture


def test_what_was_acknowledged_survives_a_power_cut(recorded, tmp_path):
    recording, ledger = recorded
    began = time.monotonic()
    for number, (when, found, mixture) in enumerate(cuts(recording, ledger, SEED, CUTS)):
        with Restarted(tmp_path / f"cut{number}", found) as restarted:
            wrong = restarted.check(ledger, when, is_thorough=number % 16 == 7)
        assert not wrong, f"seed {SEED}, {mixture} of what was not synced at {when:.6f}: {wrong}"
    print(f"{number + 1} disks in {time.monotonic() - began:.0f} s")


def test_what_a_killed_process_did_not_sync_is_safe_before_anybody_is_told_of_it(tmp_path):
    """Who is killed between a write and its sync leaves what looks as if it were durable."""
    server, ledger = Recorded(tmp_path / "recorded", SETTINGS), Ledger()
    server.syncs = False
    server.start()
    person = Person(0, lambda: [server.host], ledger, Layers(SEED), SEED)
    for _ in range(5):
        person.push()
    person.leave_open()
    server.kill()
    time.sleep(0.5)
    killed = time.time()
    server.syncs = True
    server.start()
    for path in (f"/v2/{person.name}/manifests/{tag}" for tag in person.tags):
        assert Client(server.host).head(path).status == 200
    told = time.time()
    server.kill()
    time.sleep(0.5)
    wrong = []
    for number, when in enumerate([killed, told]):
        with Restarted(tmp_path / f"cut{number}", server.recording().disk(when).nothing_unsafe()) as restarted:
            wrong.append(restarted.check(ledger, when, is_thorough=False))
    assert wrong[0], "the first process has synced"
    assert not wrong[1]


UNBELIEVED = {
    "the bytes of data": r"/data/data/\w+/.*",
    "the names of data": r"/data/data/\w+",
    "the names of the folders of data": r"/data/data",
    "the names of records of blobs": r"/data/blobs/sha256/\w\w",
    "the folders of records of blobs": r"/data/blobs/sha256",
    "what chunks a blob is made of": r"/data/recipes/\w+(/.*)?",
    "manifests": r".*/_manifests/sha256",
    "tags": r".*/_tags",
    "which blobs a repository has": r".*/_blobs/sha256",
    "uploads": r"/data/uploads",
    "repositories": r"/data/repositories(/crowd)?",
}


@pytest.mark.parametrize("what", UNBELIEVED)
def test_a_sync_that_is_left_out_is_found(recorded, tmp_path, what):
    """What the harness is worth: it notices when syncs of one kind do nothing."""
    recording, ledger = recorded
    pattern = re.compile(UNBELIEVED[what])
    answers = sorted(deed.ended for deed in ledger.deeds if deed.ended)
    for number, when in enumerate(answers[:: max(1, len(answers) // 8)]):
        found = recording.disk(when, lambda path: not pattern.fullmatch(path)).nothing_unsafe()
        with Restarted(tmp_path / f"cut{number}", found) as restarted:
            look = Look(ledger, restarted.server.host, when)
            if look.wrong or resume(ledger, restarted.server.host, look):
                return
    raise AssertionError(f"nobody misses {what}")
