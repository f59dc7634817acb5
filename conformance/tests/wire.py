"""HTTP as it is on the wire: nothing is normalised, retried or followed behind a test's back."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit
from uuid import UUID

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

PATIENCE = 240
"""Seconds for an answer: longer than a server waits for a store that stands still."""

NO_UPLOAD = UUID("5b608020-7361-434f-8000-000000000000")
"""An upload that never began."""


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.headers = response.headers
        self.body = body

    def lasting(self):
        """The headers that are the same each time."""
        return {name: value for name, value in self.headers.items() if name.lower() not in ("date", "x-request-id")}

    def json(self):
        return json.loads(self.body)

    def codes(self):
        """The error codes of an answer that must be the spec's JSON."""
        assert self.headers["Content-Type"] == "application/json", self.headers
        errors = self.json()["errors"]
        assert errors and all(error["message"] for error in errors), errors
        return [error["code"] for error in errors]

    def __repr__(self):
        return f"{self.status} {dict(self.headers.items())} {self.body[:300]!r}"


class Client:
    """One connection at a time to a registry, and shorthand for what tests push."""

    def __init__(self, host):
        self.host = host

    def send(self, method, path, body=None, headers=None, chunked=False, timeout=PATIENCE):
        """Sends a request. An iterable body with `chunked` goes without a length."""
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {}, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response, response.read())
        finally:
            connection.close()

    def connect(self, timeout=10):
        """A bare connection."""
        name, port = self.host.split(":")
        return socket.create_connection((name, int(port)), timeout=timeout)

    def raw(self, data, timeout=10):
        """Sends bytes as they are and returns everything that comes back."""
        with self.connect(timeout) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            received = b""
            try:
                while piece := connection.recv(65536):
                    received += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return received

    def pages(self, path):
        """Every page of a listing: Link is followed exactly as it is given."""
        while path:
            answer = self.get(path)
            assert answer.status == 200, answer
            yield answer
            link = answer.headers["Link"]
            path = link and re.fullmatch(r'<([^>]+)>; ?rel="next"', link)[1]

    def get(self, path, **headers):
        return self.send("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def head(self, path):
        return self.send("HEAD", path)

    def delete(self, path):
        return self.send("DELETE", path)

    def begin(self, name, query=""):
        """A new upload session's location."""
        answer = self.send("POST", f"/v2/{name}/blobs/uploads/{query}")
        assert answer.status == 202, answer
        return answer.headers["Location"]

    def patch(self, location, data, start=None, **more):
        headers = {"Content-Type": "application/octet-stream"}
        if start is not None:
            headers["Content-Range"] = f"{start}-{start + len(data) - 1}"
        return self.send("PATCH", location, data, headers, **more)

    def finish(self, location, digest, data=b"", headers=None):
        separator = "&" if urlsplit(location).query else "?"
        return self.send("PUT", f"{location}{separator}digest={quote(digest)}", data, headers)

    def offset(self, location):
        """How many bytes an upload has; a single byte and none look alike."""
        answer = self.get(location)
        assert answer.status == 204, answer
        first, last = answer.headers["Range"].split("-")
        assert first == "0"
        return int(last) + 1

    def push_blob(self, name, data, algorithm="sha256"):
        """Pushes bytes by POST and PUT, and gives the digest."""
        digest = digest_of(data, algorithm)
        answer = self.finish(self.begin(name), digest, data)
        assert answer.status == 201, answer
        return digest

    def put_manifest(self, name, reference, manifest, media_type=None, query=""):
        data = manifest if isinstance(manifest, bytes) else encode(manifest)
        if media_type is None:
            media_type = json.loads(data).get("mediaType", IMAGE)
        headers = {"Content-Type": media_type}
        return self.send("PUT", f"/v2/{name}/manifests/{reference}{query}", data, headers)

    def image(self, name, layer=b"layer", config=b"{}", **fields):
        """Pushes the blobs of an image and gives its manifest."""
        return image(
            [(self.push_blob(name, layer), len(layer))], (self.push_blob(name, config), len(config)), **fields
        )

    def push_image(self, name, tag, layer=None, **fields):
        """Pushes an image and gives the digest of its manifest."""
        manifest = encode(self.image(name, layer or os.urandom(64), **fields))
        answer = self.put_manifest(name, tag, manifest)
        assert answer.status == 201, answer
        return digest_of(manifest)


def eventually(check, seconds=10, otherwise=lambda: None):
    """What `check` gives once it is true: for what a server does after it has answered. `otherwise` says what there is instead."""
    deadline = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found, otherwise()
    return found


def at_once(calls):
    """What the calls give, which all begin at the same moment, each on a thread of its own."""
    calls = list(calls)
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def digest_of(data, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def encode(manifest):
    return json.dumps(manifest).encode()


def descriptor(media_type, digest, size):
    return {"mediaType": media_type, "digest": digest, "size": size}


def image(layers, config, **fields):
    return {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(CONFIG, *config),
        "layers": [descriptor(LAYER, *layer) for layer in layers],
        **fields,
    }


def index(manifests, **fields):
    return {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(IMAGE, *manifest) for manifest in manifests],
        **fields,
    }
