"""What it takes to fill a VMDisk's claim from DVCR: by our Job, and by CDI's importer with its sources registry and http.

    make bench-fill                 prints tables in markdown; raw results go to conformance/results/bench-fill.json

All three are the real programs, one after the other, turn by turn: `dvcr pull` with the arguments of a Job, and CDI's importer
with the environment of its pod (pullMethod pod; node takes a kubelet). Each runs in a root of its own with the folders of a pod,
and gives a claim twice as large as the disk, a file system or a block device. What is filled is compared with the disk.

Scratch is what the process has at most in files that are not the claim's: CDI takes a second claim for it, as large as the first
one, and a Job the node's disk. The claim's file system has at most what is in `claim, peak`; a block device is as large as it is.
Written is what the process and its children have handed to the kernel to be stored. CPU is theirs; that of the server is beside it.

The disk of BENCH_MIB has data in 60% of its blocks, half of it noise and half of it text. It comes in three forms (BENCH_FORMS, with
semicolons) and goes into two kinds of claims (BENCH_MODES). Environment also: BENCH_ROUNDS.

Takes root (mounts, loop devices). CDI's importer is built at the version in cdi/go.mod, once, which takes minutes.
"""

import contextlib
import ctypes
import filecmp
import itertools
import json
import os
import pathlib
import random
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "tests"))

from bench_import import server_cpu  # noqa: E402
from bench_series import CACHE, RESULTS, markdown, run, say  # noqa: E402
from dvcr import BINARY, Dvcr, free_port  # noqa: E402

MIB, ROUNDS = int(os.environ.get("BENCH_MIB", "1024")), int(os.environ.get("BENCH_ROUNDS", "3"))
BIN = pathlib.Path(os.environ.get("CONFORMANCE_CACHE", CACHE)) / "bin"
SIZE = 2 * MIB << 20
"""What the claims ask for."""

FORMS = {
    "qcow2": ["-O", "qcow2"],
    "compressed qcow2": ["-c", "-O", "qcow2"],
    "raw": ["-O", "raw"],
}
MODES = ["Filesystem", "Block"]
DISKS = {"Filesystem": "/volume/disk.img", "Block": "/dev/volume"}


def wanted(name, known):
    return [one for one in known if one in os.environ.get(name, ";".join(known)).split(";")]


# The programs.


def importer():
    """CDI's importer, built where it is missing or of another version."""
    program, pinned, built = BIN / "cdi-importer", HERE / "cdi/go.sum", BIN / "cdi.go.sum"
    if not (program.exists() and built.exists() and filecmp.cmp(pinned, built, shallow=False)):
        say("building CDI's importer, which takes minutes")
        BIN.mkdir(parents=True, exist_ok=True)
        command = ["go", "build", "-p", "1", "-trimpath", "-ldflags", "-s -w", "-o", program, "tool"]
        run(*command, cwd=HERE / "cdi", env=os.environ | {"CGO_ENABLED": "0"})
        shutil.copyfile(pinned, built)
    return program


def job(host, mode):
    """The command and the environment of a Job that fills a claim (src/controller/jobs/manifest.rs)."""
    command = ["/dvcr", "pull", "--force", "--format=raw", f"--size={SIZE}", f"--to={DISKS[mode]}", f"--plain-http={host}"]
    command += ["--progress=none", f"--progress-listen=127.0.0.1:{free_port()}", "--", f"{host}/bench/disk:1"]
    return command, {"HOME": "/tmp"}


def cdi(source, endpoint):
    """The same of an importer's pod (pkg/controller/import-controller.go in CDI)."""
    environment = {
        "IMPORTER_SOURCE": source,
        "IMPORTER_ENDPOINT": endpoint,
        "IMPORTER_CONTENTTYPE": "kubevirt",
        "IMPORTER_IMAGE_SIZE": str(SIZE),
        "FILESYSTEM_OVERHEAD": "0",
        "INSECURE_TLS": "true",
        "PREALLOCATION": "false",
        "OWNER_UID": "bench",
    }
    return ["/cdi-importer"], environment


FILLERS = {
    "our Job": job,
    "CDI, registry": lambda host, _: cdi("registry", f"docker://{host}/bench/disk:1"),
    "CDI, http": lambda host, _: cdi("http", f"http://{host}/disks/bench/disk/1"),
}


# A pod.


