"""What versions of a disk cost to store: the series of bench_series.py, with its Debian and its settings. Takes root and 20 GB.

Here each registry is alone when it gets them, and CPU and memory are told too; `make bench-series` compares what comes back and
says what each version adds.
"""

import os
import shutil

from functools import partial

from bench.measure import taken
from bench.race import Scene
from bench.servers import Missing

import bench_series

from command import Command

TITLE = "Versions of a disk"


def key(name):
    return name.replace(" ", "-")


def push(home, disk, reference):
    home.imports(disk, reference, timeout=3600)


def one(name, turn):
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        raise Missing("making a Debian takes root and debootstrap")
    bench_series.FOLDER.mkdir(parents=True, exist_ok=True)
    work, server, home = turn.folder / key(name), turn.server(), Command(turn.folder / "home")
    work.mkdir()
    row = {"cpu": 0, "seconds": 0, "stored": 0, "written": 0, "payload": 0, "peak": 0}
    make, _, _ = bench_series.SERIES[name]
    for number, disk in enumerate(make(work), 1):
        took = taken(server, partial(push, home, disk, f"{server.host}/bench/debian:v{number}"))
        for what in ("cpu", "seconds", "stored", "written"):
            row[what] += took[what]
        row["peak"] = max(row["peak"], took["peak"])
        row["payload"] += disk.stat().st_size
    turn.record(key(name), row)
    turn.done(server)


def play(turn):
    for name in bench_series.SERIES:
        turn.attempt(key(name), partial(one, name, turn))


def scenes(settings):
    rows = tuple((key(name), f"{bench_series.VERSIONS} versions, by dvcr import: {name}") for name in bench_series.SERIES)
    yield Scene("series/filesystem", play, "filesystem", ("dvcr", "dvcr-whole", "distribution", "docker-registry"), rows)
