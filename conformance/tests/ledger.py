"""What clients asked a registry for and what they were told: from that follows what must be so at any moment, and what may.

Whoever was told that something is done can count on it. Of what was asked and not answered, because the server was killed
or the power was cut, nobody knows whether it was done, but it was not done by halves.
"""

import http.client
import json
import threading
import time

from wire import IMAGE, PATIENCE, Client, digest_of

GONE = "gone"
"""Of an upload that was finished or cancelled."""


class Deed:
    """One request that changes something: what it makes of what, and when that was asked and answered."""

    def __init__(self, changes):
        self.changes, self.begun, self.ended, self.refused = changes, time.time(), None, False

    def done(self):
        self.ended = time.time()

    def undone(self):
        """The server said that it did not do it."""
        self.refused = True


class Ledger:
    """Deeds, each about registers that one client at a time changes: a blob of a repository, a manifest, a tag, an upload.

    `grace` is for how many seconds a client can count on a blob that it was told of and that no manifest needs; for ever,
    where nothing is collected.
    """

    def __init__(self, grace=float("inf")):
        self.grace = grace
        self.deeds = []
        self.blobs = {}
        """The bytes of every blob that was ever sent, by digest."""
        self.manifests = {}
        """The bytes of every manifest that was ever sent, by digest, and the digests of its blobs."""
        self.uploads = {}
        """What is sent to each upload, by location."""
        self.lock = threading.Lock()

    def ask(self, changes):
        """Notes what is asked for, before it is."""
        deed = Deed(changes)
        with self.lock:
            self.deeds.append(deed)
        return deed

    def know(self, register, value, since=None):
        """Notes what somebody has seen, since then at the latest."""
        deed = self.ask({register: value})
        deed.begun = since or deed.begun
        deed.done()

    def settle(self, look):
        """Goes on from what was seen, at a moment when nobody is asking for anything."""
        self.deeds = []
        gone = [register for register, value in look.seen.items() if register[0] == "manifest" and not value]
        # What was deleted stays deleted; not all of it is looked at for ever.
        forgotten = set(gone[100:])
        there = {register[2] for register, value in look.seen.items() if register[0] == "manifest" and value}
        for register, value in look.seen.items():
            if register in forgotten:
                # It may be in another repository.
                if register[2] not in there:
                    self.manifests.pop(register[2], None)
            elif register[0] == "upload" and value == GONE:
                self.uploads.pop(register[1], None)
            elif register[0] == "upload":
                # One byte and none look alike.
                self.know(register, value if value > 1 else 0, look.begun)
            elif register[0] != "blob" or value:
                # The registry told of a blob when it was looked at, and a look takes time.
                self.know(register, value, look.begun)

    def at(self, when=float("inf"), grace=None):
        """What is known of a moment: for each register the values that it can have."""
        grace = self.grace if grace is None else grace
        known, told = {}, {}
        for deed in sorted(self.deeds, key=lambda deed: deed.begun):
            if deed.begun > when or deed.refused:
                continue
            is_certain = deed.ended is not None and deed.ended <= when
            for register, value in deed.changes.items():
                if is_certain:
                    known[register] = [value]
                    told[register] = deed.begun
                else:
                    known.setdefault(register, [nothing(register)]).append(value)
        kept = {
            (repository, blob)
            for (kind, repository, digest), values in known.items()
            if kind == "manifest" and values == [True]
            for blob in self.manifests[digest][1]
        }
        for (kind, repository, digest), values in known.items():
            if kind != "blob" or (repository, digest) in kept or False in values:
                continue
            if told.get((kind, repository, digest), when) + grace <= min(when, time.time()):
                values.append(False)
        return known


def nothing(register):
    """The value of what nobody has touched."""
    return {"tag": None, "upload": GONE}.get(register[0], False)


