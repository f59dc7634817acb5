"""dvcr import and pull of a disk image, beside the floor of each: sha256 alone, the decompressor alone.

    make bench-import               prints a table; raw results go to conformance/results/bench-import.json

The floors are the same library or the usual tool over the same file, in the same run: a ratio beside them says what the
rest of the pipeline costs. The disk is half noise and half a Debian system's files, BENCH_MIB long.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "tests"))

from dvcr import BINARY, Dvcr  # noqa: E402

MIB, ROUNDS = int(os.environ.get("BENCH_MIB", "1024")), int(os.environ.get("BENCH_ROUNDS", "3"))
RESULTS = pathlib.Path(__file__).parent / "results"


def make_disk(path, mib=MIB):
    """Files of this system, as a tar, and noise: what a disk with something on it compresses like."""
    with open(path, "wb") as disk:
        with subprocess.Popen(["tar", "-c", "-C", "/usr", "lib", "share"], stdout=subprocess.PIPE) as tar:
            for _ in range(mib // 2):
                disk.write(tar.stdout.read(1 << 20))
            tar.kill()
        for _ in range(mib - mib // 2):
            disk.write(os.urandom(1 << 20))
        disk.truncate(mib << 20)
        # A file that begins like a tar would be refused as one.
        disk.seek(0)
        disk.write(bytes(512))


def make_sources(folder, mib=MIB):
    """A disk in the forms in which it is published."""
    raw = folder / "disk.raw"
    make_disk(raw, mib)
    sources = {"raw": raw, "qcow2": folder / "disk.qcow2"}
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, sources["qcow2"]], check=True)
    for suffix, command in {
        "raw.gz": ["gzip", "-1"],
        "raw.xz": ["xz", "-1", "-T0", "--block-size=16MiB"],
        "raw.zst": ["zstd", "-1", "-q", f"--stream-size={mib << 20}"],
    }.items():
        sources[suffix] = folder / f"disk.{suffix}"
        with raw.open("rb") as disk, sources[suffix].open("wb") as packed:
            subprocess.run([*command, "-c"], stdin=disk, stdout=packed, check=True)
    return sources


def run(command, **more):
    """Seconds on the clock, CPU seconds of the process and its children, and what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, check=True, stdout=more.pop("stdout", subprocess.PIPE), **more)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu}, done.stdout


def server_cpu(server):
    fields = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def a_round(folder, sources, number):
    """One run of everything, with a registry of its own."""
    rows = {}
    server = Dvcr(["--data", str(folder / f"data{number}")], folder / "log").start()
    try:
        for name, path in sources.items():
            reference = f"{server.host}/bench/{name.replace('.', '-')}:1"
            before = server_cpu(server)
            row, printed = run([BINARY, "import", "--progress", "none", "-o", "json", path, reference])
            row["server_cpu"] = server_cpu(server) - before
            row["passes"] = json.loads(printed)["passes"]
            rows[f"import {name}"] = row
        for connections in ("1", "4"):
            before = server_cpu(server)
            target = folder / "out.raw"
            target.unlink(missing_ok=True)
            command = [BINARY, "pull", "--progress", "none", "--connections", connections]
            row, _ = run([*command, "-o", target, f"{server.host}/bench/raw:1"])
            row["server_cpu"] = server_cpu(server) - before
            rows[f"pull raw, {connections} connections"] = row
            before = server_cpu(server)
            row, _ = run(
                [*command, "-o", "-", f"{server.host}/bench/raw:1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            row["server_cpu"] = server_cpu(server) - before
            rows[f"pull raw to nowhere, {connections} connections"] = row
    finally:
        server.stop()
    threads = str(os.cpu_count())
    for name, command in {
        "floor sha256 (openssl)": ["openssl", "dgst", "-sha256", sources["raw"]],
        "floor gzip -dc": ["gzip", "-dc", sources["raw.gz"]],
        f"floor xz -dc -T{threads}": ["xz", "-dc", f"-T{threads}", sources["raw.xz"]],
        "floor zstd -dc": ["zstd", "-dcq", sources["raw.zst"]],
        "floor cp": ["cp", sources["raw"], folder / "copy"],
    }.items():
        rows[name], _ = run(command, stdout=subprocess.DEVNULL)
    return rows


def main():
    with tempfile.TemporaryDirectory(prefix="dvcr-bench-") as name:
        folder = pathlib.Path(name)
        print(f"a disk of {MIB} MiB, {ROUNDS} rounds", file=sys.stderr)
        sources = make_sources(folder)
        rounds = [a_round(folder, sources, number) for number in range(ROUNDS)]
    medians = {
        row: {key: statistics.median(one[row][key] for one in rounds) for key in rounds[0][row]} for row in rounds[0]
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench-import.json").write_text(json.dumps({"mib": MIB, "rounds": rounds}, indent=1))
    print(f"{'':34}{'s':>8}{'MiB/s':>9}{'CPU-s/GiB':>11}{'server':>9}{'passes':>8}")
    for name, row in medians.items():
        gib = MIB / 1024
        server = f"{row['server_cpu'] / gib:9.2f}" if "server_cpu" in row else f"{'':9}"
        passes = f"{row['passes']:8.0f}" if "passes" in row else ""
        print(f"{name:34}{row['seconds']:8.2f}{MIB / row['seconds']:9.0f}{row['cpu'] / gib:11.2f}{server}{passes}")


if __name__ == "__main__":
    main()
