"""Whose turn it is. Each scene is played by every peer in turns, A B A B, each time with a server and a store that are new.

A scene measures one row or several of one place, such as the pulls of one blob. A peer that cannot play is in the results with the
reason, and one that fails is too, with what it answered: neither ends the run.
"""

import contextlib
import http.client
import shutil
import subprocess
import sys
import tempfile
import pathlib

from collections.abc import Callable
from dataclasses import dataclass, field

from bench import stores
from bench.client import Refused
from bench.measure import taken
from bench.servers import Missing, Server


FAILURES = (
    *(Refused, OSError, RuntimeError, AssertionError, ValueError, KeyError),
    *(http.client.HTTPException, subprocess.SubprocessError),
)
"""What a server that does not do what is asked of it makes of a turn."""


@dataclass(frozen=True)
class Scene:
    name: str
    """How the names of its rows begin."""
    play: Callable
    """Takes a Turn."""
    store: str = "filesystem"
    peers: tuple = ("dvcr", "distribution", "docker-registry", "zot")
    rows: tuple = ()
    """What it may measure, each with a sentence that says what that is."""
    needs: str = ""
    """What a peer must not lack."""


@dataclass
class Turn:
    """One peer's turn at a scene."""

    scene: Scene
    peer: object
    settings: object
    inputs: object
    folder: pathlib.Path
    stack: contextlib.ExitStack
    rows: dict = field(default_factory=dict)
    reasons: dict = field(default_factory=dict)
    """Why there is no such row, or nothing more of the scene."""

    def wants(self, row):
        return self.settings.wants(f"{self.scene.name}/{row}")

    def server(self, tls=None):
        """A server with a new store. Both go when the turn is over."""
        return self.new_server(tls).start()

    def new_server(self, tls=None, environment=None):
        """The same before it is started."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        store = self.stack.enter_context(stores.store(self.scene.store, folder, self.settings))
        server = Server(self.peer, store, folder, self.settings, tls, environment)
        self.stack.callback(server.stop)
        return server

    @staticmethod
    def done(server):
        """Its data may be gigabytes, and goes at once."""
        server.stop()
        server.store.stop()

    def attempt(self, row, action):
        """Does what a row takes. When it fails, the others are played all the same."""
        if self.wants(row):
            with self.excused(f"{self.scene.name}/{row}"):
                action()

    @contextlib.contextmanager
    def excused(self, name):
        """Keeps the reason for which something is missing in the results."""
        try:
            yield
        except Missing as reason:
            self.reasons[name] = str(reason)
        except FAILURES as error:
            self.reasons[name] = f"failed: {' '.join(str(error).split())[:300]}"

    def measure(self, row, server, action, check=lambda: None, **facts):
        """Measures a row. `check` fails where the work was not done, which then does not count; `facts` are what it is counted by:
        `payload` in bytes, `requests`."""
        if self.wants(row):
            values = taken(server, action)
            check()
            self.record(row, values | facts)

    def record(self, row, values):
        self.rows[f"{self.scene.name}/{row}"] = values


def say(text):
    print(text, file=sys.stderr, flush=True)


def turn(scene, peer, settings, inputs):
    """Plays a scene once."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="turn-", dir=settings.folder))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        played = Turn(scene, peer, settings, inputs, folder, stack)
        with played.excused(scene.name):
            scene.play(played)
        return played


def cannot(scene, peer):
    """Why a peer does not play at all."""
    if scene.store not in peer.stores:
        return f"it has no {scene.store} here"
    return peer.lacks.get(scene.needs)


def race(scene, peers, settings, inputs):
    """All turns at a scene: for each row and peer a measurement each round; and for what is missing of whom the reason."""
    results, reasons = {}, {}
    peers = [peer for peer in peers if peer.name in scene.peers]
    for peer in peers:
        if reason := cannot(scene, peer):
            reasons.setdefault(scene.name, {})[peer.name] = reason
    for number in range(1, settings.rounds + 1):
        for peer in peers:
            # Who failed as a whole would fail again.
            if peer.name in reasons.get(scene.name, {}):
                continue
            played = turn(scene, peer, settings, inputs)
            for name, reason in played.reasons.items():
                reasons.setdefault(name, {})[peer.name] = reason
                say(f"{name}: {peer.name}: {reason}")
            for row, values in played.rows.items():
                results.setdefault(row, {}).setdefault(peer.name, []).append(values)
                took = ", ".join(f"{key} {values[key]:.4g}" for key in ("seconds", "cpu") if key in values)
                say(f"{row}, round {number} of {settings.rounds}, {peer.name}: {took}")
    return results, reasons
