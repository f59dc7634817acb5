"""Clients that push, mount, move and delete at random, note what they are told, and take nothing for granted."""

import gzip
import http.client
import json
import random
import threading
import time

from ledger import GONE
from wire import IMAGE, Client, digest_of, encode, image

PIECE = 96 << 10

MANY = 40
"""Images of a person. Who has more deletes where they would push, so that a long life goes on as it began."""


class Layers:
    """Layers that have pieces in common, of all the ways to be stored: in a record, as they are, in chunks."""

    def __init__(self, seed, count=24, pieces=4, piece=PIECE):
        dice = random.Random(seed)
        noise = [dice.randbytes(piece) for _ in range(count // 2)]
        self.all = []
        for number in range(count):
            if number % 4 == 0:
                layer = dice.randbytes(dice.choice([1, 200, 16384, 20000]))
            elif number % 4 == 1:
                # What is compressed is not cut.
                layer = gzip.compress(dice.randbytes(dice.randrange(piece, 2 * piece)), 1)
            else:
                first = dice.randrange(len(noise))
                parts = [noise[(first + i) % len(noise)] for i in range(dice.randrange(2, pieces + 1))]
                parts.insert(dice.randrange(len(parts)), dice.randbytes(5000))
                layer = b"".join(parts)
            self.all.append(layer)


class Cut(Exception):
    """Nobody knows whether what was asked for was done: the server went away, or told of a failure that may pass."""


class Person:
    """A client with a repository of its own, whose layers others have too. `hosts` gives the servers that are there."""

    def __init__(self, number, hosts, ledger, layers, seed, others=1, wait=60):
        self.number, self.hosts, self.ledger, self.layers = number, hosts, ledger, layers
        self.name, self.others = f"crowd/{number}", [f"crowd/{other}" for other in range(others)]
        self.dice = random.Random(f"{seed}-{number}")
        self.wait, self.failures = wait, ()
        """For how long it waits, and the statuses that may pass."""
        self.images, self.tags, self.blobs, self.open = {}, {}, set(), {}
        self.made = 0
        self.counts = {}

    # What a person does.

    def live(self, stop):
        while not stop.is_set():
            self.act()

    def act(self):
        deeds = [
            *([self.push] * 6),
            *([self.move] * 2),
            *(self.untag, self.delete, self.delete, self.delete_blob, self.leave_open, self.go_on, self.cancel, self.look),
        ]
        deed = self.dice.choice(deeds)
        if deed == self.push and len(self.images) > MANY:
            deed = self.delete
        deed()
        self.counts[deed.__name__] = self.counts.get(deed.__name__, 0) + 1

    def push(self):
        layers = [self.dice.choice(self.layers.all) for _ in range(self.dice.randrange(1, 3))]
        self.made += 1
        config = json.dumps({"of": self.number, "number": self.made % 5}).encode()
        told = min([self.bring(blob) for blob in [*layers, config]])
        manifest = image(
            [(digest_of(layer), len(layer)) for layer in layers],
            (digest_of(config), len(config)),
            annotations={"of": str(self.number), "number": str(self.made % 12)},
        )
        self.put(encode(manifest), [digest_of(blob) for blob in [*layers, config]], told)

    def put(self, manifest, blobs, told):
        """Pushes a manifest to some tag, and gives its digest if it was taken."""
        digest, tag = digest_of(manifest), f"v{self.dice.randrange(4)}"
        self.ledger.manifests[digest] = manifest, blobs
        deed = self.ledger.ask({("manifest", self.name, digest): True, ("tag", self.name, tag): digest})
        answer = self.send("PUT", f"/v2/{self.name}/manifests/{tag}", manifest, {"Content-Type": IMAGE})
        if answer.status == 404 and answer.codes() == ["MANIFEST_BLOB_UNKNOWN"]:
            deed.undone()
            assert time.time() - told >= self.ledger.grace, f"a blob went though {self.name} was told of it: {answer}"
            assert digest not in self.images, f"a blob of an image of {self.name} went: {answer}"
            self.blobs -= set(blobs)
            # It may have been stored before that was seen.
            answer = self.send("DELETE", f"/v2/{self.name}/manifests/{digest}")
            assert answer.status in (202, 404), answer
            return None
        assert answer.status == 201, answer
        deed.done()
        self.images[digest] = blobs
        self.tags[tag] = digest
        return digest

    def move(self):
        if self.images:
            digest = self.dice.choice(sorted(self.images))
            self.put(*self.ledger.manifests[digest], time.time())

    def untag(self):
        if self.tags:
            tag = self.dice.choice(sorted(self.tags))
            self.remove(f"/v2/{self.name}/manifests/{tag}", {("tag", self.name, tag): None})
            del self.tags[tag]

    def delete(self):
        if self.images:
            digest = self.dice.choice(sorted(self.images))
            tags = [tag for tag, other in self.tags.items() if other == digest]
            changes = {("tag", self.name, tag): None for tag in tags}
            # What its blobs were told of lately is forgotten: who deletes an image knows that they may go.
            self.remove(f"/v2/{self.name}/manifests/{digest}", {("manifest", self.name, digest): False, **changes})
            self.blobs |= set(self.images.pop(digest))
            for tag in tags:
                del self.tags[tag]

    def delete_blob(self):
        free = self.blobs - {blob for blobs in self.images.values() for blob in blobs}
        if free:
            blob = self.dice.choice(sorted(free))
            deed = self.ledger.ask({("blob", self.name, blob): False})
            answer = self.send("DELETE", f"/v2/{self.name}/blobs/{blob}")
            # It may have been collected.
            assert answer.status in (202, 404), answer
            deed.done()
            self.blobs.discard(blob)

    def remove(self, path, changes):
        deed = self.ledger.ask(changes)
        answer = self.send("DELETE", path)
        assert answer.status == 202, answer
        deed.done()

    def look(self):
        for digest, blobs in list(self.images.items()):
            answer = self.send("GET", f"/v2/{self.name}/manifests/{digest}", headers={"Accept": IMAGE})
            assert answer.status == 200 and answer.body == self.ledger.manifests[digest][0], (digest, answer)
            blob = self.dice.choice(blobs)
            answer = self.send("GET", f"/v2/{self.name}/blobs/{blob}")
            assert answer.status == 200 and answer.body == self.ledger.blobs[blob], (blob, answer)

    # Blobs.

    def bring(self, data):
        """Makes sure that a blob is in the repository, and says since when that can be counted on."""
        digest = digest_of(data)
        self.ledger.blobs[digest] = data
        register = "blob", self.name, digest
        for _ in range(50):
            begun = time.time()
            way = self.dice.choice([self.ask_for, self.mount, self.send_whole, self.send_in_pieces, self.send_at_once])
            if way(data, digest, register):
                self.blobs.add(digest)
                return begun
        raise AssertionError(f"a push of {digest} never succeeds")

    def ask_for(self, data, digest, register):
        deed = self.ledger.ask({register: True})
        return self.told(deed, self.send("HEAD", f"/v2/{self.name}/blobs/{digest}"), 200, 404)

    def mount(self, data, digest, register):
        deed = self.ledger.ask({register: True})
        query = f"?mount={digest}&from={self.dice.choice(self.others)}"
        answer = self.send("POST", f"/v2/{self.name}/blobs/uploads/{query}")
        if answer.status == 202:
            # An upload in place of the mount.
            deed.undone()
            return self.finish(answer.headers["Location"], data, digest, register)
        return self.told(deed, answer, 201)

    def send_at_once(self, data, digest, register):
        deed = self.ledger.ask({register: True})
        query = f"?digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        return self.told(deed, self.send("POST", f"/v2/{self.name}/blobs/uploads/{query}", data, headers), 201)

    def send_whole(self, data, digest, register):
        return self.finish(self.begin(), data, digest, register)

    def send_in_pieces(self, data, digest, register):
        location, sent = self.begin(), 0
        while sent < len(data):
            piece = data[sent : sent + self.dice.randrange(1, len(data) + 1)]
            if not self.patch(location, piece, sent):
                return False
            sent += len(piece)
        return self.finish(location, b"", digest, register)

    def begin(self):
        answer = self.send("POST", f"/v2/{self.name}/blobs/uploads/")
        assert answer.status == 202, answer
        return answer.headers["Location"]

    def patch(self, location, piece, start):
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{start}-{start + len(piece) - 1}"}
        answer = self.send("PATCH", location, piece, headers)
        # What it used was collected: it has to begin again.
        assert answer.status in (202, 404), answer
        return answer.status == 202

    def finish(self, location, data, digest, register):
        deed = self.ledger.ask({register: True})
        headers = {"Content-Type": "application/octet-stream"}
        return self.told(deed, self.send("PUT", f"{location}?digest={digest}", data, headers), 201, 404)

    def told(self, deed, answer, yes, *no):
        assert answer.status in (yes, *no), answer
        if answer.status == yes:
            deed.done()
        else:
            deed.undone()
        return answer.status == yes

    # Uploads that take their time.

    def leave_open(self):
        if len(self.open) < 3:
            data = self.dice.choice(self.layers.all)
            self.ledger.blobs[digest_of(data)] = data
            location = self.begin()
            self.ledger.uploads[location] = self.name, data
            self.ledger.know(("upload", location, ""), 0)
            self.open[location] = 0
            self.go_on(location)

    def go_on(self, location=None):
        if location is None and not self.open:
            return
        location = location or self.dice.choice(sorted(self.open))
        sent, (_, data) = self.open[location], self.ledger.uploads[location]
        # At least two: one byte and none look alike.
        piece = data[sent : sent + self.dice.randrange(2, max(3, len(data) // 2))]
        register = "upload", location, ""
        if len(data) - sent > 1 and piece:
            deed = self.ledger.ask({register: sent + len(piece)})
            if not self.patch(location, piece, sent):
                deed.changes[register] = GONE
                del self.open[location]
            else:
                self.open[location] = sent + len(piece)
            deed.done()
            return
        digest = digest_of(data)
        deed = self.ledger.ask({register: GONE, ("blob", self.name, digest): True})
        answer = self.send("PUT", f"{location}?digest={digest}", piece, {"Content-Type": "application/octet-stream"})
        assert answer.status in (201, 404), answer
        if answer.status == 404:
            deed.changes = {register: GONE}
        else:
            self.blobs.add(digest)
        deed.done()
        del self.open[location]

    def cancel(self):
        if self.open:
            location = self.dice.choice(sorted(self.open))
            _, data = self.ledger.uploads[location]
            if self.open[location] == len(data):
                # Its server was killed while it became a blob, and that may come to its end.
                self.ledger.ask({("blob", self.name, digest_of(data)): True})
            deed = self.ledger.ask({("upload", location, ""): GONE})
            answer = self.send("DELETE", location)
            assert answer.status in (204, 404), answer
            deed.done()
            del self.open[location]

    # The wire.

    def send(self, method, path, body=None, headers=None):
        try:
            answer = Client(self.dice.choice(self.hosts())).send(method, path, body, headers, timeout=self.wait)
        except (OSError, http.client.HTTPException) as error:
            raise Cut(f"{method} {path}") from error
        if answer.status in self.failures:
            raise Cut(f"{method} {path}: {answer}")
        return answer

    def remember(self, look):
        """Takes what is there for what is there, after it was not known."""
        self.images, self.tags, self.open = {}, {}, {}
        for (kind, name, what), value in look.seen.items():
            if kind == "upload" and value != GONE and self.ledger.uploads[name][0] == self.name:
                self.open[name] = value if value > 1 else 0
            elif kind == "manifest" and name == self.name and value:
                self.images[what] = self.ledger.manifests[what][1]
            elif kind == "tag" and name == self.name and value:
                self.tags[what] = value


def crowd(people, stop):
    """Lets people live at once until they are to stop or are cut off. Gives what went wrong."""
    failures = []

    def live(person):
        try:
            person.live(stop)
        except Cut:
            pass
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=live, args=[person]) for person in people]
    for thread in threads:
        thread.start()
    return threads, failures
