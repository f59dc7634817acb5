"""A client that goes on where it was cut off, as any good client does, and reads back what it was told is there."""

import collections
import http.client
import time
from urllib.parse import parse_qs, urlsplit

from crowd import Person
from wire import IMAGE, Client

PAUSE = 1
"""Seconds before something is tried again: what a server was about when it was killed has happened by then, or never will."""
MAY_PASS = (502, 503, 504, 507)
"""What a server says that cannot do something now. 500 is not among them: it is a mistake of the server's."""
TRIES = 60


class Patient(Person):
    """A person who tries again when the connection is lost or the server says that it cannot do something now.

    `may_hang_up` says of a server whether it may have broken connections since some time: one that nobody kills must not.
    """

    def __init__(self, *arguments, may_hang_up=lambda host, since: False, wait=120, **options):
        super().__init__(*arguments, wait=wait, **options)
        self.may_hang_up = may_hang_up
        self.again = collections.Counter()
        """What was tried again, by why."""
        self.moved = 0
        """Bytes of bodies, there and back."""

    def put(self, manifest, blobs, told):
        digest = super().put(manifest, blobs, told)
        if digest is not None:
            self.read_back(digest)
        return digest

    def read_back(self, digest):
        """Everything that an image has, byte for byte."""
        answer = self.send("GET", f"/v2/{self.name}/manifests/{digest}", headers={"Accept": IMAGE})
        assert answer.status == 200 and answer.body == self.ledger.manifests[digest][0], (digest, answer)
        for blob in self.images[digest]:
            answer = self.send("GET", f"/v2/{self.name}/blobs/{blob}")
            assert answer.status == 200, (blob, answer)
            assert answer.body == self.ledger.blobs[blob], f"{blob} has {len(answer.body)} bytes, and not those that were sent"

    # The wire.

    def send(self, method, path, body=None, headers=None):
        answer = self.once(method, path, body, headers)
        for _ in range(TRIES):
            if answer is not None:
                return answer
            time.sleep(PAUSE)
            answer = self.once_more(method, path, body, headers)
        raise AssertionError(f"{method} {path} never succeeds: {self.again}")

    def once(self, method, path, body=None, headers=None):
        """The answer, or nothing where it is not known what was done."""
        host, begun = self.dice.choice(self.hosts()), time.time()
        try:
            answer = Client(host).send(method, path, body, headers, timeout=self.wait)
        except (OSError, http.client.HTTPException) as error:
            assert self.may_hang_up(host, begun), f"{host} breaks off {method} {path}: {error!r}"
            self.again["connection lost"] += 1
            return None
        self.moved += len(body or b"") + len(answer.body)
        if answer.status in MAY_PASS:
            self.again[answer.status] += 1
            return None
        return answer

    def once_more(self, method, path, body, headers):
        """The same again, or what is left of it."""
        if "/blobs/uploads/" in path and method == "PATCH":
            return self.rest_of_patch(path, body, int(headers["Content-Range"].split("-")[0]))
        if "/blobs/uploads/" in path and method == "PUT":
            return self.rest_of_upload(*path.split("?"))
        answer = self.once(method, path, body, headers)
        if answer is not None and method == "DELETE" and "/manifests/" in path and answer.status == 404:
            # It was done before.
            answer.status = 202
        return answer

    def rest_of_patch(self, location, piece, start):
        answer = self.once("GET", location)
        if answer is None or answer.status == 404:
            return answer
        for offset in offsets(answer, start):
            rest = piece[offset - start :]
            if not rest:
                answer.status = 202
                return answer
            sent = self.send_from(offset, "PATCH", location, rest)
            if sent is None or sent.status != 416:
                return sent
        return None

    def rest_of_upload(self, location, query):
        """Finishes an upload, whose bytes its digest tells."""
        (digest,) = parse_qs(query)["digest"]
        answer = self.once("GET", location)
        if answer is None:
            return None
        if answer.status == 404:
            # It is finished, or has to begin again.
            repository = urlsplit(location).path.removeprefix("/v2/").split("/blobs/uploads/")[0]
            found = self.once("HEAD", f"/v2/{repository}/blobs/{digest}")
            if found is not None and found.status == 200:
                found.status = 201
            return found
        for offset in offsets(answer, 0):
            sent = self.send_from(offset, "PUT", f"{location}?{query}", self.ledger.blobs[digest][offset:])
            if sent is None or sent.status != 416:
                return sent
        return None

    def send_from(self, offset, method, location, data):
        headers = {"Content-Type": "application/octet-stream"}
        if data:
            headers["Content-Range"] = f"{offset}-{offset + len(data) - 1}"
        return self.once(method, location, data, headers)


def offsets(answer, start):
    """Where an upload may stand, which began to be added to at `start`."""
    offset = int(answer.headers["Range"].split("-")[1]) + 1
    # One byte and none look alike.
    return [0, 1] if offset == 1 and start == 0 else [offset]
