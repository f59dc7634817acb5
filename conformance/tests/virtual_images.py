"""VirtualImage and ClusterVirtualImage as their users see them: through kubectl, curl, and the registry they are in.

A `World` is one server with the resources. The cases are the same for each kind of world; here is the one in which
`dvcr serve` is everything.
"""

import base64
import contextlib
import dataclasses
import http.client
import json
import pathlib
import select
import shutil
import socket
import subprocess
import threading
import time
from urllib.parse import urlsplit

from command import kept
from flaky_http import PIECE, Handler, Server, Web
from kubernetes import Kubectl
from wire import Client

GROUP, VERSION = "virtualization.deckhouse.io", "v1alpha2"
KINDS = {"vi": "VirtualImage", "cvi": "ClusterVirtualImage", "vmdisk": "VMDisk", "vminstance": "VMInstance"}
PLURALS = {"vi": "virtualimages", "cvi": "clustervirtualimages", "vmdisk": "vmdisks", "vminstance": "vminstances"}
APIS = dict.fromkeys(["vmdisk", "vminstance"], "apps.cozystack.io/v1alpha1")
"""Where kinds of other groups are."""
FIRST = "watched-from-here"
"""The image by which a watch shows that it has begun."""


# Manifests.


def virtual_image(name, source, kind="vi", namespace=None, **spec):
    """The manifest of an image."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    spec = {"dataSource": source, **spec}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KINDS[kind], "metadata": metadata, "spec": spec}


def from_web(url, **more):
    return {"type": "HTTP", "http": {"url": url, **more}}


def from_registry(image, **more):
    return {"type": "ContainerImage", "containerImage": {"image": image, **more}}


def from_object(kind, name, namespace=None):
    there = {"namespace": namespace} if namespace else {}
    return {"type": "ObjectRef", "objectRef": {"kind": kind, "name": name, **there}}


def from_user(**checksum):
    return {"type": "Upload", **({"upload": {"checksum": checksum}} if checksum else {})}


def bundle(certificate):
    """A certificate as `caBundle` has it."""
    return base64.b64encode(pathlib.Path(certificate).read_bytes()).decode()


def kind_of(image):
    """A kind as kubectl takes it; that of documents that write it otherwise is the same."""
    return next(short for short, kind in KINDS.items() if image["kind"] in (kind, f"{kind}s"))


# What an image says of itself.


def phase_of(image):
    return image.get("status", {}).get("phase")


def condition_of(image, kind):
    """A condition of an image; an empty one when it has none of this type."""
    conditions = image.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def percent(image):
    """The progress of an image as a number; nothing when it says none."""
    text = image.get("status", {}).get("progress")
    return float(text.removesuffix("%")) if text else None


def upload_url(image):
    return image["status"]["imageUploadURLs"]["external"]


class World:
    """One server with the resources.

    `server` is the registry, `kubectl` speaks to the API, and `api` answers plain requests to it. `others` are kinds of
    the same group that are not DVCR's.
    """

    others = frozenset()

    def __init__(self, server, kubectl, api):
        self.server, self.kubectl, self.api = server, kubectl, api

    @property
    def registry(self):
        """The registry as the status of images names it."""
        return self.server.host

    def log(self):
        return self.server.log.read_text(errors="replace")

    # Resources.

    def apply(self, manifest, *arguments):
        """Applies a manifest, an object or YAML, and gives what the API made of it."""
        return self.kubectl.json("apply", "-f", "-", *arguments, input=manifest)

    def refuses(self, manifest, *arguments):
        """Applies what must be refused, and gives the error."""
        done = self.kubectl("apply", "-f", "-", *arguments, input=manifest, check=False)
        assert done.returncode == 1, done
        return done.stderr

    def path(self, kind, name=None, namespace="default"):
        place = f"/apis/{APIS.get(kind, f'{GROUP}/{VERSION}')}"
        if kind != "cvi":
            place += f"/namespaces/{namespace}"
        return f"{place}/{PLURALS[kind]}" + (f"/{name}" if name else "")

    def get(self, kind, name, namespace="default"):
        """An image; nothing when there is none."""
        status, body = self.api.answer("GET", self.path(kind, name, namespace))
        assert status in (200, 404), (status, body)
        return json.loads(body) if status == 200 else None

    def wait(self, kind, name, check, timeout=60, namespace="default", fails=False):
        """The image once `check` holds for it. That it fails ends the wait, unless `fails` says that it may."""
        deadline = time.monotonic() + timeout
        while True:
            image = self.get(kind, name, namespace)
            if image is not None and check(image):
                return image
            shown = json.dumps(image and image.get("status"), indent=1)
            assert fails or image is None or phase_of(image) != "Failed", f"{kind} {name} has failed: {shown}"
            assert time.monotonic() < deadline, f"{kind} {name} is not there: {shown}\n{self.log()[-4000:]}"
            time.sleep(0.05)

    def wait_phase(self, kind, name, phase, timeout=60, namespace="default"):
        """The image once it is in a phase."""
        fails = phase == "Failed"
        return self.wait(kind, name, lambda image: phase_of(image) == phase, timeout, namespace, fails)

    def wait_condition(self, kind, name, condition, reason, timeout=60, namespace="default"):
        """The condition of an image once it has this reason."""
        image = self.wait(
            kind, name, lambda image: condition_of(image, condition).get("reason") == reason, timeout, namespace, True
        )
        return condition_of(image, condition)

    def condition(self, kind, name, condition, namespace="default"):
        return condition_of(self.get(kind, name, namespace), condition)

    def ready(self, manifest, timeout=60):
        """Applies a manifest, and gives the image when it is Ready."""
        made = self.apply(manifest)
        kind, there = kind_of(made), made["metadata"]
        return self.wait_phase(kind, there["name"], "Ready", timeout, there.get("namespace", "default"))

    def waiting_for_upload(self, manifest):
        """Applies a manifest, and gives the image when it waits for its user."""
        made = self.apply(manifest)
        kind, there = kind_of(made), made["metadata"]
        return self.wait_phase(kind, there["name"], "WaitForUserUpload", namespace=there.get("namespace", "default"))

    def delete(self, kind, name, *arguments, namespace="default"):
        """Deletes an image, and waits until it is gone."""
        place = [] if kind == "cvi" else ["-n", namespace]
        return self.kubectl("delete", kind, name, *place, *arguments)

    def events(self, name, namespace="default"):
        """The reasons of the events about an image."""
        about = f"involvedObject.name={name}"
        items = self.kubectl.json("get", "events", "-n", namespace, "--field-selector", about)["items"]
        return [item["reason"] for item in items]

    @contextlib.contextmanager
    def watch(self, kind="vi"):
        """Everything that images of a kind become from here on."""
        self.apply(virtual_image(FIRST, from_object("ClusterVirtualImage", "missing"), kind))
        watch = Watch(self.kubectl.start("get", kind, "-w", "-o", "json"))
        try:
            watch.until(FIRST, lambda image: True)
            yield watch
        finally:
            watch.stop()

    # The registry.

    def tags(self):
        """Every repository:tag of the registry, with those of uploaded files, which are in no catalog."""
        client, found = Client(self.server.host), set()
        for page in client.pages("/v2/_catalog"):
            for name in page.json()["repositories"]:
                if client.get(f"/v2/{name}/tags/list").status == 404:
                    continue
                for tags in client.pages(f"/v2/{name}/tags/list"):
                    found |= {f"{name}:{tag}" for tag in tags.json()["tags"] or []}
        return found | self.uploaded_files()

    def uploaded_files(self):
        """Those that wait to be taken."""
        paths = [file.split("/") for file, size in kept(self.server).items() if size and file.startswith("repositories/uploads/")]
        return {f"uploads/{image}:{tag}" for _, _, image, kind, tag, *_ in paths if kind == "_tags"}

    # What each kind of world does in its own way.

    def volume(self, namespace, claim):
        """The file with the disk of a claim."""
        raise NotImplementedError

    def lose_claim(self, namespace, claim):
        """Removes a claim behind the back of the image that is in it."""
        raise NotImplementedError

    def put_disk(self, namespace, name, disk):
        """Makes a VirtualDisk of a file."""
        raise NotImplementedError

    def restart(self):
        """Stops everything as it wants to be stopped, and starts it again over the same data."""
        raise NotImplementedError

    def crash(self):
        """Kills everything, and starts it again over the same data."""
        raise NotImplementedError


class Embedded(World):
    """`dvcr serve` alone: the resources are served where the registry is, and volumes are files."""

    def __init__(self, server, cache, home):
        host = f"http://{server.host}"
        kubectl = Kubectl(pathlib.Path(cache) / "bin/kubectl", [f"--server={host}"], home)
        super().__init__(server, kubectl, PlainApi(server.host))

    @property
    def data(self):
        return pathlib.Path(self.server.storage[1])

    def volume(self, namespace, claim):
        return self.data / "volumes" / namespace / claim / "disk.img"

    def lose_claim(self, namespace, claim):
        self.volume(namespace, claim).unlink()

    def put_disk(self, namespace, name, disk):
        path = self.volume(namespace, name)
        path.parent.mkdir(parents=True)
        shutil.copyfile(disk, path)

    def restart(self):
        self.server.restart()

    def crash(self):
        self.server.kill()
        self.server.start()


class PlainApi:
    """An API without authentication, over HTTP."""

    def __init__(self, host):
        self.client = Client(host)

    def answer(self, method, path, body=None, kind="application/json"):
        """The status of the answer, and its bytes."""
        data = None if body is None else json.dumps(body)
        answer = self.client.send(method, path, data, {"Content-Type": kind} if data else {})
        return answer.status, answer.body


class Watch:
    """What `kubectl get -w -o json` prints, with the moments at which it came."""

    def __init__(self, process):
        self.process, self.seen = process, []
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            # Each object is printed over many lines, of which the last alone begins with its brace.
            if line.rstrip() == "}":
                self.seen.append((time.monotonic(), json.loads("".join(lines))))
                lines.clear()

    def of(self, name):
        """Each state of an image, and when it was seen."""
        return [(moment, image) for moment, image in list(self.seen) if image["metadata"]["name"] == name]

    def phases(self, name):
        """The phases of an image in their order, each as often as it was come to."""
        phases = []
        for _, image in self.of(name):
            if not phases or phase_of(image) != phases[-1]:
                phases.append(phase_of(image))
        return [phase for phase in phases if phase]

    def until(self, name, check, timeout=60):
        """Waits until an image was seen as it should be."""
        deadline = time.monotonic() + timeout
        while not any(check(image) for _, image in self.of(name)):
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline, [image.get("status") for _, image in self.of(name)]
            time.sleep(0.05)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


# Sources.


class SlowWeb(Web):
    """A web server that sends whole files at `speed` bytes a second, which a test may change at any time.

    None is as fast as it goes, and 0 is not at all.
    """

    def __init__(self, speed=0):
        super().__init__()
        self.speed, self.reading = speed, []
        self.server.RequestHandlerClass = type("Handler", (SlowHandler,), {"web": self})

    def readers(self, path):
        """How many are reading a file now: whoever has closed the connection is none."""
        return self.reading.count(path)


class SlowHandler(Handler):
    web: SlowWeb

    def body(self, resource, first, last):
        # Who looks at some bytes only is not held up.
        if not self.seen.whole:
            return super().body(resource, first, last)
        self.close_connection = True
        self.web.reading.append(self.seen.path)
        try:
            position = first
            while position < last and not self.web.stopping.is_set() and not self.is_closed():
                speed = self.web.speed
                if speed == 0:
                    time.sleep(0.01)
                    continue
                end = min(position + PIECE, last)
                self.send(resource, resource.data[position:end])
                if speed is not None:
                    time.sleep((end - position) / speed)
                position = end
        finally:
            self.web.reading.remove(self.seen.path)

    def is_closed(self):
        """Whether the client has gone: it has nothing more to say, so all that can come is the end."""
        return bool(select.select([self.connection], [], [], 0)[0])


class At:
    """Opens a web server at a port at which nobody was."""

    def __init__(self, web, port):
        self.server = Server(("127.0.0.1", port), web.server.RequestHandlerClass)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


# Uploads.


@dataclasses.dataclass
class Answered:
    """What curl was answered, and how it ended."""

    code: int
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    errors: str


def curl(*arguments, stdin=subprocess.DEVNULL):
    """Runs curl."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--include", *map(str, arguments)],
        stdin=stdin, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    # "100 Continue" comes ahead of the answer.
    while head.split(b" ")[1:2] == [b"100"]:
        head, _, rest = rest.partition(b"\r\n\r\n")
    line, _, fields = head.decode().partition("\r\n")
    headers = http.client.HTTPMessage()
    for field in fields.splitlines():
        name, _, value = field.partition(":")
        headers[name] = value.strip()
    status = int(line.split()[1]) if line else 0
    return Answered(done.returncode, status, headers, rest, done.stderr.decode())


