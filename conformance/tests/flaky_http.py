"""A web server that behaves as badly as the ones that disk images are downloaded from."""

import base64
import contextlib
import dataclasses
import http.server
import re
import socket
import ssl
import subprocess
import threading

PIECE = 64 * 1024


@dataclasses.dataclass
class Resource:
    """A file on the server, and what goes wrong with it."""

    data: bytes = b""
    etag: str | None = '"v1"'
    modified: str | None = "Sat, 21 Nov 2026 10:00:00 GMT"
    content_type: str = "application/octet-stream"
    ranges: bool = True
    """Whether it heeds Range; otherwise everything is sent each time."""
    framing: str = "length"
    """How an answer's end is known: "length", "chunked", or "close" of the connection."""
    cut: int | None = None
    """After so many bytes of an answer the connection is closed."""
    cuts: int | None = None
    """How often that happens; always, if it is not said."""
    stall: int | None = None
    """After so many bytes of an answer nothing more is sent."""
    stalls: int | None = None
    """How often that happens; always, if it is not said."""
    becomes: "Resource | None" = None
    """What is there after an answer was cut for the first time, or sent whole if none is cut."""
    unavailable: int = 0
    """So many times the answer is 503."""
    retry_after: str | None = "1"
    status: int = 200
    location: str | None = None
    """Redirects there."""
    user: str | None = None
    """NAME:PASSWORD that it demands."""
    header: tuple[str, str] | None = None
    """The header that it demands."""
    pause: float = 0
    """Seconds that it waits behind each piece of 64 KiB."""
    length: int | None = None
    """A Content-Length that is not true."""
    hold: int | None = None
    """At so many bytes of the file it waits for `go`."""
    passing: int = 0
    """So many readings are not held."""
    go: threading.Event = dataclasses.field(default_factory=threading.Event)
    held: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass
class Seen:
    """A request as it came, and how much was sent for it."""

    method: str
    path: str
    headers: dict
    status: int = 0
    sent: int = 0

    @property
    def start(self):
        """Where it asks for all the rest; none for a look at some bytes, or for everything."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else None

    @property
    def whole(self):
        """Whether it is a reading of the file, from its beginning or a later byte to its end."""
        return "range" not in self.headers or self.start is not None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes away is no news."""


