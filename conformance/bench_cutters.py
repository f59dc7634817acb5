"""What the versions of a disk would cost, were they cut into chunks in other ways: what src/chunk/sizes.rs is chosen by.

    make bench-cutters              prints tables in markdown; raw results go to conformance/results/bench-cutters.json

Five versions of the Debian of bench_series.py: as released, with security updates, with other packages, 5% of its files
changed, 5% again. Each version becomes a disk in the ways in which disks come about: a file system made anew, by mke2fs or by
the kernel, or the disk of the version before, mounted and changed. examples/compare_cutters.rs cuts them.

Takes root (debootstrap, loop devices), 20 GB and an hour. Environment: BENCH_MIB (the disk), BENCH_SERIES (ways, with
semicolons), BENCH_FOLDER (the trees of files stay there for the next run), COMPARE_CUTTERS (the program).
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile

from bench_series import FOLDER, HERE, MIB, MIRROR, RESULTS, apt, blank, debian, edited, markdown, mke2fs, mounted, run, say, tidy

COMPARE = pathlib.Path(os.environ.get("COMPARE_CUTTERS", HERE.parent / "target/release/examples/compare_cutters"))
SECURITY = "http://deb.debian.org/debian-security"
LATER = "nodejs redis-server php-cli rsync tcpdump".split()


# The files of each version.


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


# The disks.


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


def main():
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
    sys.exit(main())
