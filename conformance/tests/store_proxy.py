"""A wire between a registry and its S3 server that fails when it is told to: the store is down, slow, full, or loses answers."""

import contextlib
import http.client
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = 503, "SlowDown"
INSUFFICIENT = 507, "InsufficientCapacity"
QUOTA = 403, "QuotaExceeded"
WRITING = ("PUT", "POST")


class StoreProxy:
    """`fault` says of each request what becomes of it: `None`, a status with a code, or one of the ways below."""

    CUT = "the connection breaks before the store has heard"
    LOST = "the store does it, and the answer is lost"
    HALF = "half of the answer arrives"
    LATE = "it takes a while"

    def __init__(self, endpoint):
        self.upstream = urlsplit(endpoint).netloc
        self.fault = lambda method, path: None
        self.happened = {}
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.proxy = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def heal(self):
        self.fault = lambda method, path: None

    def full(self, answer):
        """Whoever writes is told that there is no space, but for conditions that cannot hold."""
        self.fault = lambda method, path: answer if method in WRITING else None

    def fails_now_and_then(self, seed, share):
        """Anything may happen to any request."""
        dice, lock = random.Random(seed), threading.Lock()
        ways = [SLOW_DOWN, SLOW_DOWN, (500, "InternalError"), self.CUT, self.LOST, self.LOST, self.HALF, self.LATE]

        def fault(method, path):
            with lock:
                return dice.choice(ways) if dice.random() < share else None

        self.fault = fault


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Connections break: that is what this is for."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def pass_on(self):
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.fault(self.command, self.path)
        if fault is not None:
            proxy.happened[fault] = proxy.happened.get(fault, 0) + 1
        if fault == proxy.CUT:
            return self.hang_up()
        if fault == proxy.LATE:
            time.sleep(0.5)
        if isinstance(fault, tuple):
            status, code = fault
            return self.answer(status, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
        connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            received = response.read()
        if fault == proxy.LOST:
            return self.hang_up()
        self.answer(response.status, response.headers, received, fault == proxy.HALF)

    def answer(self, status, headers, body, is_half=False):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_half else body)
        if is_half:
            self.hang_up()

    def hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on
