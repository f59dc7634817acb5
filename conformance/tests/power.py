"""Power cuts without pulling a plug: what a process did to its files is recorded, and replayed onto a disk that forgets.

The built binary runs under strace, which writes down every call that changes a file or a directory, with its bytes, and
every sync. `Recording.disk` replays that up to a moment onto a `Disk`, which knows what POSIX promises: the bytes of a file
are safe once that file was synced behind them; a name is safe once the directory it is in was synced behind it, whatever
was done with the file. All else may have survived or not, in any mixture: `Disk.survivors` makes such mixtures, and
`write` makes directories of them, on which the real server is started again.

strace takes each call down before the process goes on behind it. So whatever the server did before it answered is on
record with a time before that of the answer, by the same clock.
"""

import hashlib
import itertools
import os
import pathlib
import re
import subprocess

from dvcr import Dvcr

CHANGING = [
    *("open", "openat", "creat", "close", "write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek", "ftruncate"),
    *("truncate", "fallocate", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink"),
    *("unlinkat", "rmdir", "mkdir", "mkdirat", "fsync", "fdatasync", "sync", "syncfs", "sync_file_range"),
    *("copy_file_range", "sendfile", "splice", "dup", "dup2", "dup3", "fcntl", "mmap", "io_uring_setup"),
]
"""Every call by which files, directories and descriptors change. Of those the server does not use, `Disk` knows nothing,
and says so when it meets one."""

SYNCS = ("fsync", "fdatasync", "syncfs")

SECTOR = 512
"""What a disk writes whole."""

LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)", re.DOTALL)
CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(?: [A-Z]+ \([^)]*\))?(?: \((?:flags [^)]*|INJECTED)\))?(?: <([\d.]+)>)?$", re.DOTALL)
TEXT = re.compile(r'"([^"]*)"')


class Recorded(Dvcr):
    """A server of which is recorded what it does to its files."""

    def __init__(self, folder, environment, port=None):
        folder = pathlib.Path(folder)
        self.folder = folder / "disk"
        self.folder.mkdir(parents=True)
        self.traces = [folder / f"trace{number}" for number in range(9)]
        self.used = []
        self.syncs = True
        """Whether syncs do something. If not, the process is told that they do."""
        super().__init__(["--data", str(self.folder / "data")], folder / "log", environment, port)

    def start(self):
        self.used.append(self.traces[len(self.used)])
        self.under = [
            *("strace", "--daemonize", "--follow-forks", "--seccomp-bpf", "--quiet=attach,personality"),
            *("--absolute-timestamps=format:unix,precision:us", "--syscall-times=us"),
            *("--strings-in-hex=all", f"--string-limit={1 << 24}", "--signal=none", "--trace=" + ",".join(CHANGING)),
            *("--output", str(self.used[-1])),
            *([] if self.syncs else ["--inject=fsync,fdatasync:retval=0"]),
            "--",
        ]
        return super().start()

    def recording(self):
        """What was recorded of all processes, of which the last has ended."""
        return Recording(self.folder, [event for number, trace in enumerate(self.used) for event in read(trace, number)])


class Event:
    """A call that succeeded: when it began and ended, by the clock and by its lines in the record.

    The lines are in the order in which things happened. The clock is good for telling what was before an answer.
    """

    def __init__(self, name, arguments, result, began, ended, process):
        self.name, self.arguments, self.result, self.process = name, arguments, result, process
        (self.first, self.begun), (self.last, self.ended) = began, ended
        self.texts = None

    def paths(self):
        return [os.fsdecode(unhex(text)) for text in TEXT.findall(self.arguments)]

    def number(self, position=0):
        return int(self.arguments.split(",")[position])

    def data(self):
        if self.texts is None:
            self.texts = b"".join(unhex(text) for text in TEXT.findall(self.arguments))[: self.result]
        return self.texts

    def __repr__(self):
        return f"{self.begun:.6f} {self.name}({self.arguments[:200]}) = {self.result}"


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


def read(trace, process):
    """The calls of a trace."""
    began = {}
    with open(trace, encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines):
            thread, time, rest = LINE.match(line.rstrip("\n")).groups()
            place = (process, number), float(time)
            if rest.startswith(("+++", "---")):
                continue
            if rest.endswith("<unfinished ...>"):
                began[thread] = place, rest.removesuffix("<unfinished ...>")
                continue
            is_resumed = rest.startswith("<... ")
            begun = place
            if is_resumed:
                begun, first = began.pop(thread)
                rest = first + rest.split(" resumed>", 1)[1]
            if rest.startswith("???(") or rest.endswith("<detached ...>"):
                # The process was killed before the call was told, or strace was.
                continue
            found = CALL.match(rest)
            assert found, f"strace wrote what is not understood: {line[:300]}"
            name, arguments, result, took = found.groups()
            if "(INJECTED)" in rest[-30:]:
                # It was not done.
                continue
            result = -1 if result == "?" else int(result, 0)
            if result >= 0:
                ended = place if is_resumed else (place[0], place[1] + float(took or 0))
                yield Event(name, arguments, result, begun, ended, process)
        # Of what had not ended when the process was killed nobody knows whether it was done.
        for begun, rest in began.values():
            name, _, arguments = rest.partition("(")
            size = sum(len(unhex(text)) for text in TEXT.findall(arguments)) if "write" in name else 0
            yield Event(name, arguments, size, begun, ((process, float("inf")), float("inf")), process)


