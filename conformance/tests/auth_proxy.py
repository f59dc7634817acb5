"""A registry behind a proxy that wants to know who one is: by basic authentication or bearer tokens."""

import base64
import contextlib
import http.client
import http.server
import json
import secrets
import ssl
import threading
from urllib.parse import parse_qs, urlsplit

from flaky_http import Server, basic

USER, PASSWORD = "puller", "a secret: with colon"
PIECE = 1 << 18


class AuthProxy:
    """Stands before a registry at `upstream`, HOST:PORT."""

    def __init__(self, upstream, scheme="basic", address="127.0.0.1", tls=None, user=USER, password=PASSWORD):
        self.upstream, self.scheme, self.user, self.password = upstream, scheme, user, password
        self.tokens, self.scopes, self.lock = {}, [], threading.Lock()
        self.turned_away = 0
        self.uses = None
        """A token is good for so many requests; for ever, if it is not said."""
        self.store = None
        """A web server that has the blobs: whoever asks for one is sent there."""
        self.server = Server((address, 0), type("Handler", (Handler,), {"proxy": self}))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"{address}:{self.server.server_address[1]}"
        self.web = f"{'https' if tls else 'http'}://{self.host}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def entry(self, host=None):
        """The "auths" of a docker config.json for it."""
        return {
            "auths": {host or self.host: {"auth": base64.b64encode(f"{self.user}:{self.password}".encode()).decode()}}
        }

    def lets_in(self, header):
        if self.scheme == "open":
            return True
        if self.scheme == "basic":
            return header == basic(f"{self.user}:{self.password}")
        with self.lock:
            token = (header or "").removeprefix("Bearer ")
            if self.tokens.get(token, 0) == 0:
                return False
            if self.uses is not None:
                self.tokens[token] -= 1
            return True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: AuthProxy

    def log_message(self, *_):
        pass

    def do_GET(self):
        if urlsplit(self.path).path == "/token" and self.proxy.scheme == "bearer":
            return self.token()
        self.forward()

    def do_POST(self):
        if urlsplit(self.path).path == "/token":
            # OAuth2 is for those who know it: the client falls back to GET, as with most registries.
            self.drain()
            return self.say(404, b"")
        self.forward()

    def do_HEAD(self):
        self.forward()

    do_PUT = do_PATCH = do_DELETE = do_HEAD

    def say(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def token(self):
        if self.headers.get("Authorization") != basic(f"{self.proxy.user}:{self.proxy.password}"):
            return self.say(401, b"{}", [("WWW-Authenticate", 'Basic realm="token"')])
        query = parse_qs(urlsplit(self.path).query)
        token = secrets.token_urlsafe(12)
        with self.proxy.lock:
            self.proxy.scopes.append((query.get("service", [""])[0], sorted(query.get("scope", []))))
            self.proxy.tokens[token] = self.proxy.uses or 1
        self.say(200, json.dumps({"token": token, "expires_in": 300}).encode(), [("Content-Type", "application/json")])

    def pieces(self):
        """The body of the request, as it comes."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read(min(PIECE, left))
            if not piece:
                raise ConnectionError
            left -= len(piece)
            yield piece

    def drain(self):
        for _ in self.pieces():
            pass

    def forward(self):
        if not self.proxy.lets_in(self.headers.get("Authorization")):
            self.proxy.turned_away += 1
            self.drain()
            challenge = 'Basic realm="disks"'
            if self.proxy.scheme == "bearer":
                name = self.path.removeprefix("/v2/").rsplit("/blobs/")[0].rsplit("/manifests/")[0].rsplit("/tags/")[0]
                actions = "pull" if self.command in ("GET", "HEAD") else "pull,push"
                scope = f',scope="repository:{name}:{actions}"' if name else ""
                challenge = f'Bearer realm="{self.proxy.web}/token",service="disks"{scope}'
            body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}).encode()
            return self.say(401, body, [("WWW-Authenticate", challenge), ("Content-Type", "application/json")])
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        if self.proxy.store and self.command == "GET" and "/blobs/sha256:" in self.path:
            path = "/" + self.path.rsplit("/", 1)[1]
            with contextlib.closing(upstream):
                upstream.request("GET", self.path)
                url = self.proxy.store.add(path, upstream.getresponse().read())
            return self.say(307, b"", [("Location", f"{url}?signature=abc")])
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("host", "authorization", "connection", "transfer-encoding")
        }
        if self.proxy.scheme == "open":
            # It only ends TLS: the registry sees who asks, and where.
            own = {"Authorization": self.headers.get("Authorization"), "Host": self.headers.get("Host")}
            own["X-Forwarded-Proto"] = "https" if self.proxy.web.startswith("https:") else "http"
            headers.update({name: value for name, value in own.items() if value})
        has_body = self.headers.get("Content-Length") or self.headers.get("Transfer-Encoding")
        with contextlib.suppress(OSError), contextlib.closing(upstream):
            upstream.request(
                self.command,
                self.path,
                self.pieces() if has_body else None,
                headers,
                encode_chunked="Content-Length" not in self.headers,
            )
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("date", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            while piece := answer.read1(PIECE):
                self.wfile.write(piece)
            return
        self.close_connection = True