class Look:
    """Looks at a registry from outside and compares it with a ledger. `reads` says of which blobs the bytes are read."""

    def __init__(self, ledger, host, when=float("inf"), grace=None, reads=lambda: True):
        self.reads = reads
        self.ledger, self.when, self.grace, self.begun = ledger, when, grace, time.time()
        self.known = ledger.at(when, grace)
        self.client = Client(host)
        self.connection = http.client.HTTPConnection(host, timeout=PATIENCE)
        self.wrong = []
        self.seen = {}
        repositories = sorted({register[1] for register in self.known if register[0] != "upload"})
        for repository in repositories:
            self.repository(repository)
        self.catalog(repositories)
        for kind, location, _ in list(self.known):
            if kind == "upload":
                self.upload(location)
        self.connection.close()

    def get(self, path, method="GET"):
        try:
            self.connection.request(method, path, headers={"Accept": IMAGE})
            response = self.connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            self.wrong.append(f"{method} {path} breaks off: {error!r}")
            return 500, b"", {}
        if response.status not in (200, 204, 404):
            self.wrong.append(f"{method} {path} is answered {response.status}: {body[:300]}")
        return response.status, body, response.headers

    def found(self, register, value):
        self.seen[register] = value
        # To look takes time on a loaded machine: what could be counted on at its beginning may go before it comes to it.
        if value not in self.known[register] and value not in self.ledger.at(self.when, self.grace)[register]:
            self.wrong.append(f"{register} is {value} and must be {' or '.join(map(str, self.known[register]))}")

    def repository(self, name):
        own = [register for register in self.known if register[1] == name]
        for register in (register for register in own if register[0] == "blob"):
            self.blob(register)
        for register in (register for register in own if register[0] == "manifest"):
            self.manifest(register)
        for register in (register for register in own if register[0] == "tag"):
            self.tag(register)
        tags = {tag for kind, _, tag in own if kind == "tag" and self.seen["tag", name, tag] is not None}
        status, body, _ = self.get(f"/v2/{name}/tags/list")
        listed = set(json.loads(body)["tags"] or []) if status == 200 else set()
        if listed != tags:
            self.wrong.append(f"{name} lists the tags {listed} and has {tags}")

    def blob(self, register):
        _, name, digest = register
        path = f"/v2/{name}/blobs/{digest}"
        status, _, headers = self.get(path, "HEAD")
        self.found(register, status == 200)
        if status == 200 and self.reads():
            got, body, _ = self.get(path)
            if got != 200 or body != self.ledger.blobs[digest] or headers["Content-Length"] != str(len(body)):
                self.wrong.append(f"{path} has {len(body)} bytes, and not those that were sent ({got})")

    def manifest(self, register):
        _, name, digest = register
        status, body, _ = self.get(f"/v2/{name}/manifests/{digest}")
        self.found(register, status == 200)
        if status == 200:
            bytes_, blobs = self.ledger.manifests[digest]
            if body != bytes_:
                self.wrong.append(f"manifest {digest} of {name} is not what was sent")
            missing = [blob for blob in blobs if not self.seen.get(("blob", name, blob))]
            if missing:
                self.wrong.append(f"manifest {digest} of {name} lacks {missing}")

    def tag(self, register):
        _, name, tag = register
        status, body, headers = self.get(f"/v2/{name}/manifests/{tag}")
        self.found(register, digest_of(body) if status == 200 else None)
        if status == 200 and not self.seen.get(("manifest", name, digest_of(body))):
            self.wrong.append(f"tag {tag} of {name} is of a manifest that is not there")

    def catalog(self, repositories):
        listed = {name for page in self.client.pages("/v2/_catalog") for name in page.json()["repositories"]}
        needed = {register[1] for register, values in self.known.items() if register[0] == "manifest" and values == [True]}
        if not needed <= listed or not listed <= {*repositories, *(upload[0] for upload in self.ledger.uploads.values())}:
            self.wrong.append(f"the catalog is {listed}, of {repositories}")

    def upload(self, location):
        register = "upload", location, ""
        status, _, headers = self.get(location)
        if status != 204:
            return self.found(register, GONE)
        # One byte and none look alike.
        length = int(headers["Range"].split("-")[1]) + 1
        self.seen[register] = length
        lengths = [max(value, 1) for value in self.known[register] if value != GONE]
        if not lengths or not min(lengths) <= length <= max(lengths):
            self.wrong.append(f"upload {location} has {length} bytes and must have {self.known[register]}")


def resume(ledger, host, look):
    """Finishes every upload that is open, from where the server says that it stands."""
    client, wrong = Client(host), []
    for kind, location, _ in look.known:
        if kind != "upload" or look.seen["upload", location, ""] == GONE:
            continue
        name, data = ledger.uploads[location]
        length = look.seen["upload", location, ""]
        # One byte and none look alike, so only a server that has more is told where this goes on.
        if length < len(data) or length == 1:
            rest = client.patch(location, data[length:], length) if length > 1 else client.patch(location, data)
            if rest.status != 202:
                wrong.append(f"upload {location} does not go on at {length}: {rest}")
                continue
        digest = digest_of(data)
        answer = client.finish(location, digest)
        got = client.get(f"/v2/{name}/blobs/{digest}")
        if answer.status != 201 or got.body != data:
            wrong.append(f"upload {location} became {answer} and {got.status} with {len(got.body)} bytes")
    return wrong