class Recording:
    """All that was done to files below a folder, in order."""

    def __init__(self, folder, events):
        self.folder = str(folder)
        # A descriptor is free for others while it is being closed.
        self.events = sorted(events, key=lambda event: event.first if event.name == "close" else event.last)

    def syncs(self, since=0.0):
        """When syncs end: what was not safe before is safe then."""
        return [event.ended for event in self.events if event.name in SYNCS and event.ended > since]

    def disk(self, until, believing=lambda path: True):
        """The disk at a moment. Syncs of paths that are not believed in do nothing."""
        disk = Disk(self.folder, believing)
        for event in self.events:
            if event.ended <= until:
                disk.apply(event)
            elif event.begun <= until and event.name not in SYNCS:
                disk.apply(event)
        return disk


class File:
    def __init__(self, path):
        self.path = path
        self.safe = bytearray()
        self.now = bytearray()
        self.pending = []
        """What was done since the last sync: when, where, and the bytes, or `None` where the file was cut."""

    def write(self, when, offset, data):
        self.pending.append((when, offset, data))
        change(self.now, offset, data)

    def sync(self, begun):
        covered = [change_ for change_ in self.pending if change_[0] < begun]
        self.pending = [change_ for change_ in self.pending if change_[0] > begun]
        for _, offset, data in covered:
            change(self.safe, offset, data)


def change(content, offset, data):
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
    else:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data


class Folder:
    def __init__(self, path):
        self.path = path
        self.safe = {}
        self.now = {}
        self.pending = []
        """What was done since the last sync: when, by which call, under which name, and what is there then."""

    def put(self, when, call, name, node):
        self.pending.append((when, call, name, node))
        self.now[name] = node
        if node is None:
            del self.now[name]

    def sync(self, begun):
        for _, _, name, node in (change_ for change_ in self.pending if change_[0] < begun):
            self.safe[name] = node
        self.pending = [change_ for change_ in self.pending if change_[0] > begun]


class Handle:
    def __init__(self, node):
        self.node, self.position = node, 0


