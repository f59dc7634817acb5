"""What push and pull cost the server, beside what they cannot do without: sha256, blake3, zstd and writing alone.

    make bench-floors               prints tables in markdown; raw results go to conformance/results/bench-floors.json

A blob of programs, as a disk has them, goes by curl to each server: DVCR, DVCR that keeps blobs whole
(DVCR_CHUNKING=false) and Debian's docker-registry. It is pushed; pushed to another repository, as the same bytes anew and not
as a mount; and pulled to nowhere, out of the page cache. examples/floors.rs passes the same blob through each part of that
alone, in the same round. Each round has another blob and servers afresh, with empty data directories on one file system.
CPU is the operating system's account of the server process. Exits with 1 where DVCR costs more than it may.

The numbers are of a machine with nothing else to do. Environment: BENCH_MIB (the blob), ROUNDS, FLOORS (the program).
"""

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import urllib.parse

from bench.alone import started
from bench.measure import taken
from bench.settings import Settings, core_numbers
from bench_series import HERE, RESULTS, markdown, run, say
from disk import sha256_of

FLOORS = pathlib.Path(os.environ.get("FLOORS", HERE.parent / "target/release/examples/floors"))
MIB, ROUNDS = int(os.environ.get("BENCH_MIB", "1024")), int(os.environ.get("ROUNDS", "3"))
SIZE, BLOCK = MIB << 20, 4096

SETTINGS = Settings()

NAMES = {"dvcr": "dvcr", "dvcr, whole": "dvcr-whole", "docker-registry": "docker-registry"}
"""What servers are called here, and among the peers of bench/peers.py."""
AGAIN = ("dvcr", "dvcr, whole")
"""Those that get the same blob twice."""


# The blob.


def programs():
    """Files with programs and what belongs to them, mixed and without end."""
    files = [path for folder in ("bin", "lib") for path in sorted(pathlib.Path("/usr", folder).rglob("*"))]
    files = [path for path in files if path.is_file() and not path.is_symlink()]
    random.Random(1).shuffle(files)
    return itertools.cycle(files)


def make_blob(path, number):
    """Programs in whole blocks, as a file system has them; each block is marked, so that none is in any blob twice."""
    blocks = itertools.count(number << 40)
    with open(path, "wb") as blob:
        for source in programs():
            with contextlib.suppress(PermissionError):
                content = bytearray(source.read_bytes())
                content.extend(bytes(-len(content) % BLOCK))
                for at in range(0, len(content), BLOCK):
                    content[at : at + 8] = next(blocks).to_bytes(8, "big")
                blob.write(content)
            if blob.tell() >= SIZE:
                break
        blob.truncate(SIZE)
        # Or it would be written while something else is measured.
        os.fsync(blob.fileno())


# What is done with it.


def curl(*arguments):
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--output", "/dev/null"]
    return subprocess.run([*command, *arguments], stdout=subprocess.PIPE, check=True).stdout


def push(server, repository, path, digest):
    begin = f"/v2/{repository}/blobs/uploads/"
    with contextlib.closing(http.client.HTTPConnection(server.host)) as connection:
        connection.request("POST", begin)
        answer = connection.getresponse()
        if answer.status != 202:
            raise SystemExit(f"{server.host} begins no upload: {answer.status} {answer.read(2000)}")
        location = urllib.parse.urljoin(f"http://{server.host}{begin}", answer.headers["Location"])
    curl("--upload-file", path, f"{location}{'&' if '?' in location else '?'}digest={digest}")


def pull(server, repository, digest):
    length = curl("--write-out", "%{size_download}", f"http://{server.host}/v2/{repository}/blobs/{digest}")
    if int(length) != SIZE:
        raise SystemExit(f"{server.host} sent {int(length)} bytes of {SIZE}")


def push_and_pull(name, path, digest):
    with tempfile.TemporaryDirectory(prefix="dvcr-bench-") as folder, started(NAMES[name], pathlib.Path(folder), SETTINGS) as server:
        rows = {f"{name}: push": taken(server, lambda: push(server, "bench/new", path, digest))}
        if name in AGAIN:
            rows[f"{name}: push again"] = taken(server, lambda: push(server, "bench/known", path, digest))
        pull(server, "bench/new", digest)
        rows[f"{name}: pull"] = taken(server, lambda: pull(server, "bench/new", digest))
        return rows


def a_round(folder, number):
    """One run of everything, with the same blob."""
    path, rows = folder / "blob", {}
    make_blob(path, number)
    digest = f"sha256:{sha256_of(path)}"
    for name in (*AGAIN, "docker-registry"):
        rows |= push_and_pull(name, path, digest)
    for name, floor in json.loads(run(FLOORS, path, folder)).items():
        rows[f"floor: {name}"] = floor
    say(f"round {number} of {ROUNDS}: " + ", ".join(f"{name} {row['cpu']:.2f}" for name, row in rows.items()))
    return rows


# What it comes to.


def values(rounds, row, key="cpu"):
    return [one[row][key] for one in rounds]


def table(rounds):
    """Medians, each with the least and the most; a GiB is one of the blob, also where less is written."""
    gib = MIB / 1024
    body = []
    for name, first in rounds[0].items():
        cpu = [seconds / gib for seconds in values(rounds, name)]
        cells = [f"{statistics.median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f})", "", ""]
        if "seconds" in first:
            seconds = statistics.median(values(rounds, name, "seconds"))
            cells[1:] = [f"{seconds:.2f}", f"{SIZE / seconds / 1e9:.2f}"]
        body.append([name, *cells])
    return markdown([["", "CPU-s a GiB", "s", "GB/s"], *body])


def promises(rounds):
    """What is promised, what is reached, and whether that is enough."""

    def cpu(*rows):
        return sum(statistics.median(values(rounds, row)) for row in rows)

    def floor(*parts):
        return cpu(*(f"floor: {part}" for part in parts))

    new = cpu("dvcr: push") / floor("sha256", "blake3", "encode", "write")
    known = cpu("dvcr: push again") / cpu("dvcr, whole: push")
    speed = SIZE / statistics.median(values(rounds, "dvcr: pull", "seconds")) / 1e9
    return [
        ("CPU of a push, to sha256, blake3, encoding and writing", "at most 1.2", new, new <= 1.2),
        ("CPU of a push again, to one that is kept whole", "at most 1.1", known, known <= 1.1),
        ("GB/s of a pull", "at least 1", speed, speed >= 1),
    ]


def main():
    # Servers are on other cores than curl and the parts alone: bench/settings.py says why.
    os.sched_setaffinity(0, core_numbers(SETTINGS.cores[1]))
    with tempfile.TemporaryDirectory(prefix="dvcr-bench-") as folder:
        rounds = [a_round(pathlib.Path(folder), number) for number in range(1, ROUNDS + 1)]
    kept = promises(rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench-floors.json").write_text(json.dumps({"mib": MIB, "rounds": rounds}, indent=1))
    print(f"push and pull of a blob of {MIB} MiB, median (least to most) of {ROUNDS}:\n\n{table(rounds)}\n")
    body = [[what, limit, f"{reached:.2f}", "ok" if ok else "over"] for what, limit, reached, ok in kept]
    print(markdown([["promised", "limit", "reached", ""], *body]))
    return 0 if all(ok for *_, ok in kept) else 1


if __name__ == "__main__":
    sys.exit(main())
