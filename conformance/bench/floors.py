"""What nobody can do without, measured alone: sha256 of the bytes, and writing them."""

import resource
import subprocess
import sys
import time

PROGRAM = """
import hashlib, os, sys
sha256, scratch = hashlib.sha256(), bytearray(1 << 20)
with open(sys.argv[1], "rb", buffering=0) as source, open(sys.argv[2], "wb", buffering=0) as copy:
    while got := source.readinto(scratch):
        piece = memoryview(scratch)[:got]
        sha256.update(piece)
        copy.write(piece)
    os.fsync(copy.fileno())
"""


def hashed_and_written(source, copy, settings):
    """Reads a file in the page cache, by the sha256 of OpenSSL, into another one that is synced."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(["taskset", "-c", settings.cores[0], sys.executable, "-S", "-c", PROGRAM, source, copy], check=True)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    copy.unlink()
    return {"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
