"""Wires that go bad: one that is cut or changes bytes, and the forward proxy of a company's network."""

import contextlib
import http.server
import select
import socket
import threading
from urllib.parse import urlsplit

from flaky_http import Server


class CuttingProxy:
    """Passes TCP on to `upstream`, HOST:PORT.

    `cut`: each connection ends after so many bytes of answers; `cuts`: how often that happens.
    `change`: these bytes become those, the first `changes` times that they come by.
    `hold`: after so many bytes of answers, on all connections together, nothing more comes.
    `before`: (some bytes, an action): before these bytes of a request are passed on for the first time, it is done.
    `sent` counts the bytes of requests.
    """

    def __init__(self, upstream, cut=None, cuts=None, change=None, changes=None, hold=None, before=None):
        self.upstream, self.cut, self.cuts, self.change, self.changes = upstream, cut, cuts, change, changes
        self.before, self.sent = before, 0
        self.hold, self.held, self.go, self.passed = hold, threading.Event(), threading.Event(), 0
        self.lock, self.connections, self.was_cut, self.was_changed = threading.Lock(), 0, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def stop(self):
        self.go.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.connection, args=(client,), daemon=True).start()

    def connection(self, client):
        name, port = self.upstream.split(":")
        with client, contextlib.suppress(OSError), socket.create_connection((name, int(port))) as server:
            threading.Thread(target=self.up, args=(client, server), daemon=True).start()
            try:
                self.down(client, server)
            finally:
                # Closing them does not wake who reads from them.
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

    def up(self, client, server):
        with contextlib.suppress(OSError):
            while piece := client.recv(1 << 16):
                self.arrives(piece)
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)

    def arrives(self, piece):
        """Counts what a client has sent, and does what is to be done before it goes on."""
        with self.lock:
            self.sent += len(piece)
            some, action = self.before or (b"", None)
            if not action or some not in piece:
                return
            self.before = None
        action()

    def down(self, client, server):
        passed, kept = 0, b""
        while True:
            piece = server.recv(1 << 16)
            data = kept + piece
            kept = b""
            if self.change:
                data, kept = self.changed(data, bool(piece))
            if self.cut is not None and passed + len(data) > self.cut and self.takes():
                client.sendall(data[: max(0, self.cut - passed)])
                break
            self.passed += len(data)
            if self.hold is not None and self.passed > self.hold:
                self.held.set()
                self.go.wait()
            client.sendall(data)
            passed += len(data)
            if not piece:
                break

    def takes(self):
        with self.lock:
            if self.cuts == 0:
                return False
            if self.cuts is not None:
                self.cuts -= 1
            self.was_cut += 1
            return True

    def changed(self, data, more):
        old, new = self.change
        with self.lock:
            while old in data and self.changes != 0:
                data = data.replace(old, new, 1)
                self.was_changed += 1
                if self.changes is not None:
                    self.changes -= 1
        if more:
            # What may be the beginning of it waits for what follows.
            for length in range(len(old) - 1, 0, -1):
                if data.endswith(old[:length]):
                    return data[:-length], data[-length:]
        return data, b""


class ForwardProxy:
    """What HTTP_PROXY and HTTPS_PROXY name. `names` tells where they are: {"name:port": "address:port"}."""

    def __init__(self, names):
        self.names, self.asked = names, []
        self.server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    proxy: ForwardProxy

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        self.proxy.asked.append(f"{self.command} {url.netloc}")
        self.close_connection = True
        name, port = self.proxy.names[url.netloc if ":" in url.netloc else f"{url.netloc}:80"].split(":")
        with contextlib.suppress(OSError), socket.create_connection((name, int(port))) as server:
            path = url.path + (f"?{url.query}" if url.query else "")
            head = f"{self.command} {path} HTTP/1.1\r\n"
            for header, value in self.headers.items():
                if header.lower() not in ("connection", "proxy-connection"):
                    head += f"{header}: {value}\r\n"
            server.sendall(f"{head}Connection: close\r\n\r\n".encode())
            while piece := server.recv(1 << 16):
                self.connection.sendall(piece)

    do_HEAD = do_GET

    def do_CONNECT(self):
        self.proxy.asked.append(f"CONNECT {self.path}")
        self.close_connection = True
        name, port = self.proxy.names[self.path].split(":")
        with contextlib.suppress(OSError), socket.create_connection((name, int(port))) as server:
            self.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {self.connection: server, server: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    piece = end.recv(1 << 16)
                    if not piece:
                        return
                    ends[end].sendall(piece)