class Web:
    """The server. `web.add("/disk.img", data, cut=1000)` puts a file there and gives its URL."""

    def __init__(self, address="127.0.0.1", tls=None):
        self.resources, self.seen, self.lock = {}, [], threading.Lock()
        self.stopping = threading.Event()
        handler = type("Handler", (Handler,), {"web": self})
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.server = type("Server", (Server,), {"address_family": family})((address, 0), handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.scheme = "https" if tls else "http"
        self.port = self.server.server_address[1]
        self.host = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"
        self.url = f"{self.scheme}://{self.host}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, path, data=b"", **behaviour):
        self.resources[path] = Resource(data, **behaviour)
        return self.url + path

    def stop(self):
        self.stopping.set()
        for resource in self.resources.values():
            resource.go.set()
        self.server.shutdown()
        self.server.server_close()

    def requests(self, path=None, method="GET"):
        with self.lock:
            return [seen for seen in self.seen if path in (None, seen.path) and method in (None, seen.method)]

    def sent(self, path=None):
        """Bytes of bodies sent."""
        return sum(seen.sent for seen in self.requests(path))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = self.path.split("?")[0]
        seen = Seen(self.command, path, {name.lower(): value for name, value in self.headers.items()})
        with self.web.lock:
            self.web.seen.append(seen)
            resource = self.web.resources.get(path)
            if resource and resource.unavailable and self.command == "GET":
                resource.unavailable -= 1
                unavailable = True
            else:
                unavailable = False
        self.seen = seen
        if resource is None:
            self.short(404)
        elif unavailable:
            self.short(503, [("Retry-After", resource.retry_after)] if resource.retry_after else [])
        elif resource.user and self.headers.get("Authorization") != basic(resource.user):
            self.short(401, [("WWW-Authenticate", 'Basic realm="disks"')])
        elif resource.header and self.headers.get(resource.header[0]) != resource.header[1]:
            self.short(403)
        elif resource.location:
            location = resource.location
            if "{n}" in location:
                # A chain without an end: each address is a new one.
                location = location.format(n=len(self.web.requests(path, None)))
            self.short(302, [("Location", location)])
        elif resource.status != 200:
            self.short(resource.status)
        else:
            self.file(resource)

    def short(self, status, headers=(), body=b"no\n"):
        self.seen.status = status
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, resource):
        data, first, last = resource.data, 0, len(resource.data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        partial = bool(
            wanted and resource.ranges and (condition is None or condition in (resource.etag, resource.modified))
        )
        if partial:
            first = int(wanted[1])
            if wanted[2]:
                last = min(last, int(wanted[2]) + 1)
            if first >= len(data):
                return self.short(416, [("Content-Range", f"bytes */{len(data)}")], b"")
        self.seen.status = 206 if partial else 200
        self.send_response(self.seen.status)
        self.send_header("Content-Type", resource.content_type)
        for name, value in [("ETag", resource.etag), ("Last-Modified", resource.modified)]:
            if value:
                self.send_header(name, value)
        if resource.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(data)}")
        if resource.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif resource.framing == "close":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            length = resource.length if resource.length is not None and not partial else last - first
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.body(resource, first, last)
            if resource.length is not None:
                self.close_connection = True

    def body(self, resource, first, last):
        position = first
        while position < last:
            end = min(position + PIECE, last)
            if resource.hold is not None and position <= resource.hold < end and not resource.go.is_set():
                end = resource.hold
                if position == end:
                    if resource.passing:
                        resource.passing -= 1
                        end = min(position + PIECE, last)
                    else:
                        resource.held.set()
                        resource.go.wait()
                        continue
            sent = position - first
            if resource.stall is not None and sent + (end - position) > resource.stall and self.takes("stalls"):
                self.send(resource, resource.data[position : first + resource.stall])
                # Until the client has enough of it.
                with contextlib.suppress(OSError):
                    self.connection.settimeout(None)
                    self.connection.recv(1)
                self.close_connection = True
                return
            if resource.cut is not None and sent + (end - position) > resource.cut and self.takes("cuts"):
                self.send(resource, resource.data[position : first + resource.cut])
                self.drop()
                return
            self.send(resource, resource.data[position:end])
            position = end
            self.web.stopping.wait(resource.pause)
        if resource.becomes and resource.cut is None and (first, last) == (0, len(resource.data)):
            with self.web.lock:
                self.web.resources[self.seen.path] = resource.becomes
        if resource.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def takes(self, what):
        """Whether it happens this time."""
        with self.web.lock:
            resource = self.web.resources[self.seen.path]
            left = getattr(resource, what)
            if left == 0:
                return False
            if left is not None:
                setattr(resource, what, left - 1)
            if resource.becomes:
                self.web.resources[self.seen.path] = resource.becomes
            return True

    def send(self, resource, piece):
        if not piece:
            return
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if resource.framing == "chunked" else piece)
        self.seen.sent += len(piece)

    def drop(self):
        """Ends the connection in the middle, as a proxy does that was restarted."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


def basic(user):
    return "Basic " + base64.b64encode(user.encode()).decode()


class Authority:
    """A certificate authority, and certificates by it."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.certificate, self.key = folder, folder / "ca.pem", folder / "ca.key"
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=Conformance CA", "-keyout", self.key, "-out", self.certificate,
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def certify(self, *addresses, days=30):
        """A certificate and its key for a server at these addresses."""
        name = addresses[0].replace(":", "_")
        request, key, made = (self.folder / f"{name}.{end}" for end in ["csr", "key", "pem"])
        openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=conformance",
            "-keyout", key, "-out", request,
        )  # fmt: skip
        extensions = self.folder / f"{name}.ext"
        names = [("IP:" if re.fullmatch(r"[0-9.:]+", address) else "DNS:") + address for address in addresses]
        extensions.write_text(f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth\n")
        openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
            "-days", days, "-extfile", extensions, "-out", made,
        )  # fmt: skip
        return made, key


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
