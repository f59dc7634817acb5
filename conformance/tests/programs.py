"""skopeo, crane and docker as members of a crowd: they push, copy, retag, pull and delete the same few images again and again.

What each of them is told goes into the same ledger as what everybody else is told.
"""

import collections
import json
import random
import shutil
import subprocess
import time

from disk import MIB
from wire import CONFIG, IMAGE, LAYER, Client, descriptor, digest_of, encode, image

TRIES = 30
PAUSE = 1


class Layout:
    """Images in the layout of OCI on a disk, which have much in common."""

    def __init__(self, folder, seed, count=3):
        self.folder, dice = folder, random.Random(seed)
        parts = [dice.randbytes(MIB // 2) for _ in range(2 * count)]
        self.images = [self.write(number, parts[: number + 2], dice.randbytes(3000)) for number in range(count)]
        """Of each its folder, the digest of its manifest, the manifest and its blobs by digest."""

    def write(self, number, parts, end):
        folder = self.folder / str(number)
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True)
        (folder / "disk").mkdir()
        (folder / "disk/disk.img").write_bytes(b"".join([*parts, end]))
        layer = subprocess.run(["tar", "-c", "--mtime=@0", "-C", folder, "disk"], capture_output=True, check=True).stdout
        shutil.rmtree(folder / "disk")
        config = encode(
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
        )
        manifest = encode(image([(digest_of(layer), len(layer))], (digest_of(config), len(config))))
        for data in [layer, config, manifest]:
            (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
        named = descriptor(IMAGE, digest_of(manifest), len(manifest))
        named["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
        (folder / "index.json").write_bytes(encode({"schemaVersion": 2, "manifests": [named]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return folder, digest_of(manifest), manifest, {digest_of(data): data for data in [layer, config]}


class Program:
    """One program that has two repositories for itself. It is asked to do what `deeds` of its class lists."""

    def __init__(self, number, hosts, ledger, seed, folder, may_hang_up=lambda since: False):
        self.hosts, self.ledger, self.folder, self.may_hang_up = hosts, ledger, folder, may_hang_up
        kind = type(self).__name__.lower()
        self.names = [f"programs/{kind}-{number}", f"programs/{kind}-{number}-copy"]
        self.dice = random.Random(f"{seed}-{kind}-{number}")
        self.folder.mkdir(parents=True)
        self.images = self.made(seed)
        for *_, blobs in self.images:
            ledger.blobs.update(blobs)
        self.tags, self.counts, self.again = {}, {}, collections.Counter()
        """The number of the image by repository and tag; what was done; what was tried again, by why."""
        self.moved, self.is_again = 0, False
        """Bytes that were compared; whether this is not the first time that it asks for the same."""

    def made(self, seed):
        return Layout(self.folder / "layouts", seed).images

    def live(self, stop):
        while not stop.is_set():
            self.act()

    def act(self):
        deed = self.dice.choice([self.push, self.push, self.copy, self.retag, self.pull, self.pull, self.delete])
        name = f"{type(self).__name__.lower()}: {deed.__name__}"
        if deed() is not False:
            self.counts[name] = self.counts.get(name, 0) + 1

    # What it does.

    def push(self):
        self.arrives(self.names[0], self.tag(), self.dice.randrange(len(self.images)), self.push_to)

    def copy(self):
        """To its other repository, where its blobs are mounted."""
        if not (tag := self.some_tag(self.names[0])):
            return False
        number = self.tags[self.names[0], tag]
        copy = lambda host, name, new, _: self.copy_to(host, tag, name, new)  # noqa: E731
        return self.arrives(self.names[1], self.tag(), number, copy)

    def retag(self):
        if not (tag := self.some_tag(self.names[0])):
            return False
        retag = lambda host, name, new, _: self.tag_as(host, name, tag, new)  # noqa: E731
        return self.arrives(self.names[0], self.tag(), self.tags[self.names[0], tag], retag)

    def pull(self):
        name = self.dice.choice(self.names)
        if not (tag := self.some_tag(name)):
            return False
        number = self.tags[name, tag]
        into = self.folder / "pulled"

        def pull(host):
            shutil.rmtree(into, ignore_errors=True)
            self.pull_to(host, name, tag, number, into)

        self.persist(pull)
        return None

    def delete(self):
        name = self.dice.choice(self.names)
        if not (tag := self.some_tag(name)):
            return False
        number = self.tags[name, tag]
        digest = self.images[number][1]
        tags = [key for key, other in self.tags.items() if key[0] == name and other == number]
        deed = self.ledger.ask({("manifest", name, digest): False, **{("tag", *key): None for key in tags}})
        self.persist(lambda host: self.remove(host, name, tag, digest))
        deed.done()
        for key in tags:
            del self.tags[key]
        return None

    def arrives(self, name, tag, number, push):
        """An image comes to be at a tag."""
        _, digest, manifest, blobs = self.images[number]
        self.ledger.manifests[digest] = manifest, [*blobs]
        changes = {("blob", name, blob): True for blob in blobs}
        deed = self.ledger.ask({("manifest", name, digest): True, ("tag", name, tag): digest, **changes})
        self.persist(lambda host: push(host, name, tag, number))
        deed.done()
        self.tags[name, tag] = number

    def persist(self, ask):
        """Does something until it succeeds, if it is for a reason that may pass that it does not."""
        for number in range(TRIES):
            self.is_again, begun = number > 0, time.time()
            try:
                return ask(self.dice.choice(self.hosts()))
            except Failed as failed:
                if self.may_hang_up(begun):
                    self.again["a server was killed"] += 1
                elif time.time() - begun >= self.ledger.grace and says(failed, "blob unknown"):
                    self.again["it took longer than the grace"] += 1
                else:
                    raise AssertionError(f"{type(self).__name__} failed: {failed}") from failed
            time.sleep(PAUSE)
        raise AssertionError(f"{type(self).__name__} never succeeds: {self.again}")

    def tag(self):
        return f"v{self.dice.randrange(3)}"

    def some_tag(self, name):
        tags = sorted(tag for other, tag in self.tags if other == name)
        return self.dice.choice(tags) if tags else None

    def remember(self, look):
        """Takes what is there for what is there, after it was not known."""
        numbers = {digest: number for number, (_, digest, _, _) in enumerate(self.images)}
        self.tags = {
            (name, tag): numbers[digest]
            for (kind, name, tag), digest in look.seen.items()
            if kind == "tag" and name in self.names and digest
        }

    def run(self, *command, **options):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **options)
        if done.returncode != 0:
            raise Failed(f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done.stdout

    def compare(self, folder, number):
        """An image that was pulled into a layout of OCI has the bytes that it had."""
        _, digest, manifest, blobs = self.images[number]
        for name, data in {digest: manifest, **blobs}.items():
            assert (folder / "blobs/sha256" / name.removeprefix("sha256:")).read_bytes() == data, f"{name} has other bytes"
            self.moved += len(data)


class Failed(Exception):
    """A program ended with another code than 0."""


def says(failed, code):
    """Whether a program says that it got this code, which each of them spells in its own way."""
    return code in str(failed).lower().replace("_", " ")


class Skopeo(Program):
    def skopeo(self, *arguments):
        return self.run("skopeo", "--insecure-policy", *arguments)

    def push_to(self, host, name, tag, number):
        source = f"oci:{self.images[number][0]}:v1"
        self.skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", source, f"docker://{host}/{name}:{tag}")

    def copy_to(self, host, tag, name, new):
        self.skopeo(
            *("copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"),
            *(f"docker://{host}/{self.names[0]}:{tag}", f"docker://{host}/{name}:{new}"),
        )

    def tag_as(self, host, name, tag, new):
        self.copy_to(host, tag, name, new)

    def pull_to(self, host, name, tag, number, into):
        source = f"docker://{host}/{name}:{tag}"
        self.skopeo("copy", "--preserve-digests", "--src-tls-verify=false", source, f"oci:{into}:v1")
        self.compare(into, number)

    def remove(self, host, name, tag, digest):
        try:
            self.skopeo("delete", "--tls-verify=false", f"docker://{host}/{name}@{digest}")
        except Failed as failed:
            # It was done the first time.
            if not (self.is_again and says(failed, "image may not exist")):
                raise


class Crane(Program):
    """`binary` is set before one is made."""

    binary = None

    def crane(self, *arguments):
        return self.run(self.binary, *arguments, "--insecure", env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"})

    def push_to(self, host, name, tag, number):
        self.crane("push", self.images[number][0], f"{host}/{name}:{tag}")

    def copy_to(self, host, tag, name, new):
        self.crane("copy", f"{host}/{self.names[0]}:{tag}", f"{host}/{name}:{new}")

    def tag_as(self, host, name, tag, new):
        self.crane("tag", f"{host}/{name}:{tag}", new)

    def pull_to(self, host, name, tag, number, into):
        self.crane("pull", "--format=oci", f"{host}/{name}:{tag}", into)
        self.compare(into, number)

    def remove(self, host, name, tag, digest):
        try:
            self.crane("delete", f"{host}/{name}@{digest}")
        except Failed as failed:
            if not (self.is_again and says(failed, "manifest unknown")):
                raise


class Docker(Program):
    """`daemon` is set before one is made."""

    daemon = None

    def made(self, seed):
        """What its daemon builds of the same disks; it says what it made of them when it pushes them for the first time."""
        made = []
        for number, (folder, *_) in enumerate(Layout(self.folder / "layouts", f"{seed}-docker").images):
            blobs = [path.read_bytes() for path in (folder / "blobs/sha256").iterdir()]
            (folder / "disk.img").write_bytes(max(blobs, key=len))
            (folder / "Dockerfile").write_text("FROM scratch\nCOPY disk.img /disk/disk.img\n")
            self.docker("build", "--quiet", "--tag", self.local(number), folder)
            made.append(self.first_push(number))
        return made

    def first_push(self, number):
        host, name = self.hosts()[0], self.names[0]
        self.push_to(host, name, "first", number)
        client = Client(host)
        answer = client.get(f"/v2/{name}/manifests/first")
        manifest = json.loads(answer.body)
        digests = [blob["digest"] for blob in [*manifest["layers"], manifest["config"]]]
        blobs = {digest: client.get(f"/v2/{name}/blobs/{digest}").body for digest in digests}
        assert all(digest_of(data) == digest for digest, data in blobs.items())
        digest = digest_of(answer.body)
        assert client.delete(f"/v2/{name}/manifests/{digest}").status == 202
        return None, digest, answer.body, blobs

    def local(self, number):
        return f"soak-{self.names[0].rsplit('/', 1)[1]}:{number}"

    def docker(self, *arguments):
        done = self.daemon.run(*arguments, check=False)
        if done.returncode != 0:
            raise Failed(f"docker {arguments}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done.stdout

    def push_to(self, host, name, tag, number):
        reference = f"{host}/{name}:{tag}"
        self.docker("tag", self.local(number), reference)
        try:
            self.docker("push", reference)
        finally:
            self.docker("image", "rm", reference)

    def copy_to(self, host, tag, name, new):
        # Its daemon knows where it pushed the layers, and asks for a mount.
        self.push_to(host, name, new, self.tags[self.names[0], tag])

    def tag_as(self, host, name, tag, new):
        self.push_to(host, name, new, self.tags[name, tag])

    def pull_to(self, host, name, tag, number, into):
        _, digest, manifest, blobs = self.images[number]
        # So that it has to fetch the layer, whose digest it verifies.
        self.daemon.run("image", "rm", self.local(number), check=False)
        reference = f"{host}/{name}@{digest}"
        self.docker("pull", reference)
        self.docker("tag", reference, self.local(number))
        self.docker("image", "rm", reference)
        found = self.docker("image", "inspect", "--format", "{{.Id}}", self.local(number)).strip()
        assert found == json.loads(manifest)["config"]["digest"], f"{digest} became {found}"
        self.moved += sum(map(len, blobs.values()))

    def remove(self, host, name, tag, digest):
        # It has no command for that.
        try:
            answer = Client(host).delete(f"/v2/{name}/manifests/{digest}")
        except OSError as error:
            raise Failed(f"DELETE: {error!r}") from error
        if answer.status != 202 and not (self.is_again and answer.status == 404):
            raise Failed(f"DELETE: {answer}")
