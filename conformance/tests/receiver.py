"""Somebody who is told of pushes and deletions, and believes only what is signed."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import secrets
import ssl
import threading
import time


class Event:
    """An event as it came."""

    def __init__(self, headers, body):
        self.headers, self.body = headers, json.loads(body)
        self.id, self.type, self.data = self.body["id"], self.body["type"], self.body["data"]

    def __repr__(self):
        return json.dumps(self.body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes away is no news."""


class Receiver:
    """`status` is what it answers with; while `stalled`, it answers nothing."""

    def __init__(self, tls=None):
        self.key = secrets.token_bytes(32)
        self.status, self.headers, self.stalled = 204, {}, False
        self.tried, self.took, self.wrong = [], [], []
        self.lock, self.stopping = threading.Lock(), threading.Event()
        handler = type("Handler", (Handler,), {"receiver": self})
        self.server = Server(("127.0.0.1", 0), handler)
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def secret(self):
        return "whsec_" + base64.b64encode(self.key).decode()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks/registry"

    def config(self, name, **more):
        """The section of a configuration that has it told of everything."""
        settings = {"name": name, "url": self.url, "secret": self.secret, **more}
        # Text, lists and numbers look alike in TOML and in JSON.
        headers = settings.pop("headers", {})
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if value is not None]
        if headers:
            lines += ["[webhooks.headers]", *(f"{key} = {json.dumps(value)}" for key, value in headers.items())]
        return "[[webhooks]]\n" + "\n".join(lines) + "\n"

    def ids(self):
        return [event.id for event in self.took]

    def events(self):
        """Each event that it was told of, in the order in which they came: one may come again."""
        events = {}
        for event in list(self.took):
            events.setdefault(event.id, event)
        return list(events.values())

    def told(self):
        """What it was told, in the order in which it came."""
        return [(event.type.removeprefix("dvcr."), event.body["subject"]) for event in self.events()]

    def is_signed(self, headers, body):
        """As the specification of Standard Webhooks has it."""
        name, seconds = headers["webhook-id"], headers["webhook-timestamp"]
        if abs(time.time() - int(seconds)) > 300:
            return False
        mac = hmac.new(self.key, f"{name}.{seconds}.".encode() + body, hashlib.sha256).digest()
        wanted = "v1," + base64.b64encode(mac).decode()
        return any(hmac.compare_digest(given, wanted) for given in headers["webhook-signature"].split(" "))

    def stop(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    receiver = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver = self.receiver
        event = Event(self.headers, body)
        with receiver.lock:
            receiver.tried.append(event)
            if not receiver.is_signed(self.headers, body) or event.id != self.headers["webhook-id"]:
                receiver.wrong.append(event)
        while receiver.stalled and not receiver.stopping.is_set():
            time.sleep(0.02)
        status = receiver.status
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            if status < 300:
                with receiver.lock:
                    receiver.took.append(event)

    def do_GET(self):
        """Nobody should come here: redirects are not followed."""
        with self.receiver.lock:
            self.receiver.wrong.append(self.path)

    def log_message(self, *arguments):
        """Silence."""