class Disk:
    """What is on a disk, and what of that is safe."""

    def __init__(self, root, believing):
        self.root, self.believing = root, believing
        self.top = Folder("")
        self.handles = {}
        self.calls = itertools.count()

    def apply(self, event):
        getattr(self, event.name, self.unknown)(event)

    def unknown(self, event):
        """A call of which the disk knows nothing: harmless only where it is about other files."""
        numbers = re.findall(r"(?:^|, )(\d+)(?=,|$)", event.arguments)
        concerned = any((event.process, int(number)) in self.handles for number in numbers)
        assert not concerned and event.name != "io_uring_setup", f"the disk does not know {event}"

    # Names.

    def find(self, path):
        """The folder that a path is in, its last part, and what is there; `None` for paths of others."""
        if path != self.root and not path.startswith(self.root + "/"):
            return None
        parts = path[len(self.root) :].strip("/").split("/")
        folder = self.top
        if parts == [""]:
            return folder, "", folder
        for part in parts[:-1]:
            folder = folder.now.get(part)
            if not isinstance(folder, Folder):
                return None
        return folder, parts[-1], folder.now.get(parts[-1])

    def open(self, event):
        (path,) = event.paths()
        found = self.find(path)
        self.handles.pop((event.process, event.result), None)
        if found is None:
            return
        folder, name, node = found
        if node is None:
            if "O_CREAT" not in event.arguments:
                # It went while it was opened to be read.
                return
            node = File(path[len(self.root) :])
            folder.put(event.last, next(self.calls), name, node)
        if "O_TRUNC" in event.arguments:
            node.write(event.last, 0, None)
        assert "O_APPEND" not in event.arguments and "O_TMPFILE" not in event.arguments, event
        self.handles[event.process, event.result] = Handle(node)

    openat = creat = open

    def mkdir(self, event):
        (path,) = event.paths()
        if found := self.find(path):
            folder, name, _ = found
            folder.put(event.last, next(self.calls), name, Folder(path[len(self.root) :]))

    mkdirat = mkdir

    def rename(self, event):
        old, new = (self.find(path) for path in event.paths())
        if old is None and new is None:
            return
        (folder, name, node), (to, new_name, _), call = old, new, next(self.calls)
        assert node is not None, event
        # File systems do both or neither.
        folder.put(event.last, call, name, None)
        to.put(event.last, call, new_name, node)

    renameat = renameat2 = rename

    def link(self, event):
        old, new = (self.find(path) for path in event.paths())
        if old is not None:
            (_, _, node), (to, new_name, _) = old, new
            assert node is not None, event
            to.put(event.last, next(self.calls), new_name, node)

    linkat = link

    def unlink(self, event):
        (path,) = event.paths()
        if (found := self.find(path)) and found[2] is not None:
            folder, name, _ = found
            folder.put(event.last, next(self.calls), name, None)

    unlinkat = rmdir = unlink

    # Descriptors.

    def handle(self, event, position=0):
        return self.handles.get((event.process, event.number(position)))

    def close(self, event):
        self.handles.pop((event.process, event.number()), None)

    def fcntl(self, event):
        if "F_DUPFD" in event.arguments and (handle := self.handle(event)):
            self.handles[event.process, event.result] = handle

    def mmap(self, event):
        concerned = "MAP_SHARED" in event.arguments and "PROT_WRITE" in event.arguments
        number = event.arguments.split(", ")[4]
        assert not (concerned and (event.process, int(number)) in self.handles), f"the disk does not know {event}"

    def lseek(self, event):
        if handle := self.handle(event):
            handle.position = event.result

    # Bytes.

    def write(self, event):
        if handle := self.handle(event):
            handle.node.write(event.last, handle.position, event.data())
            handle.position += event.result

    writev = write

    def pwrite64(self, event):
        if handle := self.handle(event):
            handle.node.write(event.last, int(event.arguments.rsplit(", ", 1)[1]), event.data())

    def ftruncate(self, event):
        if handle := self.handle(event):
            handle.node.write(event.last, event.number(1), None)

    def fallocate(self, event):
        assert event.number(1) == 0, event
        if handle := self.handle(event):
            handle.node.write(event.last, event.number(2) + event.number(3), b"")

    def fsync(self, event):
        if (handle := self.handle(event)) and self.believing(handle.node.path):
            handle.node.sync(event.first)

    fdatasync = fsync

    def syncfs(self, event):
        if self.handle(event) and self.believing(""):
            for node in self.nodes():
                node.sync(event.first)

    def nodes(self):
        """Everything that is there or was, and may be seen again."""
        seen, left = set(), [self.top]
        while left:
            node = left.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            if isinstance(node, Folder):
                later = [change_[3] for change_ in node.pending]
                left += [other for other in [*node.safe.values(), *node.now.values(), *later] if other is not None]

    # What is left.

    def unsafe(self):
        """How many changes are not safe."""
        return sum(len(node.pending) for node in self.nodes())

    def survivors(self, entries, contents):
        """Paths and what is in them, `None` for folders, after the power was cut.

        `entries` says of the number of a call whether the names that it changed are on the disk. `contents` gives what a
        file has, of what is safe and what is not.
        """
        found, known = {}, {}

        def walk(folder, path):
            names = dict(folder.safe)
            for _, call, name, node in folder.pending:
                if entries(call):
                    names[name] = node
            for name, node in names.items():
                if isinstance(node, Folder):
                    found[f"{path}{name}"] = None
                    walk(node, f"{path}{name}/")
                elif node is not None:
                    # All names of a file show the same.
                    if id(node) not in known:
                        known[id(node)] = bytes(contents(node))
                    found[f"{path}{name}"] = known[id(node)]

        walk(self.top, "")
        return found

    def nothing_unsafe(self):
        """Of what was not synced nothing is there."""
        return self.survivors(lambda call: False, lambda file: file.safe)

    def everything(self):
        """All is there, as when a process is killed."""
        return self.survivors(lambda call: True, lambda file: file.now)

    def names_without_bytes(self):
        """The names were written back, and the bytes were not."""
        return self.survivors(lambda call: True, lambda file: file.safe)

    def some(self, dice):
        """Any mixture: names and bytes each by itself, files longer or shorter than they should be, writes torn."""
        share, kept = dice.choice([0.1, 0.5, 0.9]), {}
        return self.survivors(
            lambda call: kept.setdefault(call, dice.random() < share), lambda file: torn(file, share, dice)
        )


def torn(file, share, dice):
    """What may be left of a file of which some was not synced."""
    if not file.pending:
        return file.safe
    content = bytearray(file.safe)
    for _, offset, data in file.pending:
        if dice.random() >= share:
            continue
        if data is not None and dice.random() < 0.5:
            data = data[: dice.randrange(len(data) + 1) // SECTOR * SECTOR]
        change(content, offset, data)
    lengths = sorted({len(file.safe), len(content), len(file.now)})
    if dice.random() < 0.5:
        change(content, dice.choice([*lengths, dice.randint(lengths[0], lengths[-1])]), None)
    return content


def fingerprint(found):
    """Equal for disks that look alike."""
    digest = hashlib.blake2b()
    for path, content in sorted(found.items()):
        digest.update(repr((path, None if content is None else len(content))).encode())
        digest.update(content or b"")
    return digest.digest()


def write(found, folder):
    """Makes the files and folders."""
    folder = pathlib.Path(folder)
    for path, content in sorted(found.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def remove(folder):
    subprocess.run(["rm", "-rf", "--", folder], check=True)
