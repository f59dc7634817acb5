"""The commands of a client, as a person or a script gives them."""

import json
import os
import pathlib
import re
import subprocess

from dvcr import BINARY
from wire import Client

DONE, FAILED, ASKED_WRONGLY, REFUSED = range(4)
INTERRUPTED = 130


class Done:
    def __init__(self, arguments, process):
        self.arguments = arguments
        self.code = process.returncode
        self.out = process.stdout or b""
        self.errors = (process.stderr or b"").decode(errors="replace")

    def json(self):
        return json.loads(self.out)

    def error(self):
        """The line that says why it failed."""
        lines = [line for line in self.errors.splitlines() if line.startswith("dvcr: ")]
        assert len(lines) == 1, self
        return lines[0].removeprefix("dvcr: ")

    def __repr__(self):
        return f"dvcr {' '.join(self.arguments)}: {self.code}\n{self.out[-2000:]!r}\n{self.errors[-4000:]}"


class Command:
    """Runs `dvcr`, with a home of its own and nothing of the caller's environment."""

    def __init__(self, home):
        self.home = pathlib.Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.environment = {"HOME": str(self.home), "PATH": os.environ["PATH"]}

    def start(self, *arguments, stdin=subprocess.DEVNULL, environment=None, **options):
        """Begins a command that goes on beside the test."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**self.environment, **(environment or {})}
        return subprocess.Popen([BINARY, *map(str, arguments)], stdin=stdin, env=environment, **options)

    def run(self, *arguments, code=DONE, stdin=subprocess.DEVNULL, data=None, environment=None, timeout=120, **options):
        """Runs a command to its end, which must be with `code`."""
        process = self.start(
            *arguments, stdin=subprocess.PIPE if data is not None else stdin, environment=environment, **options
        )
        return finished(arguments, process, code, data, timeout)

    def imports(self, source, reference, *arguments, **options):
        """Imports, and gives the result."""
        return self.run("import", *arguments, "--output", "json", source, reference, **options).json()

    def pulls(self, reference, path, *arguments, **options):
        """Pulls to a file, and gives the result."""
        return self.run("pull", *arguments, "--output", "json", reference, "-o", path, **options).json()

    def inspects(self, reference, *arguments, **options):
        return self.run("inspect", *arguments, "--output", "json", reference, **options).json()

    def refuses(self, *arguments, code=REFUSED, **options):
        """Runs what must end with one line about why, and gives the line."""
        return self.run(*arguments, code=code, **options).error()


def finished(arguments, process, code=DONE, data=None, timeout=120):
    """What a command that was started gives when it ends."""
    try:
        out, errors = process.communicate(data, timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        raise AssertionError(f"dvcr {arguments} does not end: {out[-500:]!r} {errors[-2000:]!r}") from None
    done = Done(list(map(str, arguments)), subprocess.CompletedProcess(arguments, process.returncode, out, errors))
    assert code is None or done.code == code, done
    assert "panicked" not in done.errors, done
    return done


def kept(server):
    """Every file of a registry's data directory that holds something of a push, and its size.

    The marks that say that an image takes no upload any more are no part of a push.
    """
    folder = pathlib.Path(server.storage[1])
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for kind in ["blobs", "data", "recipes", "uploads", "repositories"]
        for file in (folder / kind).rglob("*")
        if file.is_file() and not (kind == "uploads" and is_mark(file.read_bytes()))
    }


def is_mark(session):
    """Whether the session of a file for an image only says that there is none any more."""
    return b'"repository":"uploads/' in session and (b'"discarding"' in session or b'"closed"' in session)


def requests(server, method="", path=""):
    """The lines of the registry's log about requests with this method and path."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", server.log.read_text(errors="replace")).splitlines()
    return [line for line in lines if f'method="{method}' in line and f'path="{path}' in line]


def nothing_tagged(server, name, tag="v1"):
    """That there is no such tag, by the registry's own word."""
    client = Client(server.host)
    answer = client.get(f"/v2/{name}/tags/list")
    tags = answer.json()["tags"] if answer.status == 200 else []
    return client.get(f"/v2/{name}/manifests/{tag}").status == 404 and tag not in (tags or [])
