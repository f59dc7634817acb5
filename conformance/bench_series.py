"""What ten versions of a disk cost to store: DVCR beside Debian's docker-registry, which keeps each of them whole.

    make bench-series               prints tables in markdown; raw results go to conformance/results/bench-series.json

The disk has a Debian of 1 GB: kernel, systemd, PostgreSQL, nginx, gcc, Python. It comes in four series: rebuilt, 5% of its
files changed and a new file system made each time; edited in place, mounted by the kernel, with 4 KiB written into each of a
hundred files and lines to its logs each time; upgraded, with 1% of its files replaced and the same logs, which has no limit,
because that depends on what is replaced; and once as raw and as qcow2. Each version is imported into both registries, pulled
from DVCR and compared. What is stored is what du says of the registry's folder. Exits with 1 where a series costs more than
it may.

Takes root (debootstrap, loop devices), 20 GB and a quarter of an hour. Environment: VERSIONS, BENCH_MIB (the disk),
BENCH_SERIES (names, with semicolons), BENCH_FOLDER (the trees of files stay there for the next run).
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "tests"))

from bench.alone import started  # noqa: E402
from bench.settings import Settings  # noqa: E402
from command import Command  # noqa: E402
from images import later_version  # noqa: E402

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "dvcr"
FOLDER = pathlib.Path(os.environ.get("BENCH_FOLDER", pathlib.Path(os.environ.get("CONFORMANCE_CACHE", CACHE)) / "series"))
RESULTS = HERE / "results"
VERSIONS, MIB = int(os.environ.get("VERSIONS", "10")), int(os.environ.get("BENCH_MIB", "1400"))

MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "systemd-sysv linux-image-cloud-amd64 initramfs-tools openssh-server python3 cloud-init nginx git gcc vim "
    "postgresql qemu-guest-agent grub-cloud-amd64 sudo locales curl"
).split()


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def say(text):
    print(text, file=sys.stderr, flush=True)


# The files of a Debian system.


def apt(tree, *words):
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    options = ["-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    run("chroot", tree, "apt-get", *options, *words, env=environment)


def tidy(tree):
    run("chroot", tree, "apt-get", "clean")
    for leftover in (tree / "var/lib/apt/lists").iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def released(tree):
    run("debootstrap", "--variant=minbase", "bookworm", tree, MIRROR)
    # Services are not to start here.
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
    apt(tree, "install", *PACKAGES)
    tidy(tree)


def edited(tree, seed, percent=5):
    """Changes some of the files: a third with bytes put in, a third in one place, a third as if compiled anew."""
    dice, touched = random.Random(seed), 0
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in dice.sample(files, len(files) * percent // 100):
        if content := path.read_bytes():
            replace(path, later_version(content, dice))
            touched += len(content)
    say(f"{len(files) * percent // 100} of {len(files)} files changed, {touched / 1e6:.0f} MB")


def replace(path, content):
    """Puts a new file in the place of one, as a package manager does: other blocks, another inode, another time."""
    status, new = path.stat(), path.with_name(path.name + ".dpkg-new")
    new.write_bytes(content)
    os.chown(new, status.st_uid, status.st_gid)
    new.chmod(status.st_mode & 0o7777)
    new.rename(path)


def overwritten(tree, seed, times=100):
    """Writes other bytes into the middle of files, as a database does."""
    dice = random.Random(seed)
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink() and path.stat().st_size > 65536]
    for path in dice.sample(files, times):
        with path.open("r+b") as file:
            file.seek(dice.randrange(path.stat().st_size // 4096) * 4096)
            file.write(dice.randbytes(4096))
    say(f"4 KiB written into {times} of {len(files)} files")


def write_logs(tree, seed):
    """What a day adds to the logs: some 3 MB."""
    dice = random.Random(seed)
    for name, lines in {"syslog": 15_000, "auth.log": 3_000, "nginx/access.log": 10_000}.items():
        with (tree / "var/log" / name).open("a") as log:
            for line in range(lines):
                second = line * 86_400 // lines
                stamp = f"2026-01-{seed:02} {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
                unit = dice.choice(["systemd", "sshd", "postgres", "nginx", "cron"])
                what = f"session {dice.randrange(1 << 30)} of 192.0.2.{dice.randrange(256)}"
                log.write(f"{stamp} debian {unit}[{dice.randrange(1 << 15)}]: {what}\n")


def debian():
    """The tree of a released system, made once."""
    tree, half = FOLDER / "debian", FOLDER / "debian.half"
    if not tree.exists():
        say("making a Debian, which takes minutes")
        if half.exists():
            shutil.rmtree(half)
        released(half)
        half.rename(tree)
    return tree


# Disks with these files.


def blank(disk, mib=MIB):
    disk.unlink(missing_ok=True)
    run("truncate", "-s", f"{mib}M", disk)


def mke2fs(tree, disk):
    """A file system made anew, with a new identity, as each build of an image does."""
    blank(disk)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, disk)


@contextlib.contextmanager
def mounted(disk, at):
    # That a file was looked for is not to be seen in the disk. What is deleted stays there: nothing is trimmed.
    at.mkdir(exist_ok=True)
    run("mount", "-o", "loop,noatime", disk, at)
    try:
        yield at
    finally:
        run("umount", at)


def rebuilt(folder):
    """Files that change, and a new disk of them each time."""
    files, disk = folder / "files", folder / "disk.raw"
    run("cp", "-a", debian(), files)
    for version in range(VERSIONS):
        if version:
            edited(files, version)
        mke2fs(files, disk)
        yield disk


def run_on(disk, folder, change):
    """The same disk time and again, mounted and changed in between."""
    mke2fs(debian(), disk)
    yield disk
    for version in range(1, VERSIONS):
        with mounted(disk, folder / "mnt") as files:
            change(files, version)
            write_logs(files, version)
        yield disk


def edited_in_place(folder):
    """What a machine does that runs: it writes logs, and 4 KiB here and there into its files, a hundred times."""
    return run_on(folder / "disk.raw", folder, overwritten)


def upgraded(folder):
    """What an upgrade does: 1% of the files are replaced."""
    return run_on(folder / "disk.raw", folder, lambda files, version: edited(files, version, percent=1))


def raw_and_qcow2(folder):
    disk = folder / "disk.raw"
    mke2fs(debian(), disk)
    yield disk
    converted = folder / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, converted)
    yield converted


# What they cost.


def as_one_stream(disk):
    return int(run("sh", "-c", 'zstd -1 -q -c "$0" | wc -c', disk))


def in_use(folder):
    return int(run("du", "-s", "--block-size=1", "--exclude=dvcr.reserve", folder).split()[0])


def measure(versions, folder):
    """Imports every version into both registries; gives what each of them then holds, and what one stream would be."""
    dvcr, rows, servers = Command(folder / "home"), [], {}
    with contextlib.ExitStack() as stack:
        for name in ("dvcr", "docker-registry"):
            (folder / name).mkdir()
            servers[name] = stack.enter_context(started(name, folder / name, Settings()))
        for number, disk in enumerate(versions, 1):
            row = {"zstd": as_one_stream(disk)}
            for name, server in servers.items():
                dvcr.imports(disk, f"{server.host}/bench/debian:v{number}", timeout=3600)
                row[name] = in_use(folder / name / "data")
            back = folder / "back"
            dvcr.pulls(f"{servers['dvcr'].host}/bench/debian:v{number}", back, timeout=3600)
            run("cmp", disk, back)
            back.unlink()
            rows.append(row)
            say(f"version {number}: " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in row.items()))
    return rows


def to_one_stream(rows):
    """All versions beside the first, compressed in one stream."""
    return rows[-1]["dvcr"] / rows[0]["zstd"]


def to_one_of_them(rows):
    """Both beside the first, as it is stored."""
    return rows[-1]["dvcr"] / rows[0]["dvcr"]


SERIES = {
    "rebuilt": (rebuilt, to_one_stream, 1.6),
    "edited in place": (edited_in_place, to_one_stream, 1.1),
    "upgraded": (upgraded, to_one_stream, None),
    "raw and qcow2": (raw_and_qcow2, to_one_of_them, 1.05),
}


def markdown(rows):
    head, *rest = rows
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(rows):
    """MB that are stored after each version."""
    alone = [sum(row["zstd"] for row in rows[: at + 1]) for at in range(len(rows))]
    sizes = {
        "DVCR": [row["dvcr"] for row in rows],
        "each in one stream of zstd": alone,
        "docker-registry": [row["docker-registry"] for row in rows],
    }
    head = ["MB after version", *map(str, range(1, len(rows) + 1)), "times one stream"]
    body = [
        [name, *(f"{size / 1e6:.0f}" for size in line), f"{line[-1] / rows[0]['zstd']:.2f}"] for name, line in sizes.items()
    ]
    return markdown([head, *body])


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = os.environ.get("BENCH_SERIES", "; ".join(SERIES)).split("; ")
    results, failed = {}, False
    for name in wanted:
        make, ratio, limit = SERIES[name]
        with tempfile.TemporaryDirectory(prefix="dvcr-series-", dir=FOLDER) as work:
            results[name] = measure(make(pathlib.Path(work)), pathlib.Path(work))
        reached = ratio(results[name])
        passed = limit is not None and reached > limit
        failed |= passed
        verdict = "" if limit is None else f", more than {limit}" if passed else f", at most {limit}"
        print(f"\n### {name}: {reached:.3f} times one{verdict}\n\n{table(results[name])}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench-series.json").write_text(json.dumps({"mib": MIB, "versions": VERSIONS, "results": results}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