class Pod:
    """A root with the folders that a Job and an importer have. What runs there finds no other folder that it can write to."""

    def __init__(self, folder, mode, programs):
        self.root, self.claim, self.scratch, self.tmp = folder / "root", folder / "claim", folder / "scratch", folder / "tmp"
        for path in (self.claim, self.scratch, self.tmp):
            path.mkdir()
        self.disk, self.loop = self.claim / "disk.img", None
        binds = {"/usr": "usr", "/proc": "proc", self.scratch: "scratch", self.tmp: "tmp"}
        binds |= {f"/dev/{name}": f"dev/{name}" for name in ("null", "zero", "random", "urandom")}
        binds |= {program: name for name, program in programs.items()}
        if mode == "Block":
            with self.disk.open("wb") as disk:
                disk.truncate(SIZE)
            self.loop = run("losetup", "--find", "--show", self.disk).strip()
            binds |= {self.loop: ["dev/volume", "dev/cdi-block-volume"]}
        else:
            binds |= {self.claim: ["volume", "data"]}
        self.mounts = []
        for source, places in binds.items():
            for place in map(self.root.joinpath, [places] if isinstance(places, str) else places):
                made = place if os.path.isdir(source) else place.parent
                made.mkdir(parents=True, exist_ok=True)
                if made != place:
                    place.touch()
                is_read = source == "/usr" or source in programs.values()
                how = "bind,ro" if is_read else "bind"
                self.mounts.append(shlex.join(["mount", "-o", how, str(source), str(place)]))
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                (self.root / name).symlink_to(os.readlink(f"/{name}"))
        for file in ("etc/ld.so.cache", "etc/ssl/certs/ca-certificates.crt"):
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"/{file}", self.root / file)

    def run(self, command, environment, log):
        """Runs a command to its end: seconds, CPU seconds, what is written, and the most that was in each place."""
        inside = ["env", "-i", "PATH=/usr/sbin:/usr/bin", *(f"{name}={value}" for name, value in environment.items())]
        script = "\n".join(["set -eu", *self.mounts, "exec " + shlex.join(["chroot", str(self.root), *inside, *command])])
        # What others have written is not to be waited for.
        os.sync()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        with watched({"scratch": [self.scratch, self.tmp], "claim": [self.claim]}) as peaks:
            process.wait()
            seconds = time.monotonic() - began
        # CDI leaves its nbdkit behind, which is ours then.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-process.pid, 0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode != 0:
            raise SystemExit(f"{command}: {process.returncode}\n{log.read_text(errors='replace')[-4000:]}")
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        row = {"seconds": seconds, "cpu": cpu, "written": (after.ru_oublock - before.ru_oublock) * 512}
        return row | {"scratch": peaks["scratch"], "claim peak": peaks["claim"], "claim": stored([self.claim])}

    def close(self):
        if self.loop:
            run("losetup", "--detach", self.loop)


def stored(folders):
    """Bytes that the files in some folders take."""
    total = 0
    for folder, _, files in itertools.chain.from_iterable(map(os.walk, folders)):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, file)).st_blocks * 512
    return total


@contextlib.contextmanager
def watched(places):
    """The most that is stored in each of some places meanwhile."""
    peaks, over = dict.fromkeys(places, 0), threading.Event()

    def watch():
        while not over.wait(0.02):
            for name, folders in places.items():
                peaks[name] = max(peaks[name], stored(folders))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


# The measurement.


def make_disk(path):
    """Noise and text in blocks of a MiB, here and there, the same each time."""
    dice = random.Random(1)
    with path.open("wb") as disk:
        disk.truncate(MIB << 20)
        for number, block in enumerate(dice.sample(range(MIB), MIB * 6 // 10)):
            disk.seek(block << 20)
            disk.write(dice.randbytes(1 << 19).hex().encode() if number % 2 else dice.randbytes(1 << 20))


def fill(filler, server, mode, raw, folder):
    """Fills a new claim, and compares it with the disk."""
    pod = Pod(folder, mode, {"dvcr": BINARY, "cdi-importer": importer()})
    try:
        before = server_cpu(server)
        row = pod.run(*FILLERS[filler](server.host, mode), folder / "log")
        row["server_cpu"] = server_cpu(server) - before
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, pod.loop or pod.disk)
        if (size := pod.disk.stat().st_size) != SIZE:
            raise SystemExit(f"{filler}: a disk of {size} bytes and not of {SIZE}")
    finally:
        pod.close()
    return row


def measure(form, mode, raw, folder):
    """The rows of each filler."""
    source = folder / "disk"
    run("qemu-img", "convert", "-f", "raw", *FORMS[form], raw, source)
    rows = {filler: [] for filler in FILLERS}
    server = Dvcr(["--data", str(folder / "data")], folder / "server.log").start()
    try:
        run(BINARY, "import", "--progress", "none", source, f"{server.host}/bench/disk:1")
        for _ in range(ROUNDS):
            for filler in FILLERS:
                with tempfile.TemporaryDirectory(prefix="pod-", dir=folder) as pod:
                    rows[filler].append(fill(filler, server, mode, raw, pathlib.Path(pod)))
                say(f"{form} into {mode}, {filler}: {rows[filler][-1]['seconds']:.2f} s")
    finally:
        server.stop()
    return {"source": source.stat().st_size, "rows": rows}


COLUMNS = ("seconds", "cpu", "server_cpu", "scratch", "claim peak", "claim", "written")


def table(rows):
    """Medians, and beside each how many times what our Job takes."""
    medians = {
        filler: {key: statistics.median(one[key] for one in rounds) for key in COLUMNS} for filler, rounds in rows.items()
    }
    ours = medians["our Job"]
    head = ["", "s", "times", "CPU s", "times", "server's CPU s", "scratch, MiB", "claim, peak", "claim", "written, MiB"]
    body = [
        [filler]
        + [text for key in ("seconds", "cpu") for text in (f"{row[key]:.2f}", f"{row[key] / ours[key]:.2f}")]
        + [f"{row['server_cpu']:.2f}"]
        + [f"{row[key] / 2**20:.0f}" for key in COLUMNS[3:]]
        for filler, row in medians.items()
    ]
    return markdown([head, *body])


def main():
    # Processes whose parent has ended become children of this one, and their CPU is counted.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    importer()
    results = {}
    with tempfile.TemporaryDirectory(prefix="dvcr-fill-") as name:
        folder = pathlib.Path(name)
        raw = folder / "disk.raw"
        make_disk(raw)
        for form, mode in itertools.product(wanted("BENCH_FORMS", FORMS), wanted("BENCH_MODES", MODES)):
            with tempfile.TemporaryDirectory(dir=folder) as work:
                result = results[f"{form}, {mode}"] = measure(form, mode, raw, pathlib.Path(work))
            what = f"{form} of {result['source'] / 2**20:.0f} MiB into a claim of mode {mode}"
            print(f"\n### {what}\n\n{table(result['rows'])}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench-fill.json").write_text(json.dumps({"mib": MIB, "rounds": ROUNDS, "results": results}, indent=1))


if __name__ == "__main__":
    main()
