"""Runs what was asked for, and writes the results after each scene, so that a run that is ended has those that it came to."""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

from dataclasses import replace

from bench.groups import GROUPS
from bench.inputs import Inputs
from bench.machine import machine
from bench.peers import PEERS
from bench.plots import plots
from bench.race import race, say
from bench.settings import MIB, Settings, core_numbers
from bench.table import markdown


def chosen(settings):
    if unknown := set(settings.peers) - set(PEERS):
        raise SystemExit(f"bench: BENCH_PEERS: no peer is called {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    return [peer for name, peer in PEERS.items() if not settings.peers or name in (*settings.peers, "floor")]


def scenes(settings):
    """What is asked for, by group."""
    found = {}
    for name, group in GROUPS.items():
        if some := [scene for scene in group.scenes(settings) if settings.wants_some_of(scene.name)]:
            found[name] = some
    for name in settings.rows:
        if not any(replace(settings, rows=[name]).wants_some_of(scene.name) for group in found.values() for scene in group):
            raise SystemExit(f"bench: BENCH: nothing is called {name}; `make bench BENCH=list` has the names")
    return found


def list_names(settings):
    for group in GROUPS.values():
        for scene in group.scenes(settings):
            for row, what in scene.rows:
                print(f"{scene.name}/{row:14} {what}")


def draw(runs, out):
    """The table and the plots of runs."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(markdown(*runs))
    # Plots of other runs would say that they are of this one.
    shutil.rmtree(out / "plots", ignore_errors=True)
    (out / "plots").mkdir()
    for name, svg in plots(*runs).items():
        (out / "plots" / name).write_text(svg)


def write(raw, out):
    out.mkdir(parents=True, exist_ok=True)
    (out / "raw.json").write_text(json.dumps(raw, indent=1))
    draw([raw], out)


def run(settings):
    found = scenes(settings)
    settings.folder.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=settings.folder))
    settings = replace(settings, folder=folder)
    # Every client of this process and its children is here, and no server.
    os.sched_setaffinity(0, core_numbers(settings.cores[1]))
    peers = chosen(settings)
    # Who is not here is told of once, and in no other place.
    versions = {peer.name: peer.missing() or peer.version() for peer in peers}
    peers = [peer for peer in peers if not peer.missing()]
    said = {"size_mib": settings.size // MIB, "rounds": settings.rounds, "count": settings.count, "seconds": settings.seconds}
    raw = {"machine": machine(settings), "settings": said | {"blobs": settings.blobs}, "versions": versions, "groups": {}}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        inputs = Inputs(folder / "inputs", settings.size, stack)
        for name, some in found.items():
            group = raw["groups"][name] = {"title": GROUPS[name].TITLE, "results": {}, "described": {}, "reasons": {}}
            for scene in some:
                results, reasons = race(scene, peers, settings, inputs)
                group["results"] |= results
                group["described"] |= {f"{scene.name}/{row}": what for row, what in scene.rows}
                group["reasons"] |= reasons
                write(raw, settings.out)
    print((settings.out / "table.md").read_text())
    say(f"results are in {settings.out}")


def main():
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    how = "draw the tables and plots of a run again, or of several runs of one machine together"
    parser.add_argument("--draw", metavar="RAW.JSON", type=pathlib.Path, nargs="+", help=how)
    arguments = parser.parse_args()
    # Or whoever ends this process leaves its servers and gigabytes of data behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended"))
    settings = Settings()
    if arguments.draw:
        draw([json.loads(path.read_text()) for path in arguments.draw], settings.out)
    elif settings.rows == ["list"]:
        list_names(settings)
    else:
        run(settings)


if __name__ == "__main__":
    main()
