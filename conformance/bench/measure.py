"""What something took a server: the operating system's account of its processes, before and after.

CPU is user and system time in ticks of the kernel's clock (10 ms), of the process, its descendants, and those that have ended.
Memory is the most that was resident (VmHWM), counted anew for each measurement. What is read from and written to disk is what
the processes caused (/proc/PID/io): the page cache answers for free, and what is written counts when it is dirtied. Stored is
what `du` says.
"""

import os
import pathlib
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


def family(pid):
    """A process and its descendants."""
    pids, found = [pid], []
    while pids:
        pid = pids.pop()
        found.append(pid)
        try:
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def proc(pid, name):
    """A file of a process; empty when the process has gone meanwhile."""
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def cpu(pid):
    """Seconds of user and system time so far."""
    ticks = 0
    for one in family(pid):
        if status := proc(one, "stat"):
            # utime, stime, and those of children that were waited for.
            ticks += sum(map(int, status.rsplit(")", 1)[1].split()[11:15]))
    return ticks / TICK


def memory(pid, what="VmHWM"):
    """Bytes: VmHWM is the most since it was reset, VmRSS what there is now."""
    total = 0
    for one in family(pid):
        for line in proc(one, "status").splitlines():
            if line.startswith(f"{what}:"):
                total += int(line.split()[1]) * 1024
    return total


def reset_peak(pid):
    for one in family(pid):
        pathlib.Path(f"/proc/{one}/clear_refs").write_text("5")


def traffic(pid):
    """Bytes read from and written to disk so far."""
    read = written = 0
    for one in family(pid):
        fields = dict(line.split(": ") for line in proc(one, "io").splitlines())
        read, written = read + int(fields.get("read_bytes", 0)), written + int(fields.get("write_bytes", 0))
    return read, written


def stored(folder):
    """Bytes that a folder takes. What DVCR keeps free for a full disk is no data."""
    command = ["du", "-s", "--block-size=1", "--exclude=dvcr.reserve", folder]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()[0])


def forget_pages(folder):
    """Has the page cache forget the files of a folder, and nothing else of the machine."""
    os.sync()
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def taken(server, action):
    """Does something and gives what it took `server`, and the S3 server behind it, with what the action says of itself."""
    reset_peak(server.pid)
    others = server.store.pids()
    cpu_before, io_before, stored_before = cpu(server.pid), traffic(server.pid), stored(server.store.folder)
    theirs, their_io = sum(map(cpu, others)), [traffic(pid) for pid in others]
    began = time.monotonic()
    said = action() or {}
    seconds = time.monotonic() - began
    read, written = traffic(server.pid)
    for pid, (read_before, written_before) in zip(others, their_io, strict=True):
        their_read, their_written = traffic(pid)
        read, written = read + their_read - read_before, written + their_written - written_before
    row = {
        "seconds": seconds,
        "cpu": cpu(server.pid) - cpu_before,
        "peak": memory(server.pid),
        "read": read - io_before[0],
        "written": written - io_before[1],
        "stored": stored(server.store.folder) - stored_before,
        **said,
    }
    if others:
        row["store_cpu"] = sum(map(cpu, others)) - theirs
    return row
