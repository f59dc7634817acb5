"""What a run is told, all from the environment, so that `make bench BENCH=push` passes it on."""

import os
import pathlib

from dataclasses import dataclass, field

HERE = pathlib.Path(__file__).parent
CONFORMANCE = HERE.parent
MIB = 1 << 20


def cache():
    """The folder with what conformance/setup and bench/setup install."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "dvcr"
    return pathlib.Path(os.environ.get("CONFORMANCE_CACHE", default))


def number(name, default):
    return int(os.environ.get(name) or default)


SMALLEST = 16
"""MiB that a file system takes with its journal and something in it."""


def size():
    if (mib := number("BENCH_SIZE", 4096)) < SMALLEST:
        raise SystemExit(f"bench: BENCH_SIZE={mib}: a disk of less than {SMALLEST} MiB holds nothing")
    return mib * MIB


def names(name):
    return [word for word in os.environ.get(name, "").replace(" ", ",").split(",") if word]


def cores():
    """The cores of servers and those of clients. They never share one, because the kernel charges what it copies between
    two processes on one core to either of them as it likes."""
    if given := os.environ.get("BENCH_CORES"):
        server, client = given.split("/")
        return server, client
    have = sorted(os.sched_getaffinity(0))
    half = (len(have) + 1) // 2
    if len(have) < 2:
        raise SystemExit("bench: servers and clients take cores of their own, and this machine has one")
    return ",".join(map(str, have[:half])), ",".join(map(str, have[half:]))


def core_numbers(text):
    """The numbers in a list as taskset has it: 0,2-3."""
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


@dataclass(frozen=True)
class Settings:
    rows: list = field(default_factory=lambda: names("BENCH"))
    """BENCH: which rows, by how their names begin: `push`, `pull/filesystem`, `small/tags`. All, when it is not said."""
    peers: list = field(default_factory=lambda: names("BENCH_PEERS"))
    """BENCH_PEERS: who is raced. All that are there, when it is not said."""
    size: int = field(default_factory=size)
    """BENCH_SIZE: MiB of the large blob; what is pushed by eight at once is a quarter of it each."""
    rounds: int = field(default_factory=lambda: number("BENCH_ROUNDS", 3))
    """BENCH_ROUNDS: turns that each has."""
    count: int = field(default_factory=lambda: number("BENCH_COUNT", 10_000))
    """BENCH_COUNT: tags of a repository and repositories of the catalog; a tenth and ten times of it show how requests grow."""
    seconds: int = field(default_factory=lambda: number("BENCH_SECONDS", 5))
    """BENCH_SECONDS: for how long small requests are sent."""
    blobs: int = field(default_factory=lambda: number("BENCH_BLOBS", 1_000_000))
    """BENCH_BLOBS: blobs in the store that servers are started over and that is collected."""
    folder: pathlib.Path = field(default_factory=lambda: pathlib.Path(os.environ.get("BENCH_FOLDER") or cache() / "bench/work"))
    """BENCH_FOLDER: where everything is stored that is measured, all on one file system."""
    out: pathlib.Path = field(default_factory=lambda: pathlib.Path(os.environ.get("BENCH_OUT") or CONFORMANCE / "results/bench"))
    """BENCH_OUT: where the results go."""
    cores: tuple = field(default_factory=cores)
    """BENCH_CORES: the cores of servers and those of clients and S3 servers, as `0-3/4-7`. Half and half, when it is not said."""

    def wants(self, row):
        """Whether a row is asked for; also whether a part of a row's name begins one that is."""
        return not self.rows or any(row == name or row.startswith(f"{name}/") for name in self.rows)

    def wants_some_of(self, scene):
        """Whether any row below a name is asked for."""
        return self.wants(scene) or any(name.startswith(f"{scene}/") for name in self.rows)
