"""A client that costs next to nothing: what it sends goes from the page cache into the socket by sendfile, and what it gets is
discarded by the kernel. So it is the server that is measured, and eight of them at once are threads of one process."""

import contextlib
import http.client
import os
import socket
import struct
import urllib.parse

from concurrent.futures import ThreadPoolExecutor

from bench import inputs

PIECE = 1 << 20
PATIENCE = 600
"""Seconds without a byte after which a server is given up."""


class Refused(Exception):
    """An answer that is not what a client needs."""


class Client(http.client.HTTPConnection):
    """One connection, which is kept."""

    def connect(self):
        super().connect()
        # Not settimeout, which would have Python ask the kernel twice for each piece.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PATIENCE, 0))

    def ask(self, method, path, want, headers=None, body=None):
        """A request with a small body; its answer has to have the status `want`."""
        self.request(method, path, body=body, headers=headers or {})
        return self.answer(method, path, want)

    def answer(self, method, path, want):
        response = self.getresponse()
        response.body = response.read()
        if response.status != want:
            raise Refused(f"{method} {path}: {response.status} {response.body[:300].decode(errors='replace')}")
        return response

    # Pushes.

    def upload(self, repository):
        """Begins an upload, and gives where it goes on."""
        path = f"/v2/{repository}/blobs/uploads/"
        return self.next(self.ask("POST", path, 202, {"Content-Length": "0"}), path)

    def next(self, response, path):
        where = urllib.parse.urlsplit(urllib.parse.urljoin(f"http://{self.host}:{self.port}{path}", response.headers["Location"]))
        return f"{where.path}?{where.query}" if where.query else where.path

    def send_file(self, method, path, want, file, start, length, headers):
        """A request whose body is a part of a file, with its length said before."""
        self.putrequest(method, path)
        for name, value in {"Content-Type": "application/octet-stream", "Content-Length": str(length), **headers}.items():
            self.putheader(name, value)
        self.endheaders()
        self.send_part(file, start, length)
        return self.answer(method, path, want)

    def send_part(self, file, start, length):
        end = start + length
        while start < end:
            start += os.sendfile(self.sock.fileno(), file.fileno(), start, end - start)

    def finish(self, place, digest):
        path = with_digest(place, digest)
        self.ask("PUT", path, 201, {"Content-Length": "0"})

    def push_whole(self, repository, blob):
        """As containerd does: one PUT."""
        with blob.path.open("rb") as file:
            path = with_digest(self.upload(repository), blob.digest)
            self.send_file("PUT", path, 201, file, 0, blob.size, {})

    def push_stream(self, repository, blob):
        """As docker does: one PATCH, of which nobody knows the length before, in the pieces in which Go copies; then a PUT."""
        place = self.upload(repository)
        self.putrequest("PATCH", place)
        self.putheader("Transfer-Encoding", "chunked")
        self.putheader("Content-Type", "application/octet-stream")
        self.endheaders()
        with blob.path.open("rb") as file:
            for start, length in blob.pieces(inputs.PIECE):
                self.sock.sendall(b"%x\r\n" % length, socket.MSG_MORE)
                self.send_part(file, start, length)
                self.sock.sendall(b"\r\n", socket.MSG_MORE)
        self.sock.sendall(b"0\r\n\r\n")
        self.finish(self.next(self.answer("PATCH", place, 202), place), blob.digest)

    def push_chunks(self, repository, blob, size):
        """In chunks: a PATCH for each, then a PUT."""
        place = self.upload(repository)
        with blob.path.open("rb") as file:
            for start in range(0, blob.size, size):
                length = min(size, blob.size - start)
                headers = {"Content-Range": f"{start}-{start + length - 1}"}
                place = self.next(self.send_file("PATCH", place, 202, file, start, length, headers), place)
        self.finish(place, blob.digest)

    def holds(self, repository, blob):
        """That a blob that was pushed is there, as long as it should be."""
        path = blob_path(repository, blob)
        length = int(self.ask("HEAD", path, 200).headers["Content-Length"])
        if length != blob.size:
            raise Refused(f"HEAD {path}: {length} bytes of {blob.size}")

    # Pulls.

    def pull(self, path, size, start=None):
        """Fetches `size` bytes, from `start` on if that is said, and discards them."""
        wants_range = {} if start is None else {"Range": f"bytes={start}-{start + size - 1}"}
        self.request("GET", path, headers=wants_range)
        # A server that closes behind its answer takes the connection's from it, and not the bytes that are on their way.
        sock = self.sock
        response = self.getresponse()
        want = 200 if start is None else 206
        if response.status != want or response.length != size:
            raise Refused(f"GET {path} {wants_range}: {response.status}, {response.length} bytes of {size}")
        # What came with the headers is in Python's buffer; all else is still the kernel's.
        left = size - len(response.fp.peek()) if size else 0
        if left < 0:
            raise Refused(f"GET {path}: more than {size} bytes")
        scratch = bytearray(PIECE)
        while left:
            got = sock.recv_into(scratch, min(left, PIECE), socket.MSG_TRUNC)
            if not got:
                raise Refused(f"GET {path}: {left} bytes are missing")
            left -= got
        response.close()

    def pull_ranges(self, path, size, piece):
        for start in range(0, size, piece):
            self.pull(path, min(piece, size - start), start)


def with_digest(place, digest):
    return f"{place}{'&' if '?' in place else '?'}digest={urllib.parse.quote(digest)}"


def blob_path(repository, blob):
    return f"/v2/{repository}/blobs/{blob.digest}"


@contextlib.contextmanager
def connected(server):
    connection = Client("127.0.0.1", server.port)
    try:
        yield connection
    finally:
        connection.close()


def at_once(server, actions):
    """Does all of it at one time, each with a connection of its own."""

    def one(action):
        with connected(server) as client:
            action(client)

    with ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(one, action) for action in actions]:
            done.result()