def ask(method, url, body=None, **headers):
    """Sends a request to an address for uploads."""
    parts = urlsplit(url)
    return Client(parts.netloc).send(method, parts.path, body, {k.replace("_", "-"): v for k, v in headers.items()})


def offset(url):
    """How much of a file is there, by the word of the server."""
    answer = ask("HEAD", url)
    assert answer.status in (200, 204), answer
    return int(answer.headers["Upload-Offset"])


class Sender:
    """Somebody who sends a file over a bare connection, and only as much of it as a test wants."""

    def __init__(self, url, total, start=0):
        parts = urlsplit(url)
        self.connection = socket.create_connection((parts.hostname, parts.port), timeout=20)
        about = f"Content-Range: bytes {start}-{total - 1}/{total}\r\n" if start else ""
        head = f"PUT {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {total - start}\r\n{about}\r\n"
        self.connection.sendall(head.encode())

    def send(self, data):
        self.connection.sendall(data)

    def answer(self):
        """The status of the answer, its headers and its body."""
        response = http.client.HTTPResponse(self.connection, method="PUT")
        response.begin()
        return response.status, response.headers, response.read()

    def is_cut(self, seconds):
        """Whether the server ends the connection, or says that it wants no more, in so many seconds."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        return bool(readable)

    def stop(self):
        self.connection.close()
