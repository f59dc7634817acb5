"""The built binary under test: started, stopped, killed and started again."""

import contextlib
import itertools
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CONFORMANCE_DVCR", ROOT / "target/release/dvcr"))


# A range for each process of tests, below the ports that the system gives to connections: a server that is killed and
# started again finds its port as it left it.
FIRST, EACH = 10_000, 4_000
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 5
ports = itertools.count(random.randrange(EACH))


def free_port():
    """A port of this machine that nobody listens on, another one each time."""
    for number in itertools.islice(ports, EACH):
        port = FIRST + WORKER * EACH + number % EACH
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


class Dvcr:
    """One `dvcr serve` process. `storage` is the arguments that say where its data is."""

    under = ()
    """What it runs under: a command and its arguments, which must make way for the process that is started."""

    def __init__(self, storage, log, environment=None, port=None):
        self.storage = storage
        self.log = pathlib.Path(log)
        self.environment = environment or {}
        self.port = port or free_port()
        self.process = None

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        environment = {**os.environ, **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.under, BINARY, "serve", "--listen", self.host, *self.storage],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"dvcr did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self):
        """Asks it to stop, and says how it ended."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        finally:
            self.kill()
        return code

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def peak_memory(self):
        """The most memory the process has had, in MiB."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the kernel tells no peak memory")

    def panics(self):
        return [line for line in self.log.read_text(errors="replace").splitlines() if "panicked" in line]
