"""docker push and pull of a 2 GiB disk image: DVCR beside Debian's docker-registry, in turns, in one run.

    make bench                      prints a table; raw results go to conformance/results/bench-docker.json

Each server is started afresh with an empty data directory on the same file system, each round pushes and pulls
with the same dockerd. Server CPU and memory are the operating system's account of the server process.
"""

import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "tests"))

from disk import build_disk_image  # noqa: E402
from dockerd import Dockerd  # noqa: E402
from dvcr import BINARY, free_port  # noqa: E402

MIB, ROUNDS = int(os.environ.get("BENCH_MIB", "2048")), int(os.environ.get("BENCH_ROUNDS", "3"))
RESULTS = pathlib.Path(__file__).parent / "results"


def docker_registry(folder, port):
    """Debian's docker-registry 2.8, as its package configures it, but for the address and authentication."""
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
    )
    return ["docker-registry", "serve", str(folder / "config.yml")]


def dvcr(folder, port):
    return [str(BINARY), "serve", "--listen", f"127.0.0.1:{port}", "--data", str(folder / "data")]


SERVERS = {"dvcr": dvcr, "docker-registry": docker_registry}


class Server:
    def __init__(self, name, folder):
        self.port = free_port()
        self.process = subprocess.Popen(
            SERVERS[name](folder, self.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.host = f"127.0.0.1:{self.port}"
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.1)
        raise SystemExit(f"{name} does not answer")

    def cpu(self):
        """Seconds of user and system time so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def measure(server, action):
    cpu, wall = server.cpu(), time.monotonic()
    action()
    return {"seconds": time.monotonic() - wall, "cpu": server.cpu() - cpu}


def round_of(name, docker):
    with tempfile.TemporaryDirectory(prefix="dvcr-bench-") as folder:
        server = Server(name, pathlib.Path(folder))
        try:
            reference = f"{server.host}/bench/disk:v1"
            docker.run("tag", "bench:disk", reference)
            push = measure(server, lambda: docker.run("push", reference))
            # The image must be gone from the daemon, or pulling moves no byte.
            docker.run("image", "rm", reference, "bench:disk")
            pull = measure(server, lambda: docker.run("pull", reference))
            docker.run("tag", reference, "bench:disk")
            docker.run("image", "rm", reference)
            return {"push": push, "pull": pull, "peak": server.peak()}
        finally:
            server.stop()


def table(results):
    """Medians, and the other's as a multiple of ours."""
    columns = [
        ("push s", lambda r: r["push"]["seconds"]),
        ("push server CPU s", lambda r: r["push"]["cpu"]),
        ("pull s", lambda r: r["pull"]["seconds"]),
        ("pull server CPU s", lambda r: r["pull"]["cpu"]),
        ("peak memory MiB", lambda r: r["peak"]),
    ]
    yield f"{'':20}" + "".join(f"{name:>26}" for name in SERVERS) + f"{'ratio':>9}"
    for title, value in columns:
        cells, medians = [], []
        for name in SERVERS:
            values = [value(r) for r in results[name]]
            medians.append(statistics.median(values))
            cells.append(f"{medians[-1]:.2f} ({min(values):.2f} to {max(values):.2f})")
        yield f"{title:20}" + "".join(f"{cell:>26}" for cell in cells) + f"{medians[1] / medians[0]:>9.2f}"


def main():
    results = {name: [] for name in SERVERS}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dvcr-bench-")))
        docker = Dockerd()
        stack.callback(docker.stop)
        docker.start()
        build_disk_image(docker, folder, "bench:disk", MIB)
        for i in range(ROUNDS):
            for name in SERVERS:
                results[name].append(round_of(name, docker))
                print(f"round {i + 1} of {ROUNDS}, {name}: {results[name][-1]}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench-docker.json").write_text(json.dumps({"mib": MIB, "results": results}, indent=1))
    print(f"\ndocker push and pull of one {MIB} MiB disk image, median (least to most) of {ROUNDS}:")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
