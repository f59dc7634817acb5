"""A server as a process: started on its cores, waited for, stopped by its number."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

from dvcr import free_port


class Missing(Exception):
    """What something cannot be done for: a program that is not here, or a server that does not have it. It stands in the table."""


def surroundings():
    """The environment without what this machine says about buckets and registries elsewhere."""
    told = ("AWS_", "DVCR_", "MINIO_", "REGISTRY_", "OTEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(told)}


class Process:
    def __init__(self, command, environment, log, cores):
        self.log = pathlib.Path(log)
        with self.log.open("ab") as file:
            self.popen = subprocess.Popen(
                # taskset makes way for the program, so it is one process.
                ["taskset", "-c", cores, *map(str, command)],
                env=surroundings() | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def pid(self):
        return self.popen.pid

    def end_of_log(self):
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self):
        """Asks it to stop, and makes it when it does not."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        self.popen.kill()
        self.popen.wait()


def wait_for(condition, process, seconds=30):
    """Waits until a server that was started is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            break
        if condition():
            return
        time.sleep(0.002)
    raise RuntimeError(f"{process.popen.args[3]} did not start: {process.end_of_log()}")


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


class Server:
    """A registry over a store, on a free port of the loopback interface."""

    def __init__(self, peer, store, folder, settings, tls=None, environment=None):
        self.peer, self.store, self.settings, self.tls = peer, store, settings, tls
        self.folder, self.port, self.process = folder / "server", free_port(), None
        self.environment = environment or {}
        self.folder.mkdir(exist_ok=True)

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        command, environment = self.peer.command(self)
        self.process = Process(command, environment | self.environment, self.folder / "log", self.settings.cores[0])
        try:
            wait_for(lambda: listens(self.port), self.process, seconds=600)
        except BaseException:
            self.process.kill()
            raise
        return self

    def stop(self):
        if self.process is not None:
            self.process.stop()
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
