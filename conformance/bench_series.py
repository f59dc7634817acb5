"""What ten versions of a disk cost to store: DVCR beside Debian's docker-registry, which keeps each of them whole.

    make bench-series               prints tables in markdown; raw results go to conformance/results/bench-series.json
    make bench-cutters              new bytes of versions for several ways to cut a disk, by examples/compare_cutters.rs

The disk has a Debian of 1 GB: kernel, systemd, PostgreSQL, nginx, gcc, Python. It comes in three series: rebuilt, 5% of its
files changed and a new file system made each time; edited in place, mounted by the kernel, 1% of its files replaced and
lines written to its logs each time; and once as raw and as qcow2. Each version is imported into both registries, pulled
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

from bench_docker import Server  # noqa: E402
from command import Command  # noqa: E402

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "dvcr"
FOLDER = pathlib.Path(os.environ.get("BENCH_FOLDER", pathlib.Path(os.environ.get("CONFORMANCE_CACHE", CACHE)) / "series"))
RESULTS = HERE / "results"
COMPARE = pathlib.Path(os.environ.get("COMPARE_CUTTERS", HERE.parent / "target/release/examples/compare_cutters"))
VERSIONS, MIB = int(os.environ.get("VERSIONS", "10")), int(os.environ.get("BENCH_MIB", "1400"))

MIRROR, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
PACKAGES = (
    "systemd-sysv linux-image-cloud-amd64 initramfs-tools openssh-server python3 cloud-init nginx git gcc vim "
    "postgresql qemu-guest-agent grub-cloud-amd64 sudo locales curl"
).split()
LATER = "nodejs redis-server php-cli rsync tcpdump".split()


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


def updated(tree):
    lines = [f"deb {MIRROR} bookworm main", f"deb {MIRROR} bookworm-updates main", f"deb {SECURITY} bookworm-security main"]
    (tree / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
    apt(tree, "update")
    apt(tree, "dist-upgrade")
    tidy(tree)


def other_packages(tree):
    apt(tree, "update")
    apt(tree, "install", *LATER)
    apt(tree, "purge", "git", "vim")
    apt(tree, "autoremove")
    tidy(tree)


def edited(tree, seed, percent=5):
    """Changes some of the files: a third with bytes put in, a third in one place, a third as if compiled anew."""
    dice, touched = random.Random(seed), 0
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in dice.sample(files, len(files) * percent // 100):
        content, kind = bytearray(path.read_bytes()), dice.randrange(3)
        if not content:
            continue
        if kind == 0:
            at = dice.randrange(len(content))
            content[at:at] = dice.randbytes(dice.randrange(1, 200))
        else:
            step = len(content) if kind == 1 else 1500
            for at in range(0, len(content), step):
                content[(at + dice.randrange(step)) % len(content)] ^= 1 + dice.randrange(255)
        touched += len(content)
        replace(path, content)
    say(f"{len(files) * percent // 100} of {len(files)} files changed, {touched / 1e6:.0f} MB")


def replace(path, content):
    """Puts a new file in the place of one, as a package manager does: other blocks, another inode, another time."""
    status, new = path.stat(), path.with_name(path.name + ".dpkg-new")
    new.write_bytes(content)
    os.chown(new, status.st_uid, status.st_gid)
    new.chmod(status.st_mode & 0o7777)
    new.rename(path)


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


def edited_in_place(folder):
    """One disk on which packages are upgraded and logs written: 1% of the files each time, as many as an upgrade has."""
    disk = folder / "disk.raw"
    mke2fs(debian(), disk)
    yield disk
    for version in range(1, VERSIONS):
        with mounted(disk, folder / "mnt") as files:
            edited(files, version, percent=1)
            write_logs(files, version)
        yield disk


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
    return int(run("du", "-s", "--block-size=1", folder).split()[0])


def measure(versions, folder):
    """Imports every version into both registries; gives what each of them then holds, and what one stream would be."""
    dvcr, rows, servers = Command(folder / "home"), [], {}
    with contextlib.ExitStack() as stack:
        for name in ("dvcr", "docker-registry"):
            (folder / name).mkdir()
            servers[name] = Server(name, folder / name)
            stack.callback(servers[name].stop)
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
        failed |= reached > limit
        verdict = "more than" if reached > limit else "at most"
        print(f"\n### {name}: {reached:.3f} times one, {verdict} {limit}\n\n{table(results[name])}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench-series.json").write_text(json.dumps({"mib": MIB, "versions": VERSIONS, "results": results}, indent=1))
    return 1 if failed else 0


# What they would cost, were they cut otherwise.


def fresh(*make):
    """A file system made anew, and written by the kernel."""

    def build(tree, disk, _before):
        # With room for packages that come, and for a large file beside the one that it replaces.
        blank(disk, MIB + 400)
        run(*make, disk)
        with mounted(disk, FOLDER / "mnt") as point:
            run("cp", "-a", f"{tree}/.", point)

    return build


def changed(*make):
    """The disk of the version before, mounted, with what is different written as a package manager would."""

    def build(tree, disk, before):
        if before is None:
            return fresh(*make)(tree, disk, before)
        run("cp", "--sparse=always", before, disk)
        with mounted(disk, FOLDER / "mnt") as point:
            run("rsync", "-aH", "--delete", "--exclude=/lost+found", f"{tree}/", point)

    return build


EXT4, XFS = ("mkfs.ext4", "-q", "-F", "-b", "4096"), ("mkfs.xfs", "-q", "-f")
WAYS = {
    "new ext4": lambda tree, disk, _before: mke2fs(tree, disk),
    "new ext4, by the kernel": fresh(*EXT4),
    "new xfs": fresh(*XFS),
    "ext4 in place": changed(*EXT4),
    "xfs in place": changed(*XFS),
}
STEPS = [
    lambda tree: None,
    updated,
    other_packages,
    lambda tree: edited(tree, 4),
    lambda tree: edited(tree, 5),
]


def make_trees(trees):
    """A tree for each step, on a file system that shares what they have in common."""
    made = []
    for number, step in enumerate(STEPS, 1):
        tree, half = trees / f"v{number}", trees / f"v{number}.half"
        if not tree.exists():
            if half.exists():
                shutil.rmtree(half)
            run("cp", "-a", "--reflink=auto", made[-1] if made else debian(), half)
            say(f"files of version {number}")
            step(half)
            half.rename(tree)
        made.append(tree)
    return made


def compare(disks):
    """MB that each version adds, by cutter: as it is, and compressed."""
    header, *lines = [line.split("\t") for line in run(COMPARE, *disks).splitlines()]
    cutters = {}
    for line in lines:
        row = dict(zip(header, line, strict=True))
        cutters.setdefault(row["cutter"], []).append({key: int(row[key]) for key in ("new", "stored", "chunks")})
    return cutters


def table_of_cutters(cutters):
    versions = [str(number) for number in range(1, len(next(iter(cutters.values()))) + 1)]
    head = ["new MB of version, and compressed", *versions, "after the first", "compressed", "KiB a chunk"]
    body = []
    for name, rows in cutters.items():
        cells = [f"{row['new'] / 1e6:.0f}, {row['stored'] / 1e6:.0f}" for row in rows]
        later = [f"{sum(row[key] for row in rows[1:]) / 1e6:.0f}" for key in ("new", "stored")]
        chunk = sum(row["new"] for row in rows) / sum(row["chunks"] for row in rows) / 1024
        body.append([name, *cells, *later, f"{chunk:.0f}"])
    return markdown([head, *body])


def main_of_cutters():
    """Five versions: as released, with security updates, with other packages, 5% of its files changed, 5% again."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    store, results = FOLDER / "trees.xfs", {}
    if not store.exists():
        run("truncate", "-s", "9G", store)
        run("mkfs.xfs", "-q", "-m", "reflink=1", store)
    with mounted(store, FOLDER / "trees") as trees:
        made = make_trees(trees)
        for way in os.environ.get("BENCH_SERIES", "; ".join(WAYS)).split("; "):
            with tempfile.TemporaryDirectory(prefix="dvcr-series-", dir=FOLDER) as work:
                disks = []
                for number, tree in enumerate(made, 1):
                    disk = pathlib.Path(work) / f"v{number}.raw"
                    WAYS[way](tree, disk, disks[-1] if disks else None)
                    disks.append(disk)
                if way == "new ext4":
                    # The last version once more, in another format.
                    disks.append(disks[-1].with_suffix(".qcow2"))
                    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disks[-2], disks[-1])
                results[way] = compare(disks)
            print(f"\n### {way}\n\n{table_of_cutters(results[way])}", flush=True)
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "bench-cutters.json").write_text(json.dumps({"mib": MIB, "results": results}, indent=1))


if __name__ == "__main__":
    sys.exit(main_of_cutters() if sys.argv[1:] == ["cutters"] else main())
