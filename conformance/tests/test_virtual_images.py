"""VirtualImage and ClusterVirtualImage, from a manifest to the bytes that a machine gets, by kubectl and curl alone.

The cases are one list for two servers: `dvcr serve` alone, and a real kube-apiserver with `dvcr controller` and Jobs.
CONFORMANCE_WORLDS=embedded, or =cluster, runs it on one of them.
"""

import base64
import itertools
import json
import os
import re
import shlex
import subprocess
import time

import pytest

from auth_proxy import PASSWORD, USER
from command import kept, requests
from disk import write_disk
from dvcr import free_port
from flaky_http import Web
from images import KINDS as FORMATS
from images import MIB, run
from layers import Image, push_disk, tar
from test_import_refusals import ALGORITHMS, sums
from virtual_images import (
    FIRST,
    At,
    Embedded,
    Sender,
    SlowWeb,
    ask,
    bundle,
    condition_of,
    curl,
    from_object,
    from_registry,
    from_user,
    from_web,
    offset,
    percent,
    phase_of,
    upload_url,
    virtual_image,
)
from wire import Client, at_once, eventually

SIZE = 4 * MIB


@pytest.fixture
def kubectl(world):
    return world.kubectl


@pytest.fixture(params=["vi", "cvi"])
def kind(request):
    """Both resources."""
    return request.param


@pytest.fixture
def slow(opened):
    """A web server that sends nothing before it is told to."""
    return opened(SlowWeb())


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """Raw disks that do not compress, each another one."""
    folder, numbers = tmp_path_factory.mktemp("noise"), itertools.count()

    def noise(size=SIZE):
        number = next(numbers)
        path = folder / f"{number}.raw"
        write_disk(path, size // MIB, b"noise %d" % number)
        return path

    return noise


@pytest.fixture
def elsewhere(start):
    """A registry that is another one."""
    return start("filesystem", DVCR_EMBEDDED_API="false")


@pytest.fixture
def backed(images, tmp_path):
    """A qcow2 that is no disk without another file."""
    path = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", images.disk(), path)
    return path


# The documentation.

UBUNTU = "https://cloud-images.ubuntu.com"
UBUNTU_FILE = "/minimal/releases/jammy/release/ubuntu-22.04-minimal-cloudimg-amd64.img"

IN_THE_REGISTRY = """
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata:
  name: ubuntu-22.04
spec:
  # Save the image in DVCR
  storage: ContainerRegistry
  # Source for creating the image.
  dataSource:
    type: HTTP
    http:
      url: "https://cloud-images.ubuntu.com/minimal/releases/jammy/release/ubuntu-22.04-minimal-cloudimg-amd64.img"
"""

IN_A_CLAIM = """
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata:
  name: ubuntu-22.04-pvc
spec:
  # Configuration for storing the project image.
  storage: PersistentVolumeClaim
  # Source for creating the image.
  dataSource:
    type: HTTP
    http:
      url: "https://cloud-images.ubuntu.com/minimal/releases/jammy/release/ubuntu-22.04-minimal-cloudimg-amd64.img"
"""

OF_A_CONTAINER_IMAGE = """
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata:
  name: ubuntu-2204
spec:
  storage: ContainerRegistry
  dataSource:
    type: ContainerImage
    containerImage:
      image: docker.io/username/ubuntu2204:latest
"""

UPLOADED = """
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata:
  name: some-image
spec:
  # Project image storage settings.
  storage: ContainerRegistry
  # Image source settings.
  dataSource:
    type: Upload
"""

OF_A_DISK = """
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata:
  name: linux-vm-root
spec:
  storage: ContainerRegistry
  dataSource:
    type: ObjectRef
    objectRef:
      kind: VirtualDisk
      name: linux-vm-root
"""


def columns(text):
    """The cells of a table that kubectl has printed."""
    header, *rows = text.splitlines()
    starts = [match.start() for match in re.finditer(r"(?:(?<=^)|(?<=  ))\S", header)]
    cuts = list(itertools.pairwise([*starts, None]))
    return [[line[first:last].strip() for first, last in cuts] for line in [header, *rows]]


def test_the_documented_image_from_a_web_server_is_made(world, kubectl, web, images, pulled):
    web.add(UBUNTU_FILE, images.image("qcow2").read_bytes())
    image = world.ready(IN_THE_REGISTRY.replace(UBUNTU, web.url))
    assert pulled(image) == images.image("qcow2").read_bytes()
    for resource in ["virtualimage", "vi"]:
        header, row = columns(kubectl("get", resource, "ubuntu-22.04").stdout)
        assert header == ["NAME", "PHASE", "CDROM", "PROGRESS", "AGE"]
        assert row[:4] == ["ubuntu-22.04", "Ready", "false", "100%"]
        assert re.fullmatch(r"\d+s|\d+m(\d+s)?", row[4]), row


@pytest.mark.parametrize("storage", ["PersistentVolumeClaim", "Kubernetes"])
def test_the_documented_image_in_a_claim_is_made(world, kubectl, web, images, storage):
    web.add(UBUNTU_FILE, images.image("qcow2").read_bytes())
    manifest = IN_A_CLAIM.replace(UBUNTU, web.url).replace("PersistentVolumeClaim", storage)
    image = world.ready(manifest)
    assert image["spec"]["storage"] == storage
    header, row = columns(kubectl("get", "vi", "ubuntu-22.04-pvc").stdout)
    assert header == ["NAME", "PHASE", "CDROM", "PROGRESS", "AGE"]
    assert row[:4] == ["ubuntu-22.04-pvc", "Ready", "false", "100%"]
    claim = image["status"]["target"]["persistentVolumeClaimName"]
    assert world.volume("default", claim).read_bytes() == images.disk().read_bytes()


def test_the_documented_image_of_a_container_image_is_made(world, elsewhere, images, pulled):
    disk = images.image("qcow2").read_bytes()
    push_disk(elsewhere.host, "username/ubuntu2204", "latest", [tar(("disk/ubuntu2204.img", disk))], "gzip")
    image = world.ready(OF_A_CONTAINER_IMAGE.replace("docker.io", elsewhere.host))
    assert pulled(image) == disk
    assert image["status"]["format"] == "qcow2"


def test_the_documented_upload_makes_the_image(world, kubectl, images, pulled):
    world.waiting_for_upload(UPLOADED)
    urls = json.loads(kubectl("get", "vi", "some-image", "-o", "jsonpath={.status.imageUploadURLs}").stdout)
    assert urls.keys() == {"external", "inCluster"}
    command = f"curl {shlex.quote(urls['external'])} --progress-bar -T {shlex.quote(str(images.image('qcow2')))} | cat"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    assert done.stdout.endswith(b"\n") and done.stdout.count(b"\n") == 1, done
    image = world.wait_phase("vi", "some-image", "Ready")
    assert pulled(image) == images.image("qcow2").read_bytes()
    header, row = columns(kubectl("get", "vi", "some-image").stdout)
    assert header == ["NAME", "PHASE", "CDROM", "PROGRESS", "AGE"]
    assert row[:4] == ["some-image", "Ready", "false", "100%"]


def test_the_documented_image_of_a_disk_is_made(world, images, pulled):
    world.put_disk("default", "linux-vm-root", images.disk())
    image = world.ready(OF_A_DISK)
    assert pulled(image) == images.disk().read_bytes()
    assert image["status"]["format"] == "raw"


# What kubectl shows.


def test_the_wide_columns_are_the_documented_ones(world, kubectl, web, images, kind):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    status = world.ready(virtual_image("disk", from_web(url), kind))["status"]
    header, row = columns(kubectl("get", kind, "disk", "-o", "wide").stdout)
    expected = {
        "NAME": "disk",
        "PHASE": "Ready",
        "CDROM": "false",
        "PROGRESS": "100%",
        "STOREDSIZE": status["size"]["stored"],
        "UNPACKEDSIZE": status["size"]["unpacked"],
        "REGISTRY URL": status["target"]["registryURL"],
        **({"TARGETPVC": ""} if kind == "vi" else {}),
    }
    assert header == [*expected, "AGE"]
    # What is missing is printed as nothing, or as the API server writes it.
    assert [cell.replace("<none>", "") for cell in row[:-1]] == list(expected.values())


def test_the_columns_of_an_image_in_a_claim_name_the_claim(world, kubectl, web, images):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    status = world.ready(virtual_image("disk", from_web(url), storage="PersistentVolumeClaim"))["status"]
    header, row = columns(kubectl("get", "vi", "disk", "-o", "wide").stdout)
    cells = dict(zip(header, row, strict=True))
    assert cells["TARGETPVC"] == status["target"]["persistentVolumeClaimName"]
    assert cells["REGISTRY URL"] in ("", "<none>")


def test_the_resources_have_their_names_and_categories(world, kubectl, web, images):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    for kind in ["vi", "cvi"]:
        world.ready(virtual_image("disk", from_web(url), kind))
    for names, there in [
        (["virtualimages", "virtualimage", "vi", "virtualimages.virtualization.deckhouse.io", "virtualization"], "vi"),
        (["clustervirtualimages", "clustervirtualimage", "cvi", "virtualization-cluster"], "cvi"),
    ]:
        for name in names:
            (item,) = kubectl.json("get", name)["items"]
            assert item["kind"] == {"vi": "VirtualImage", "cvi": "ClusterVirtualImage"}[there]
            assert kubectl("get", name).stdout.split("\n")[1].split()[1] == "Ready"
    resources = kubectl("api-resources", "--api-group=virtualization.deckhouse.io", "--no-headers").stdout.split("\n")
    listed = [line.split() for line in resources if line]
    assert [line for line in listed if line[-1] not in world.others] == [
        ["clustervirtualimages", "cvi", "virtualization.deckhouse.io/v1alpha2", "false", "ClusterVirtualImage"],
        ["virtualimages", "vi", "virtualization.deckhouse.io/v1alpha2", "true", "VirtualImage"],
    ]


def test_the_phases_come_in_their_order(world, kubectl, slow, noise):
    """As somebody sees it who has `kubectl get vi -w` before them."""
    url = slow.add("/disk", noise().read_bytes())
    world.apply(virtual_image(FIRST, from_object("VirtualImage", "missing")))
    process = kubectl.start("get", "vi", "-w")
    try:
        header = process.stdout.readline()
        assert header.split() == ["NAME", "PHASE", "CDROM", "PROGRESS", "AGE"]
        assert process.stdout.readline().startswith(FIRST)
        world.apply(virtual_image("disk", from_web(url)))
        world.wait_phase("vi", "disk", "Provisioning")
        slow.speed = None
        world.wait_phase("vi", "disk", "Ready")
        place = header.index("PHASE")
        phases = []
        while "Ready" not in phases:
            line = process.stdout.readline()
            if line.startswith("disk "):
                phases += line[place:].split()[:1] if line[place] != " " else [""]
        order = [phase for phase, _ in itertools.groupby(phases) if phase]
        assert order in (["Pending", "Provisioning", "Ready"], ["Provisioning", "Ready"]), phases
    finally:
        process.kill()
        process.communicate()


# Where an image comes from.


@pytest.fixture
def secure(opened, authority):
    """A web server with a certificate of an authority that nobody knows."""
    return opened(Web(tls=authority.certify("127.0.0.1")))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_file_is_fetched_over_tls_and_has_its_checksum(world, secure, authority, images, pulled, kind, algorithm):
    path = images.image("qcow2")
    url = secure.add("/disk", path.read_bytes())
    source = from_web(url, caBundle=bundle(authority.certificate), checksum={algorithm: sums(path)[algorithm]})
    assert pulled(world.ready(virtual_image("disk", source, kind))) == path.read_bytes()


def test_all_checksums_may_be_given_in_letters_of_either_case(world, web, images, kind):
    path = images.image("qcow2")
    every = {name: value.upper() if name < "sha2" else value for name, value in sums(path).items()}
    world.ready(virtual_image("disk", from_web(web.add("/disk", path.read_bytes()), checksum=every), kind))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checksum_that_is_wrong_fails_the_image_and_is_named(world, web, images, kind, algorithm):
    path = images.image("qcow2")
    right = sums(path)
    wrong = ("0" if right[algorithm][0] != "0" else "1") + right[algorithm][1:]
    source = from_web(web.add("/disk", path.read_bytes()), checksum={**right, algorithm: wrong})
    world.apply(virtual_image("disk", source, kind))
    image = world.wait_phase(kind, "disk", "Failed")
    ready = condition_of(image, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ProvisioningFailedTerminally")
    assert algorithm in ready["message"] and wrong in ready["message"] and right[algorithm] in ready["message"]
    assert world.tags() == set()


def failing(image):
    """Whether a try has failed, with or without hope for the next one."""
    return condition_of(image, "Ready").get("reason", "").startswith("ProvisioningFailed")


def test_a_certificate_of_an_unknown_authority_is_not_accepted(world, secure, images):
    world.apply(virtual_image("disk", from_web(secure.add("/disk", images.image("qcow2").read_bytes()))))
    image = world.wait("vi", "disk", failing, fails=True)
    assert "certificate" in condition_of(image, "Ready")["message"]
    assert secure.requests(method=None) == []


def test_a_ca_bundle_that_is_none_is_refused_or_named(world, web, images):
    """Whether the API refuses it or the image fails: somebody is told."""
    url = web.add("/disk", images.image("qcow2").read_bytes())
    for number, wrong in enumerate(["%%%", base64.b64encode(b"no certificate").decode()]):
        manifest = virtual_image(f"disk{number}", from_web(url, caBundle=wrong))
        done = world.kubectl("apply", "-f", "-", input=manifest, check=False)
        if done.returncode == 0:
            said = condition_of(world.wait_phase("vi", f"disk{number}", "Failed"), "Ready")["message"]
        else:
            said = done.stderr
        assert "caBundle" in said or "certificate" in said, said


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_container_image_is_fetched_over_tls_with_a_pull_secret(
    world, kubectl, elsewhere, auth_proxy, authority, outside, images, pulled, kind, scheme
):
    disk = images.image("qcow2").read_bytes()
    push_disk(elsewhere.host, "images/slackware", "15", [tar(("disk/slackware.qcow2", disk))])
    proxy = auth_proxy(elsewhere.host, scheme, address=outside, tls=authority.certify(outside))
    kubectl("create", "namespace", "secrets")
    namespace = "secrets" if kind == "cvi" else "default"
    pull_secret(kubectl, proxy.host, "pull", namespace)
    secret = {"name": "pull", **({"namespace": namespace} if kind == "cvi" else {})}
    source = from_registry(
        f"{proxy.host}/images/slackware:15", caBundle=bundle(authority.certificate), imagePullSecret=secret
    )
    assert pulled(world.ready(virtual_image("disk", source, kind))) == disk
    assert PASSWORD not in world.log()


def pull_secret(kubectl, host, name, namespace="default"):
    kubectl(
        "create", "secret", "docker-registry", name, "-n", namespace,
        f"--docker-server={host}", f"--docker-username={USER}", f"--docker-password={PASSWORD}",
    )  # fmt: skip


def test_a_container_image_is_fetched_by_its_digest(world, elsewhere, images, pulled, kind):
    disk = images.image("qcow2").read_bytes()
    digest, _ = push_disk(elsewhere.host, "images/slackware", "15", [tar(("disk/slackware.qcow2", disk))])
    source = from_registry(f"{elsewhere.host}/images/slackware@{digest}")
    assert pulled(world.ready(virtual_image("disk", source, kind))) == disk


def test_a_password_that_is_wrong_is_said_and_not_shown(world, kubectl, elsewhere, auth_proxy, images, kind):
    push_disk(elsewhere.host, "a/disk", "v1", [tar(("disk/disk.img", images.image("qcow2").read_bytes()))])
    proxy = auth_proxy(elsewhere.host)
    kubectl(
        "create", "secret", "docker-registry", "pull",
        f"--docker-server={proxy.host}", f"--docker-username={USER}", "--docker-password=hidden",
    )  # fmt: skip
    secret = {"name": "pull", **({"namespace": "default"} if kind == "cvi" else {})}
    world.apply(virtual_image("disk", from_registry(f"{proxy.host}/a/disk:v1", imagePullSecret=secret), kind))
    image = world.wait(kind, "disk", failing, fails=True)
    assert "UNAUTHORIZED" in condition_of(image, "Ready")["message"] and "hidden" not in json.dumps(image)
    assert "hidden" not in world.log()


FROM_IMAGES = [("vi", "vi"), ("vi", "cvi"), ("cvi", "vi"), ("cvi", "cvi")]


def of_image(source, kind):
    """A data source that is another image."""
    if source == "cvi":
        return from_object("ClusterVirtualImage", "source")
    return from_object("VirtualImage", "source", "default" if kind == "cvi" else None)


@pytest.mark.parametrize(("source", "kind"), FROM_IMAGES)
def test_an_image_of_an_image_moves_no_bytes(world, web, noise, pulled, source, kind):
    path = noise()
    first = world.ready(virtual_image("source", from_web(web.add("/disk", path.read_bytes())), source))
    before = sum(kept(world.server).values())
    image = world.ready(virtual_image("copy", of_image(source, kind), kind))
    assert image["status"]["sourceUID"] == first["metadata"]["uid"]
    for field in ["format", "cdrom", "size", "progress"]:
        assert image["status"][field] == first["status"][field]
    assert layer_of(world, image)["digest"] == layer_of(world, first)["digest"]
    name = image["status"]["target"]["registryURL"].partition("/")[2].rpartition(":")[0]
    assert [line for line in requests(world.server, "POST", f"/v2/{name}/blobs/uploads/") if "mount=" in line]
    assert not requests(world.server, "PATCH", f"/v2/{name}/blobs/uploads/")
    assert sum(kept(world.server).values()) < before + SIZE // 16
    # It is one of its own.
    world.delete(source, "source")
    assert pulled(image) == path.read_bytes()


def layer_of(world, image):
    """The layer of an image in the registry."""
    name, _, tag = image["status"]["target"]["registryURL"].partition("/")[2].rpartition(":")
    (layer,) = Image(world.server.host, name, tag).manifest["layers"]
    return layer


@pytest.mark.parametrize("kind", ["vi", "cvi"])
def test_an_image_in_a_claim_is_a_source_too(world, web, images, pulled, kind):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    first = world.ready(virtual_image("source", from_web(url), storage="PersistentVolumeClaim"))
    image = world.ready(virtual_image("copy", of_image("vi", kind), kind))
    assert image["status"]["sourceUID"] == first["metadata"]["uid"]
    assert image["status"]["format"] == "raw"
    assert pulled(image) == images.disk().read_bytes()


def test_an_image_in_a_claim_is_made_of_one_in_the_registry(world, web, images, kind):
    first = world.ready(virtual_image("source", from_web(web.add("/disk", images.image("qcow2").read_bytes())), kind))
    there = world.tags()
    image = world.ready(virtual_image("copy", of_image(kind, "vi"), storage="PersistentVolumeClaim"))
    assert image["status"]["sourceUID"] == first["metadata"]["uid"]
    claim = image["status"]["target"]["persistentVolumeClaimName"]
    assert world.volume("default", claim).read_bytes() == images.disk().read_bytes()
    assert world.tags() == there


@pytest.mark.parametrize("compression", ["gzip", "xz"])
def test_a_compressed_file_is_stored_as_the_disk_it_is(world, web, images, pulled, compression):
    source = from_web(web.add("/disk", images.compressed("qcow2", compression).read_bytes()))
    image = world.ready(virtual_image("disk", source))
    assert pulled(image) == images.image("qcow2").read_bytes()
    assert image["status"]["format"] == "qcow2"


# What the status says.


@pytest.mark.parametrize("name", ["raw", "qcow2", "iso", "vmdk", "vdi"])
def test_the_status_describes_the_image(world, web, images, pulled, kind, name):
    path = images.image(name)
    image = world.ready(virtual_image("disk", from_web(web.add("/disk", path.read_bytes())), kind))
    status, uid = image["status"], image["metadata"]["uid"]
    unpacked = 8 * MIB if name != "iso" else path.stat().st_size
    assert status["format"] == FORMATS[name].format
    assert status["cdrom"] is (name == "iso")
    assert status["progress"] == "100%"
    assert status["size"] == {
        "stored": human(path.stat().st_size),
        "storedBytes": str(path.stat().st_size),
        "unpacked": human(unpacked),
        "unpackedBytes": str(unpacked),
    }
    repository = "vi/default/disk" if kind == "vi" else "cvi/disk"
    assert status["target"] == {"registryURL": f"{world.registry}/{repository}:{uid}"}
    assert status["observedGeneration"] == image["metadata"]["generation"] == 1
    assert re.fullmatch(r"\d+(\.\d)?(B|[KMGT]i)/s", status["downloadSpeed"]["avg"]), status
    assert re.fullmatch(r"\d+", status["downloadSpeed"]["avgBytes"]), status
    assert "imageUploadURLs" not in status and "sourceUID" not in status
    assert pulled(image) == path.read_bytes()
    assert world.tags() == {f"{repository}:{uid}"}


def human(size):
    """A size as people read it, with one decimal at most."""
    units = iter(["B", "Ki", "Mi", "Gi"])
    unit = next(units)
    while size >= 1024:
        size, unit = size / 1024, next(units)
    return f"{size:.1f}".removesuffix(".0") + unit


def test_the_conditions_of_an_image_that_is_ready(world, web, images, kind):
    image = world.ready(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes())), kind))
    for name, reason in [("DatasourceReady", "DatasourceReady"), ("Ready", "Ready")]:
        condition = condition_of(image, name)
        assert (condition["status"], condition["reason"]) == ("True", reason)
        assert condition["observedGeneration"] == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", condition["lastTransitionTime"])
    assert not condition_of(image, "StorageClassReady")


def is_fetched(image):
    """Whether the source of an image is being read."""
    return condition_of(image, "Ready").get("message") == "The image is being fetched from its source."


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["ContainerRegistry", "PersistentVolumeClaim"])
def test_progress_grows_is_told_often_and_reaches_100_only_in_the_end(world, slow, noise, storage):
    # Twelve seconds: where the machine has much else to do, some of the numbers are never told.
    data = noise(12 * MIB).read_bytes()
    slow.speed = MIB
    with world.watch() as watch:
        world.apply(virtual_image("disk", from_web(slow.add("/disk", data)), storage=storage))
        watch.until("disk", lambda image: phase_of(image) == "Ready")
        seen = watch.of("disk")
    told = [(moment, percent(image)) for moment, image in seen if percent(image) is not None]
    numbers = [number for _, number in told]
    assert numbers == sorted(numbers), numbers
    for _, image in seen:
        assert (percent(image) == 100) == (phase_of(image) == "Ready")
        assert percent(image) is None or re.fullmatch(r"0%|100%|\d+\.\d%", image["status"]["progress"]), image["status"]
    # Long after one another are neither two numbers nor the first one and the beginning: in a cluster, that of the Pod.
    begun = seen[0][0] if isinstance(world, Embedded) else next(moment for moment, image in seen if is_fetched(image))
    told = [(moment, number) for moment, number in told if moment >= begun]
    moments = [begun] + [next(moment for moment, n in told if n == number) for number in sorted({n for _, n in told})]
    # It is two seconds where the machine has nothing else to do.
    assert max(after - before for before, after in itertools.pairwise(moments)) <= 20, moments
    assert len(set(numbers)) >= 4, numbers
    speeds = [image["status"].get("downloadSpeed", {}) for _, image in seen if phase_of(image) == "Provisioning"]
    current = [int(speed["currentBytes"]) for speed in speeds if speed.get("currentBytes")]
    assert current and max(current) < 4 * MIB, speeds
    assert seen[-1][1]["status"]["downloadSpeed"].keys() == {"avg", "avgBytes"}


# What the API refuses.

SUM = "0" * 64
URL = "http://127.0.0.1:1/disk.img"
NONE_IS_HTTP = "HTTP requires http and cannot have ContainerImage, ObjectRef or Upload."
NONE_IS_CONTAINER = "ContainerImage requires containerImage and cannot have HTTP, ObjectRef or Upload."
NONE_IS_OBJECT = "ObjectRef requires objectRef and cannot have HTTP, ContainerImage or Upload."
NONE_IS_UPLOAD = "Upload cannot have HTTP, ContainerImage or ObjectRef."
HTTP, CONTAINER = {"url": URL}, {"image": "registry.example.com/images/slackware:15"}
OBJECT = {"kind": "ClusterVirtualImage", "name": "a"}

REFUSED_BY_BOTH = {
    "HTTP without http": ({"type": "HTTP"}, ["spec.dataSource: Invalid value", NONE_IS_HTTP]),
    "HTTP with upload too": ({"type": "HTTP", "http": HTTP, "upload": {}}, [NONE_IS_HTTP]),
    "HTTP with containerImage too": ({"type": "HTTP", "http": HTTP, "containerImage": CONTAINER}, [NONE_IS_HTTP]),
    "HTTP with objectRef too": ({"type": "HTTP", "http": HTTP, "objectRef": OBJECT}, [NONE_IS_HTTP]),
    "ContainerImage without": ({"type": "ContainerImage"}, [NONE_IS_CONTAINER]),
    "ContainerImage with http": ({"type": "ContainerImage", "http": HTTP}, [NONE_IS_CONTAINER]),
    "ObjectRef without": ({"type": "ObjectRef"}, [NONE_IS_OBJECT]),
    "ObjectRef with http too": ({"type": "ObjectRef", "objectRef": OBJECT, "http": HTTP}, [NONE_IS_OBJECT]),
    "Upload with http": ({"type": "Upload", "http": HTTP}, [NONE_IS_UPLOAD]),
    "Upload with objectRef": ({"type": "Upload", "upload": {}, "objectRef": OBJECT}, [NONE_IS_UPLOAD]),
    "no such type": (
        {"type": "FTP", "http": HTTP},
        ['spec.dataSource.type: Unsupported value: "FTP"', '"HTTP"', '"ContainerImage"', '"ObjectRef"', '"Upload"'],
    ),
    "no type": ({"http": HTTP}, ["spec.dataSource.type: Required value"]),
    "no URL": ({"type": "HTTP", "http": {}}, ["spec.dataSource.http.url: Required value"]),
    "a URL of another scheme": (
        from_web("ftp://example.com/disk.img"),
        ['spec.dataSource.http.url: Invalid value: "ftp://example.com/disk.img"', "should match '^http[s]?"],
    ),
    "a URL with a space": (from_web("http://example.com/a b"), ["spec.dataSource.http.url", "should match"]),
    "a URL that is none": (from_web("disk.img"), ["spec.dataSource.http.url", "should match"]),
    "a URL that is a number": ({"type": "HTTP", "http": {"url": 5}}, ["spec.dataSource.http.url", "string", "integer"]),
    "a checksum that is too short": (
        from_web(URL, checksum={"sha256": SUM[1:]}),
        ["spec.dataSource.http.checksum.sha256", "should be at least 64 chars long"],
    ),
    "a checksum that is too long": (
        from_web(URL, checksum={"md5": SUM}),
        ["spec.dataSource.http.checksum.md5", "32"],
    ),
    "a checksum that is no number": (
        from_web(URL, checksum={"sha1": "x" * 40}),
        ["spec.dataSource.http.checksum.sha1", "should match '^[0-9a-fA-F]{40}$'"],
    ),
    "a checksum of an upload": (
        from_user(streebog512=SUM),
        ["spec.dataSource.upload.checksum.streebog512", "should be at least 128 chars long"],
    ),
    "an image that is none": (from_registry("Registry/UPPER CASE"), ["spec.dataSource.containerImage.image", "match"]),
    "an object of another kind": (
        from_object("Pod", "a"),
        ['spec.dataSource.objectRef.kind: Unsupported value: "Pod"', '"VirtualImage"', '"VirtualDisk"'],
    ),
    "an object without a name": (
        from_object("ClusterVirtualImage", ""),
        ["spec.dataSource.objectRef.name", "at least 1 chars long"],
    ),
}


@pytest.mark.parametrize("case", REFUSED_BY_BOTH)
def test_a_source_that_makes_no_sense_is_refused_and_named(world, kind, case):
    source, said = REFUSED_BY_BOTH[case]
    error = world.refuses(virtual_image("bad", source, kind))
    assert "is invalid" in error
    for part in said:
        assert part in error, error
    assert world.get(kind, "bad") is None


@pytest.mark.parametrize("missing", ["VirtualImage", "VirtualDisk", "VirtualDiskSnapshot"])
def test_a_cluster_image_must_say_where_its_source_is(world, missing):
    error = world.refuses(virtual_image("bad", from_object(missing, "a"), "cvi"))
    assert "spec.dataSource.objectRef: Invalid value" in error
    assert "The namespace is required for VirtualDisk, VirtualImage and VirtualDiskSnapshot" in error
    error = world.refuses(virtual_image("bad", from_object(missing, "a", "n" * 64), "cvi"))
    assert "The namespace must be no longer than 63 characters." in error


def test_a_storage_that_is_none_is_refused(world):
    error = world.refuses(virtual_image("bad", from_user(), storage="Nowhere"))
    assert 'spec.storage: Unsupported value: "Nowhere"' in error
    assert '"ContainerRegistry", "Kubernetes", "PersistentVolumeClaim"' in error


def test_a_spec_must_have_a_source(world, kind):
    manifest = virtual_image("bad", None, kind)
    del manifest["spec"]["dataSource"]
    assert "spec.dataSource: Required value" in world.refuses(manifest)


@pytest.mark.parametrize("field", ["spec.storageClass", "spec.dataSource.http.checkSum", "spec.dataSource.insecure"])
def test_a_field_that_is_not_known_is_refused(world, kind, field):
    manifest = virtual_image("bad", from_web(URL), kind)
    *way, last = field.split(".")
    place = manifest
    for step in way:
        place = place[step]
    place[last] = "x"
    error = world.refuses(manifest)
    assert f'strict decoding error: unknown field "{field}"' in error
    # Whoever does not want to hear of it has it dropped.
    place["url" if last == "checkSum" else "type"] = URL if last == "checkSum" else "HTTP"
    if way != ["spec"]:
        made = world.apply(manifest, "--validate=false")
        assert "x" not in json.dumps(made["spec"]).split('"')


def test_fields_of_the_other_resource_are_not_known(world):
    error = world.refuses(virtual_image("bad", from_user(), "cvi", storage="ContainerRegistry"))
    assert 'unknown field "spec.storage"' in error
    error = world.refuses(virtual_image("bad", from_object("VirtualImage", "a", "default")))
    assert 'unknown field "spec.dataSource.objectRef.namespace"' in error


def test_storage_is_in_the_registry_unless_it_is_said(world):
    assert world.apply(virtual_image("disk", from_user()))["spec"]["storage"] == "ContainerRegistry"


# Changes of the spec.


@pytest.mark.parametrize("changed", ["dataSource", "storage", "persistentVolumeClaim"])
def test_the_spec_of_an_image_that_is_ready_cannot_be_changed(world, kubectl, web, images, changed):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    image = world.ready(virtual_image("disk", from_web(url)))
    spec = {
        "dataSource": {"dataSource": from_web(f"{web.url}/other")},
        "storage": {"storage": "PersistentVolumeClaim"},
        "persistentVolumeClaim": {"persistentVolumeClaim": {"storageClassName": "fast"}},
    }[changed]
    patch = json.dumps({"spec": spec})
    done = kubectl("patch", "vi", "disk", "--type=merge", "-p", patch, check=False)
    assert done.returncode == 1 and "cannot be changed" in done.stderr, done
    manifest = {**virtual_image("disk", from_web(url)), "spec": {**image["spec"], **spec}}
    assert "cannot be changed" in world.refuses(manifest)
    after = world.get("vi", "disk")
    assert (after["spec"], after["metadata"]["generation"]) == (image["spec"], 1)
    # What is no part of it can.
    kubectl("label", "vi", "disk", "team=disks")
    assert phase_of(world.apply(virtual_image("disk", from_web(url)))) == "Ready"


def test_the_spec_of_a_cluster_image_that_is_ready_cannot_be_changed(world, kubectl, web, images):
    world.ready(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes())), "cvi"))
    assert "cannot be changed" in world.refuses(virtual_image("disk", from_web(f"{web.url}/other"), "cvi"))
    assert "cannot be changed" in world.refuses(virtual_image("disk", from_user(), "cvi"))


@pytest.mark.parametrize("speed", [MIB, 0])
def test_a_change_before_it_is_ready_begins_anew_and_leaves_the_old_source_at_once(
    world, kubectl, slow, web, images, noise, pulled, kind, speed
):
    slow.speed = speed
    old = slow.add("/old", noise().read_bytes())
    world.apply(virtual_image("disk", from_web(old), kind))
    world.wait_phase(kind, "disk", "Provisioning")
    eventually(lambda: slow.readers("/old") == 1)
    new = web.add("/new", images.image("qcow2").read_bytes())
    world.apply(virtual_image("disk", from_web(new), kind))
    eventually(lambda: slow.readers("/old") == 0, seconds=2)
    image = world.wait_phase(kind, "disk", "Ready")
    assert pulled(image) == images.image("qcow2").read_bytes()
    assert image["metadata"]["generation"] == image["status"]["observedGeneration"] == 2
    assert len(world.tags()) == 1
    if kind == "vi":
        assert "VirtualImageSpecHasBeenChanged" in world.events("disk")


def test_an_image_that_has_failed_is_made_when_its_spec_is_mended(world, web, backed, images, pulled, kind):
    bad, good = web.add("/bad", backed.read_bytes()), web.add("/good", images.image("qcow2").read_bytes())
    world.apply(virtual_image("disk", from_web(bad), kind))
    world.wait_phase(kind, "disk", "Failed")
    world.apply(virtual_image("disk", from_web(good), kind))
    image = world.wait(kind, "disk", lambda image: phase_of(image) == "Ready", fails=True)
    assert pulled(image) == images.image("qcow2").read_bytes()


def test_an_image_may_go_from_one_kind_of_source_to_another(world, slow, noise, images, pulled):
    world.apply(virtual_image("disk", from_web(slow.add("/disk", noise().read_bytes()))))
    eventually(lambda: slow.readers("/disk") == 1)
    # Applied again it has none of what it had.
    world.apply(virtual_image("disk", from_user()))
    image = world.wait_phase("vi", "disk", "WaitForUserUpload")
    eventually(lambda: slow.readers("/disk") == 0, seconds=2)
    assert curl("-T", images.image("qcow2"), upload_url(image)).status == 201
    assert pulled(world.wait_phase("vi", "disk", "Ready")) == images.image("qcow2").read_bytes()


# What goes wrong.


def trying(world, kind, name):
    """The condition Ready of an image, once a try has failed that is followed by others."""
    ready = world.wait_condition(kind, name, "Ready", "ProvisioningFailed")
    assert ready["status"] == "False"
    assert re.match(r"Try \d+ failed", ready["message"]), ready
    assert phase_of(world.get(kind, name)) == "Provisioning"
    return ready


@pytest.mark.slow
def test_a_file_that_is_not_there_is_waited_for(world, web, images, pulled, kind):
    world.apply(virtual_image("disk", from_web(f"{web.url}/disk.img"), kind))
    said = trying(world, kind, "disk")["message"]
    assert "404" in said and "/disk.img" in said
    assert world.tags() == set()
    web.add("/disk.img", images.image("qcow2").read_bytes())
    assert pulled(world.wait_phase(kind, "disk", "Ready")) == images.image("qcow2").read_bytes()


@pytest.mark.slow
def test_a_server_that_is_down_is_waited_for(world, opened, web, images, pulled, kind):
    port = free_port()
    web.add("/disk.img", images.image("qcow2").read_bytes())
    world.apply(virtual_image("disk", from_web(f"http://127.0.0.1:{port}/disk.img"), kind))
    assert f"127.0.0.1:{port}" in trying(world, kind, "disk")["message"]
    assert world.tags() == set()
    opened(At(web, port))
    assert pulled(world.wait_phase(kind, "disk", "Ready")) == images.image("qcow2").read_bytes()


def test_what_is_no_disk_alone_fails_the_image(world, kubectl, web, backed, kind):
    world.apply(virtual_image("disk", from_web(web.add("/disk", backed.read_bytes())), kind))
    ready = condition_of(world.wait_phase(kind, "disk", "Failed"), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ProvisioningFailedTerminally")
    assert "backing file" in ready["message"]
    assert world.tags() == set() and kept(world.server) == {}
    assert "backing file" in kubectl("describe", kind, "disk").stdout.partition("Events:")[2]
    # It is not tried again and again.
    assert len([seen for seen in web.requests("/disk") if seen.whole]) <= 2


def test_an_image_that_has_failed_can_be_deleted(world, web, backed, kind):
    world.apply(virtual_image("disk", from_web(web.add("/disk", backed.read_bytes())), kind))
    world.wait_phase(kind, "disk", "Failed")
    world.delete(kind, "disk", "--timeout=10s")


def test_a_pull_secret_that_is_missing_is_waited_for(world, kubectl, elsewhere, auth_proxy, images, pulled, kind):
    disk = images.image("qcow2").read_bytes()
    push_disk(elsewhere.host, "a/disk", "v1", [tar(("disk/disk.img", disk))])
    proxy = auth_proxy(elsewhere.host)
    secret = {"name": "pull", **({"namespace": "default"} if kind == "cvi" else {})}
    world.apply(virtual_image("disk", from_registry(f"{proxy.host}/a/disk:v1", imagePullSecret=secret), kind))
    condition = world.wait_condition(kind, "disk", "DatasourceReady", "ContainerRegistrySecretNotFound")
    assert condition["status"] == "False" and "pull" in condition["message"]
    assert phase_of(world.get(kind, "disk")) == "Pending"
    assert proxy.turned_away == 0
    pull_secret(kubectl, proxy.host, "pull")
    image = world.wait_phase(kind, "disk", "Ready")
    assert condition_of(image, "DatasourceReady")["status"] == "True"
    assert pulled(image) == disk


def test_a_pull_secret_of_another_kind_is_named(world, kubectl, elsewhere):
    kubectl("create", "secret", "generic", "pull", "--from-literal=password=hidden")
    source = from_registry(f"{elsewhere.host}/a/disk:v1", imagePullSecret={"name": "pull"})
    world.apply(virtual_image("disk", source))
    condition = world.wait_condition("vi", "disk", "DatasourceReady", "ContainerRegistrySecretNotFound")
    assert ".dockerconfigjson" in condition["message"]
    assert "hidden" not in world.log()


@pytest.mark.parametrize(("source", "kind"), FROM_IMAGES)
def test_a_source_image_that_is_missing_is_waited_for(world, web, images, pulled, source, kind):
    world.apply(virtual_image("copy", of_image(source, kind), kind))
    reason = {"vi": "ImageNotReady", "cvi": "ClusterImageNotReady"}[source]
    condition = world.wait_condition(kind, "copy", "DatasourceReady", reason)
    assert condition["status"] == "False" and "source" in condition["message"]
    assert phase_of(world.get(kind, "copy")) == "Pending"
    world.ready(virtual_image("source", from_web(web.add("/disk", images.image("qcow2").read_bytes())), source))
    assert pulled(world.wait_phase(kind, "copy", "Ready")) == images.image("qcow2").read_bytes()


def test_a_source_image_that_is_not_ready_yet_is_waited_for(world, slow, noise, pulled):
    path = noise()
    world.apply(virtual_image("source", from_web(slow.add("/disk", path.read_bytes()))))
    world.apply(virtual_image("copy", from_object("VirtualImage", "source")))
    world.wait_condition("vi", "copy", "DatasourceReady", "ImageNotReady")
    assert phase_of(world.get("vi", "copy")) == "Pending"
    slow.speed = None
    assert pulled(world.wait_phase("vi", "copy", "Ready")) == path.read_bytes()


def test_a_disk_that_is_missing_is_waited_for(world, images, pulled, kind):
    source = from_object("VirtualDisk", "root", "default" if kind == "cvi" else None)
    world.apply(virtual_image("disk", source, kind))
    condition = world.wait_condition(kind, "disk", "DatasourceReady", "VirtualDiskNotReady")
    assert condition["status"] == "False" and "root" in condition["message"]
    assert phase_of(world.get(kind, "disk")) == "Pending"
    if isinstance(world, Embedded):
        assert str(world.volume("default", "root")) in condition["message"]
    world.put_disk("default", "root", images.disk())
    assert pulled(world.wait_phase(kind, "disk", "Ready")) == images.disk().read_bytes()


def test_images_of_other_namespaces_are_none_of_ones_own(world, kubectl, web, images):
    kubectl("create", "namespace", "other")
    url = web.add("/disk", images.image("qcow2").read_bytes())
    world.apply(virtual_image("source", from_web(url), namespace="other"))
    world.wait_phase("vi", "source", "Ready", namespace="other")
    world.apply(virtual_image("copy", from_object("VirtualImage", "source")))
    world.wait_condition("vi", "copy", "DatasourceReady", "ImageNotReady")


def test_sources_on_this_machine_are_refused_when_that_is_wanted(start_world, web, images):
    world = start_world(DVCR_ALLOW_LOCAL_SOURCES="false")
    world.apply(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes()))))
    said = condition_of(world.wait_phase("vi", "disk", "Failed"), "Ready")["message"]
    assert "loopback" in said
    assert web.requests(method=None) == []


def test_a_source_elsewhere_leads_nobody_to_this_machine(start_world, opened, outside, web, images):
    world, away = start_world(DVCR_ALLOW_LOCAL_SOURCES="false"), opened(Web(outside))
    disk = web.add("/disk", images.image("qcow2").read_bytes())
    world.apply(virtual_image("disk", from_web(away.add("/moved", location=disk))))
    said = condition_of(world.wait_phase("vi", "disk", "Failed"), "Ready")["message"]
    assert "loopback" in said and web.requests(method=None) == []
    world.apply(virtual_image("there", from_web(away.add("/disk", images.image("qcow2").read_bytes()))))
    world.wait_phase("vi", "there", "Ready")


def test_sources_in_networks_that_are_denied_are_refused(start_world, web, images):
    world = start_world(DVCR_DENY_NETWORKS="192.0.2.0/24,127.0.0.0/8")
    world.apply(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes()))))
    said = condition_of(world.wait_phase("vi", "disk", "Failed"), "Ready")["message"]
    assert "127.0.0.1" in said and "127.0.0.0/8" in said
    assert web.requests(method=None) == []


# Uploads.


def waiting(world, name="disk", kind="vi", **checksum):
    """An image that waits for its user, by the address where that is."""
    return upload_url(world.waiting_for_upload(virtual_image(name, from_user(**checksum), kind)))


def gets(world, kind, name, path, pulled):
    """Waits until an image is Ready, which must be of a file."""
    image = world.wait_phase(kind, name, "Ready")
    assert pulled(image) == path.read_bytes()
    assert "imageUploadURLs" not in image["status"]
    return image


def test_an_image_that_waits_for_its_user_says_where(world, kind):
    image = world.waiting_for_upload(virtual_image("disk", from_user(), kind))
    assert image["status"]["progress"] == "0%"
    urls = image["status"]["imageUploadURLs"]
    for url in urls.values():
        assert re.fullmatch(r"http://[^/]+/upload/[A-Za-z0-9_-]{32,}", url), urls
        answer = ask("HEAD", url)
        assert (answer.status, answer.headers["Upload-Offset"]) == (200, "0")
    ready = condition_of(image, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "WaitForUserUpload")


WAYS = {
    "curl -T": lambda path, url: curl("-T", path, url),
    "curl --data-binary": lambda path, url: curl("--data-binary", f"@{path}", url),
    "curl -X POST -T": lambda path, url: curl("-X", "POST", "-T", path, url),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_uploaded_with_curl(world, images, pulled, kind, way):
    answered = WAYS[way](images.image("qcow2"), waiting(world, kind=kind))
    assert (answered.code, answered.status) == (0, 201), answered
    gets(world, kind, "disk", images.image("qcow2"), pulled)


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_file_is_uploaded_without_telling_its_length(world, noise, pulled, method):
    path, url = noise(), waiting(world)
    with path.open("rb") as file:
        answered = curl("-X", method, "-T", "-", url, stdin=file)
    assert (answered.code, answered.status) == (0, 201), answered
    gets(world, "vi", "disk", path, pulled)


def test_a_file_is_uploaded_from_inside_the_cluster(world, images, pulled):
    image = world.waiting_for_upload(virtual_image("disk", from_user()))
    assert curl("-T", images.image("qcow2"), image["status"]["imageUploadURLs"]["inCluster"]).status == 201
    gets(world, "vi", "disk", images.image("qcow2"), pulled)


def test_an_upload_goes_into_a_claim(world, images):
    image = world.waiting_for_upload(virtual_image("disk", from_user(), storage="PersistentVolumeClaim"))
    assert curl("-T", images.image("qcow2"), upload_url(image)).status == 201
    image = world.wait_phase("vi", "disk", "Ready")
    claim = image["status"]["target"]["persistentVolumeClaimName"]
    assert world.volume("default", claim).read_bytes() == images.disk().read_bytes()
    eventually(lambda: world.tags() == set())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_upload_has_its_checksum(world, images, pulled, algorithm):
    path = images.compressed("qcow2", "xz")
    url = waiting(world, **{algorithm: sums(path)[algorithm]})
    assert curl("-T", path, url).status == 201
    gets(world, "vi", "disk", images.image("qcow2"), pulled)


def halved(world, url, data):
    """Begins an upload of the image `disk` that breaks in its middle, and gives where that is once it is known."""
    half = len(data) // 2
    sender = Sender(url, len(data))
    sender.send(data[:half])
    eventually(lambda: offset(url) == half)
    sender.stop()
    image = world.wait(
        "vi", "disk",
        lambda image: phase_of(image) == "WaitForUserUpload" and str(half) in condition_of(image, "Ready")["message"],
    )  # fmt: skip
    assert upload_url(image) == url and offset(url) == half
    return half


def test_an_upload_that_broke_goes_on_where_it_was(world, noise, pulled):
    path, url = noise(), waiting(world)
    half = halved(world, url, path.read_bytes())
    answered = curl("-C", half, "-T", path, url)
    assert (answered.code, answered.status) == (0, 201), answered
    gets(world, "vi", "disk", path, pulled)


def test_an_upload_may_break_as_often_as_it_likes(world, noise, pulled):
    path, url = noise(), waiting(world)
    data = path.read_bytes()
    for start in range(0, len(data), len(data) // 4):
        end = start + len(data) // 8
        part = Sender(url, len(data), start)
        part.send(data[start:end])
        eventually(lambda end=end: offset(url) == end)
        part.stop()
        # The rest of this quarter, whole. Until the server has seen that the other connection broke, it is in the way.
        rest = data[end : end + len(data) // 8]
        span = f"bytes {end}-{end + len(rest) - 1}/{len(data)}"
        while (answer := ask("PUT", url, rest, Content_Range=span)).status == 409:
            assert answer.headers["Upload-Offset"] in (None, str(end)), answer
            time.sleep(0.05)
        last = end + len(rest) == len(data)
        assert answer.status == (201 if last else 202), answer
        assert answer.headers["Upload-Offset"] == str(end + len(rest))
    gets(world, "vi", "disk", path, pulled)


def test_an_upload_that_broke_may_begin_anew(world, noise, pulled):
    first, second, url = noise(), noise(), waiting(world)
    halved(world, url, first.read_bytes())
    assert curl("-T", second, url).status == 201
    gets(world, "vi", "disk", second, pulled)


def test_a_piece_at_the_wrong_place_is_refused_and_told_the_right_one(world, noise, pulled):
    path, url = noise(), waiting(world)
    data = path.read_bytes()
    answer = ask("PUT", url, data[:MIB], Content_Range=f"bytes 0-{MIB - 1}/{len(data)}")
    assert (answer.status, answer.headers["Upload-Offset"]) == (202, str(MIB))
    for start in [1, MIB - 1, MIB + 1, 2 * MIB]:
        answer = ask("PUT", url, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        assert (answer.status, answer.headers["Upload-Offset"]) == (409, str(MIB)), start
        assert offset(url) == MIB
    assert curl("-C", MIB + 5, "-T", path, url).status == 409
    assert curl("-C", MIB, "-T", path, url).status == 201
    gets(world, "vi", "disk", path, pulled)


@pytest.mark.parametrize(
    "value", ["bytes 5-3/10", "bytes x", "lines 0-9/10", "bytes 0-99/10", "bytes */10", "bytes 0-9/5"]
)
def test_a_range_that_makes_no_sense_is_refused(world, value):
    url = waiting(world)
    answer = ask("PUT", url, b"x" * 10, Content_Range=value)
    assert answer.status == 400, answer
    assert offset(url) == 0


def test_an_upload_of_nothing_is_refused(world, tmp_path):
    url = waiting(world)
    (tmp_path / "empty").touch()
    assert curl("-T", tmp_path / "empty", url).status == 400
    with (tmp_path / "empty").open("rb") as file:
        answered = curl("-T", "-", url, stdin=file)
    assert answered.status in (201, 400)
    if answered.status == 201:
        refused(world, "disk")


def refused(world, name, kind="vi"):
    """Waits until an upload was refused, and gives the reason and the address for another one."""
    beginning = "The uploaded file was refused: "
    image = world.wait(kind, name, lambda image: condition_of(image, "Ready")["message"].startswith(beginning))
    assert phase_of(image) == "WaitForUserUpload"
    assert condition_of(image, "Ready")["reason"] == "WaitForUserUpload"
    assert image["status"]["progress"] == "0%"
    return condition_of(image, "Ready")["message"], upload_url(image)


def test_an_upload_with_the_wrong_checksum_is_refused_and_another_one_is_welcome(world, images, noise, pulled, kind):
    right = sums(images.image("qcow2"))
    other = noise()
    assert curl("-T", other, waiting(world, kind=kind, sha256=right["sha256"])).status == 201
    message, url = refused(world, "disk", kind)
    assert right["sha256"] in message and sums(other)["sha256"] in message
    eventually(lambda: world.tags() == set())
    assert offset(url) == 0
    assert curl("-T", images.image("qcow2"), url).status == 201
    gets(world, kind, "disk", images.image("qcow2"), pulled)
    assert "DataSourceSyncFailed" in world.events("disk")


def test_an_upload_that_is_no_disk_is_refused_and_another_one_is_welcome(world, images, backed, tmp_path, pulled):
    cut = tmp_path / "cut.qcow2"
    cut.write_bytes(images.image("qcow2").read_bytes()[: MIB // 4])
    url = waiting(world)
    for bad, said in [(backed, "backing file"), (cut, "qcow2")]:
        assert curl("-T", bad, url).status == 201
        _, url = eventually(lambda said=said: said in (found := refused(world, "disk"))[0] and found, seconds=30)
        eventually(lambda: world.tags() == set())
    assert curl("-T", images.image("qcow2"), url).status == 201
    gets(world, "vi", "disk", images.image("qcow2"), pulled)


def test_an_address_with_one_character_changed_leads_nowhere(world, images):
    url = waiting(world)
    place, _, token = url.rpartition("/")
    for index, character in enumerate(token):
        other = "A" if character != "A" else "B"
        answer = ask("HEAD", f"{place}/{token[:index]}{other}{token[index + 1 :]}")
        assert answer.status == 404, (index, answer)
    for wrong in ["", token[:-1], token + "A", token + "/", token.swapcase(), "%00", "."]:
        assert ask("PUT", f"{place}/{wrong}", b"x" * 512).status == 404, wrong
    assert curl("-T", images.image("qcow2"), url[:-1] + ("A" if url[-1] != "A" else "B")).status == 404
    assert offset(url) == 0


def test_a_page_of_any_origin_may_upload(world, images, pulled):
    """What browsers want to hear before and after; of errors too, or the page learns nothing."""
    url = waiting(world)
    asked = {"Origin": "https://example.com", "Access_Control_Request_Method": "PUT"}
    answer = ask("OPTIONS", url, **asked, Access_Control_Request_Headers="content-range,content-type")
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://example.com")
    allowed = {method.strip() for method in answer.headers["Access-Control-Allow-Methods"].split(",")}
    assert {"PUT", "POST", "HEAD"} <= allowed
    headers = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
    assert {"content-range", "content-type"} <= headers
    data = images.image("qcow2").read_bytes()
    span = f"bytes 5-{len(data) - 1}/{len(data)}"
    for answer, status in [
        (ask("HEAD", url, Origin="https://example.com"), 200),
        (ask("PUT", url, data[5:], Origin="https://example.com", Content_Range=span), 409),
        (ask("PUT", url[:-5], data, Origin="https://example.com"), 404),
        (ask("PUT", url, data, Origin="https://example.com"), 201),
    ]:
        assert answer.status == status, answer
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://example.com")
        if status != 404:
            assert "upload-offset" in answer.headers["Access-Control-Expose-Headers"].lower()
    gets(world, "vi", "disk", images.image("qcow2"), pulled)


def test_a_second_upload_while_one_runs_is_refused_and_does_no_harm(world, noise, pulled):
    path, other, url = noise(), noise(), waiting(world)
    data = path.read_bytes()
    first = Sender(url, len(data))
    first.send(data[: SIZE // 2])
    eventually(lambda: offset(url) == SIZE // 2)
    assert curl("-T", other, url).status == 409
    assert ask("PUT", url, b"x", Content_Range=f"bytes {SIZE // 2}-{SIZE // 2}/{SIZE}").status == 409
    first.send(data[SIZE // 2 :])
    assert first.answer()[0] == 201
    first.stop()
    gets(world, "vi", "disk", path, pulled)


def test_a_file_that_is_whole_is_not_taken_twice(start_world, slow, noise, pulled):
    """There is no room to make it beside another image, so that the file lies where it is."""
    world = start_world(at_a_time=1)
    world.apply(virtual_image("other", from_web(slow.add("/disk", noise().read_bytes()))))
    eventually(lambda: slow.readers("/disk") == 1)
    path, url = noise(), waiting(world)
    assert curl("-T", path, url).status == 201
    for _ in range(2):
        assert curl("-T", noise(), url).status == 409
    assert ask("PUT", url, b"x", Content_Range=f"bytes {SIZE}-{SIZE}/{SIZE + 1}").status == 409
    assert offset(url) == SIZE
    world.wait_phase("vi", "disk", "Provisioning")
    slow.speed = None
    gets(world, "vi", "disk", path, pulled)


def test_nothing_of_an_upload_is_left_once_the_image_is_ready(world, noise, pulled):
    path, url = noise(), waiting(world)
    assert curl("-T", path, url).status == 201
    image = gets(world, "vi", "disk", path, pulled)
    eventually(lambda: world.uploaded_files() == set())
    assert world.tags() == {f"vi/default/disk:{image['metadata']['uid']}"}
    eventually(lambda: not [file for file in kept(world.server) if file.startswith("uploads/")])


def test_the_address_of_an_image_that_is_ready_takes_nothing_more(world, noise, pulled):
    path, url = noise(), waiting(world)
    assert curl("-T", path, url).status == 201
    gets(world, "vi", "disk", path, pulled)
    # It is closed in a moment, with what was uploaded.
    eventually(lambda: ask("PUT", url, b"x" * MIB).status in (404, 410))
    before = kept(world.server)
    assert ask("PUT", url, b"x" * MIB).status in (404, 410)
    assert world.uploaded_files() == set() and kept(world.server) == before


def test_the_address_of_an_image_that_was_deleted_takes_nothing_more(world):
    url = waiting(world)
    world.delete("vi", "disk")
    before = kept(world.server)
    assert ask("PUT", url, b"x" * MIB).status in (404, 409, 410)
    assert world.tags() == set() and kept(world.server) == before


@pytest.mark.parametrize("level", ["info", "trace"])
def test_the_address_of_an_upload_is_not_logged(start_world, images, pulled, level):
    world = start_world(DVCR_LOG_LEVEL=level)
    url = waiting(world)
    token = url.rpartition("/")[2]
    assert ask("PUT", url, b"x", Content_Range="bytes 5-5/6").status == 409
    assert curl("-T", images.image("qcow2"), url).status == 201
    gets(world, "vi", "disk", images.image("qcow2"), pulled)
    log = world.log()
    assert "/upload/" in log
    assert token not in log, [line[:400] for line in log.splitlines() if token in line][:3]


def test_two_images_have_addresses_of_their_own(world, images, noise, pulled):
    one, two = waiting(world, "one"), waiting(world, "two")
    path = noise()
    assert one.rpartition("/")[2] != two.rpartition("/")[2]
    assert curl("-T", images.image("qcow2"), one).status == 201
    gets(world, "vi", "one", images.image("qcow2"), pulled)
    assert offset(two) == 0 and phase_of(world.get("vi", "two")) == "WaitForUserUpload"
    assert curl("-T", path, two).status == 201
    gets(world, "vi", "two", path, pulled)


@pytest.mark.parametrize("is_open", [True, False])
def test_an_image_that_is_deleted_while_it_is_uploaded_is_gone_quickly(world, noise, is_open):
    data, url = noise().read_bytes(), waiting(world)
    sender = Sender(url, len(data))
    sender.send(data[: SIZE // 2])
    eventually(lambda: offset(url) == SIZE // 2)
    if not is_open:
        sender.stop()
    begun = time.monotonic()
    world.delete("vi", "disk", "--timeout=20s")
    assert time.monotonic() - begun < 3
    if is_open:
        assert sender.is_cut(2)
        sender.stop()
    assert world.tags() == set()
    eventually(lambda: kept(world.server) == {})


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_an_upload_outlives_the_server(world, noise, pulled, end):
    path, url = noise(), waiting(world)
    half = halved(world, url, path.read_bytes())
    getattr(world, end)()
    assert offset(url) == half
    image = world.wait_phase("vi", "disk", "WaitForUserUpload")
    assert upload_url(image) == url
    answered = curl("-C", half, "-T", path, url)
    assert (answered.code, answered.status) == (0, 201), answered
    gets(world, "vi", "disk", path, pulled)


def test_an_upload_that_runs_when_the_server_is_killed_goes_on(world, noise, pulled):
    path, url = noise(8 * MIB), waiting(world)
    data = path.read_bytes()
    sender = Sender(url, len(data))
    sender.send(data[: 6 * MIB])
    eventually(lambda: offset(url) == 6 * MIB)
    world.crash()
    sender.stop()
    # What was not yet safe may be lost, but not more.
    there = offset(url)
    assert 0 <= there <= 6 * MIB
    assert curl(*(["-C", there] if there else []), "-T", path, url).status == 201
    gets(world, "vi", "disk", path, pulled)


def test_an_image_that_nobody_uploads_fails(start_world, kind):
    world = start_world(DVCR_UPLOAD_TIMEOUT="2")
    url = waiting(world, kind=kind)
    image = world.wait_phase(kind, "disk", "Failed")
    ready = condition_of(image, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "WaitForUserUploadTimeout")
    assert "not uploaded" in ready["message"]
    assert "imageUploadURLs" not in image["status"]
    assert ask("PUT", url, b"x" * MIB).status in (404, 410)
    assert world.tags() == set() and kept(world.server) == {}


# Claims.


@pytest.mark.parametrize("storage", ["PersistentVolumeClaim", "Kubernetes"])
@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_a_claim_has_the_disk_and_the_registry_nothing(world, web, images, storage, name):
    url = web.add("/disk", images.image(name).read_bytes())
    image = world.ready(virtual_image("disk", from_web(url), storage=storage))
    status = image["status"]
    assert status["target"].keys() == {"persistentVolumeClaimName"}
    for condition in ["StorageClassReady", "DatasourceReady", "Ready"]:
        assert condition_of(image, condition)["status"] == "True"
    assert condition_of(image, "StorageClassReady")["reason"] == "StorageClassReady"
    assert status["storageClassName"]
    assert status["size"]["unpackedBytes"] == str(8 * MIB) and status["cdrom"] is False
    file = world.volume("default", status["target"]["persistentVolumeClaimName"])
    assert file.read_bytes() == images.disk().read_bytes()
    # What is zero in it takes no space.
    assert file.stat().st_blocks * 512 < 4 * MIB
    eventually(lambda: world.tags() == set())
    world.delete("vi", "disk")
    # In a cluster a volume goes after its claim.
    eventually(lambda: not file.exists())


def test_a_claim_is_of_the_storage_class_that_is_wanted(world, web, images):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    manifest = virtual_image("disk", from_web(url), storage="PersistentVolumeClaim")
    manifest["spec"]["persistentVolumeClaim"] = {"storageClassName": "fast"}
    assert world.ready(manifest)["status"]["storageClassName"] == "fast"


def test_a_claim_that_is_lost_is_made_again(start_world, web, images):
    world = start_world(DVCR_PRESENCE_INTERVAL="1")
    url = web.add("/disk", images.image("qcow2").read_bytes())
    with world.watch() as watch:
        image = world.ready(virtual_image("disk", from_web(url), storage="PersistentVolumeClaim"))
        claim = image["status"]["target"]["persistentVolumeClaimName"]
        world.lose_claim("default", claim)
        watch.until("disk", lambda image: phase_of(image) == "PVCLost")
        world.wait_phase("vi", "disk", "Ready")
    assert world.volume("default", claim).read_bytes() == images.disk().read_bytes()


# Deletion.


def test_an_image_that_is_deleted_is_gone_at_once(world, kubectl, web, images, kind):
    world.ready(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes())), kind))
    assert len(world.tags()) == 1
    waiter = kubectl.start("wait", "--for=delete", f"{kind}/disk", "--timeout=30s")
    begun = time.monotonic()
    world.delete(kind, "disk")
    assert time.monotonic() - begun < 3
    assert world.tags() == set() and world.get(kind, "disk") is None
    _, errors = waiter.communicate(timeout=30)
    assert waiter.returncode == 0, errors


@pytest.mark.parametrize("speed", [MIB, 0])
def test_an_image_that_is_deleted_while_it_is_made_leaves_its_source_at_once(world, slow, noise, kind, speed):
    """Also a source that sends nothing just then."""
    being_made(world, slow, noise, kind)
    slow.speed = speed
    begun = time.monotonic()
    world.delete(kind, "disk", "--wait=false")
    eventually(lambda: slow.readers("/disk") == 0, seconds=2 - (time.monotonic() - begun))
    eventually(lambda: world.get(kind, "disk") is None, seconds=5)


def test_an_image_that_is_deleted_while_it_is_made_leaves_nothing_in_the_registry(world, slow, noise, kind):
    being_made(world, slow, noise, kind)
    eventually(lambda: kept(world.server))
    world.delete(kind, "disk", "--timeout=20s")
    assert world.tags() == set()
    eventually(lambda: kept(world.server) == {})


def being_made(world, slow, noise, kind):
    """Begins an image of a slow source, of which something has come.

    The source takes a minute, so that it is still read however late the numbers are told on a loaded machine.
    """
    slow.speed = MIB
    world.apply(virtual_image("disk", from_web(slow.add("/disk", noise(64 * MIB).read_bytes())), kind))
    world.wait(kind, "disk", lambda image: (percent(image) or 0) > 0)
    assert slow.readers("/disk") == 1


def test_an_image_that_waits_for_another_try_is_deleted_at_once(world, web, kind):
    world.apply(virtual_image("disk", from_web(f"{web.url}/missing"), kind))
    trying(world, kind, "disk")
    begun = time.monotonic()
    world.delete(kind, "disk", "--timeout=20s")
    assert time.monotonic() - begun < 3


def test_a_name_can_be_used_again_at_once(world, web, images, noise, pulled, kind):
    old, new = images.image("qcow2"), noise()
    first = world.ready(virtual_image("disk", from_web(web.add("/old", old.read_bytes())), kind))
    world.delete(kind, "disk")
    second = world.ready(virtual_image("disk", from_web(web.add("/new", new.read_bytes())), kind))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert pulled(second) == new.read_bytes()
    assert {tag.rpartition(":")[2] for tag in world.tags()} == {second["metadata"]["uid"]}


def test_a_name_can_be_used_again_while_the_old_image_was_being_made(world, slow, web, images, noise, pulled):
    world.apply(virtual_image("disk", from_web(slow.add("/old", noise().read_bytes()))))
    eventually(lambda: slow.readers("/old") == 1)
    world.delete("vi", "disk", "--timeout=20s")
    image = world.ready(virtual_image("disk", from_web(web.add("/new", images.image("qcow2").read_bytes()))))
    slow.speed = None
    assert pulled(image) == images.image("qcow2").read_bytes()
    assert world.tags() == {f"vi/default/disk:{image['metadata']['uid']}"}


def test_a_namespace_that_is_deleted_takes_its_images_along(world, kubectl, web, slow, images, noise):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    kubectl("create", "namespace", "project")
    kept_image = world.ready(virtual_image("disk", from_web(url)))
    made = virtual_image("disk", from_web(url), namespace="project")
    in_claim = virtual_image("claim", from_web(url), namespace="project", storage="PersistentVolumeClaim")
    for manifest in [made, in_claim]:
        image = world.ready(manifest)
    file = world.volume("project", image["status"]["target"]["persistentVolumeClaimName"])
    world.apply(virtual_image("slow", from_web(slow.add("/disk", noise().read_bytes())), namespace="project"))
    world.waiting_for_upload(virtual_image("upload", from_user(), namespace="project"))
    eventually(lambda: slow.readers("/disk") == 1)
    kubectl("delete", "namespace", "project", "--timeout=30s")
    assert kubectl("get", "vi", "-n", "project", "-o", "name").stdout == ""
    eventually(lambda: slow.readers("/disk") == 0, seconds=2)
    eventually(lambda: not file.exists())
    assert world.tags() == {f"vi/default/disk:{kept_image['metadata']['uid']}"}


def test_all_images_are_deleted_with_one_word(world, kubectl, web, images):
    url = web.add("/disk", images.image("qcow2").read_bytes())
    for number in range(5):
        world.apply(virtual_image(f"disk{number}", from_web(url)))
    for number in range(5):
        world.wait_phase("vi", f"disk{number}", "Ready")
    kubectl("delete", "vi", "--all", "--timeout=30s")
    assert world.tags() == set()


# Images that are lost.


def lose(world, image):
    """Deletes an image behind the back of its resource."""
    name, _, tag = image["status"]["target"]["registryURL"].partition("/")[2].rpartition(":")
    answer = Client(world.server.host).delete(f"/v2/{name}/manifests/{tag}")
    assert answer.status == 202, answer


def test_an_image_that_is_lost_is_made_again_unless_its_user_had_brought_it(start_world, web, images, pulled):
    world = start_world(DVCR_PRESENCE_INTERVAL="1")
    path = images.image("qcow2")
    with world.watch() as watch:
        url = waiting(world, "uploaded")
        assert curl("-T", path, url).status == 201
        uploaded = world.wait_phase("vi", "uploaded", "Ready")
        fetched = world.ready(virtual_image("fetched", from_web(web.add("/disk", path.read_bytes()))))
        lose(world, uploaded)
        lost = world.wait_phase("vi", "uploaded", "ImageLost")
        ready = condition_of(lost, "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "ImageLost")
        assert "Recreate" in ready["message"]

        lose(world, fetched)
        watch.until("fetched", lambda image: phase_of(image) == "ImageLost")
        # What watches is told a moment later than what asks.
        watch.until("fetched", lambda _: watch.phases("fetched")[-2:] == ["ImageLost", "Ready"])
        image = world.wait_phase("vi", "fetched", "Ready")
    assert pulled(image) == path.read_bytes()
    assert image["metadata"]["uid"] == fetched["metadata"]["uid"]
    eventually(lambda: "VirtualImageLostRecovered" in world.events("fetched"))
    # The other one was lost before, and still is.
    assert phase_of(world.get("vi", "uploaded")) == "ImageLost"
    assert "VirtualImageLostRecovered" not in world.events("uploaded")


def test_a_cluster_image_that_is_lost_is_made_again(start_world, web, images, pulled):
    world = start_world(DVCR_PRESENCE_INTERVAL="1")
    path = images.image("qcow2")
    with world.watch("cvi") as watch:
        image = world.ready(virtual_image("disk", from_web(web.add("/disk", path.read_bytes())), "cvi"))
        lose(world, image)
        watch.until("disk", lambda image: phase_of(image) == "ImageLost")
        assert pulled(world.wait_phase("cvi", "disk", "Ready")) == path.read_bytes()
    eventually(lambda: "ClusterVirtualImageLostRecovered" in world.events("disk"))


def test_an_image_that_is_lost_while_its_source_is_away_stays_lost(start_world, web, images, pulled):
    """Its spec cannot be changed: it was Ready."""
    world = start_world(DVCR_PRESENCE_INTERVAL="1")
    path = images.image("qcow2")
    image = world.ready(virtual_image("disk", from_web(web.add("/disk", path.read_bytes()))))
    resource = web.resources.pop("/disk")
    lose(world, image)
    world.wait("vi", "disk", lambda image: "404" in condition_of(image, "Ready")["message"])
    assert phase_of(world.get("vi", "disk")) == "ImageLost"
    assert "cannot be changed" in world.refuses(virtual_image("disk", from_web(f"{web.url}/other")))
    web.resources["/disk"] = resource
    assert pulled(world.wait_phase("vi", "disk", "Ready")) == path.read_bytes()


def test_an_image_that_is_lost_can_be_deleted(start_world, web, images):
    world = start_world(DVCR_PRESENCE_INTERVAL="1")
    url = waiting(world)
    assert curl("-T", images.image("qcow2"), url).status == 201
    lose(world, world.wait_phase("vi", "disk", "Ready"))
    world.wait_phase("vi", "disk", "ImageLost")
    world.delete("vi", "disk", "--timeout=10s")


# Servers that are killed.


@pytest.mark.parametrize("end", ["restart", "crash"])
@pytest.mark.parametrize("storage", ["ContainerRegistry", "PersistentVolumeClaim"])
def test_an_import_outlives_the_server(world, slow, noise, pulled, end, storage):
    path = noise()
    slow.speed = 2 * MIB
    made = world.apply(virtual_image("disk", from_web(slow.add("/disk", path.read_bytes())), storage=storage))
    world.wait("vi", "disk", lambda image: (percent(image) or 0) > 0)
    getattr(world, end)()
    slow.speed = None
    image = world.wait_phase("vi", "disk", "Ready")
    assert image["metadata"]["uid"] == made["metadata"]["uid"]
    if storage == "ContainerRegistry":
        assert pulled(image) == path.read_bytes()
    else:
        claim = image["status"]["target"]["persistentVolumeClaimName"]
        assert world.volume("default", claim).read_bytes() == path.read_bytes()
    # What was on its way to a claim goes once the image is Ready.
    left = {f"vi/default/disk:{made['metadata']['uid']}"} if storage == "ContainerRegistry" else set()
    eventually(lambda: world.tags() == left)


def test_an_image_that_was_ready_is_so_after_a_restart(world, kubectl, web, images, pulled, kind):
    before = world.ready(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes())), kind))
    sent = len(web.requests())
    for end in [world.restart, world.crash]:
        end()
        after = world.get(kind, "disk")
        assert after["metadata"]["uid"] == before["metadata"]["uid"] and after["spec"] == before["spec"]
        assert phase_of(after) == "Ready"
        assert pulled(after) == images.image("qcow2").read_bytes()
        kubectl("wait", "--for=condition=Ready", f"{kind}/disk", "--timeout=10s")
    assert len(web.requests()) == sent


def test_what_was_applied_is_there_after_a_crash(world, kubectl, noise, web, pulled):
    url = web.add("/disk", noise().read_bytes())
    for number in range(5):
        made = world.apply(virtual_image(f"disk{number}", from_web(url)))
        world.crash()
        after = world.get("vi", f"disk{number}")
        assert after is not None and after["metadata"]["uid"] == made["metadata"]["uid"]
    for number in range(5):
        world.wait_phase("vi", f"disk{number}", "Ready")
    kubectl("delete", "vi", "disk0", "--wait=false")
    world.crash()
    kubectl("wait", "--for=delete", "vi/disk0", "--timeout=20s")
    eventually(lambda: len(world.tags()) == 4)


def test_a_deletion_outlives_the_server(world, slow, noise):
    world.apply(virtual_image("disk", from_web(slow.add("/disk", noise().read_bytes()))))
    eventually(lambda: slow.readers("/disk") == 1)
    world.delete("vi", "disk", "--wait=false")
    world.crash()
    eventually(lambda: world.get("vi", "disk") is None, seconds=20)
    assert world.tags() == set()
    eventually(lambda: kept(world.server) == {}, seconds=20)


def test_a_list_of_manifests_is_applied_and_so_are_several_documents(world, kubectl):
    items = [virtual_image("disk", from_user(), kind) for kind in ["vi", "cvi"]]
    kubectl("apply", "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": items})
    kubectl("delete", "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": items})
    kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, items)))
    for kind in ["vi", "cvi"]:
        world.wait_phase(kind, "disk", "WaitForUserUpload")


@pytest.mark.slow
@pytest.mark.parametrize("world_name", ["embedded"])
def test_500_images_at_once(world, kubectl, web):
    """In a cluster, where each would be a Job and each Job a process here, it is another test."""
    block = os.urandom(MIB)
    items = []
    for number in range(500):
        url = web.add(f"/{number}", number.to_bytes(8, "big") + block[8:])
        items.append(virtual_image(f"disk-{number}", from_web(url)))
    kubectl("apply", "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": items}, timeout=300)
    deadline = time.monotonic() + 300
    while True:
        phases = [phase_of(item) for item in kubectl.json("get", "vi", timeout=120)["items"]]
        assert len(phases) == 500 and "Failed" not in phases
        if set(phases) == {"Ready"}:
            break
        assert time.monotonic() < deadline, {phase: phases.count(phase) for phase in set(phases)}
        time.sleep(0.5)
    assert len(world.tags()) == 500
    for number in [0, 250, 499]:
        uid = world.get("vi", f"disk-{number}")["metadata"]["uid"]
        _, data = Image(world.server.host, f"vi/default/disk-{number}", uid).file()
        assert data == number.to_bytes(8, "big") + block[8:]
    # kubectl itself would take minutes to see one after the other that they are gone.
    kubectl("delete", "vi", "--all", "--wait=false", timeout=120)
    eventually(lambda: kubectl("get", "vi", "-o", "name", timeout=120).stdout == "", seconds=120)
    assert world.tags() == set()


def test_images_that_are_made_at_once_are_all_made(world, web, images, noise, pulled):
    paths = [noise(MIB) for _ in range(10)]
    manifests = [
        virtual_image(f"disk{number}", from_web(web.add(f"/{number}", path.read_bytes())), kind)
        for number, path in enumerate(paths)
        for kind in ["vi", "cvi"]
    ]
    at_once([lambda manifest=manifest: world.apply(manifest) for manifest in manifests])
    for number, path in enumerate(paths):
        for kind in ["vi", "cvi"]:
            assert pulled(world.wait_phase(kind, f"disk{number}", "Ready")) == path.read_bytes()


# kubectl.

FIELDS = {
    "vi": [
        "spec", "storage", "persistentVolumeClaim", "storageClassName", "dataSource", "type", "http", "url", "caBundle",
        "checksum", "md5", "sha1", "sha256", "sha512", "streebog256", "streebog512", "containerImage", "image",
        "imagePullSecret", "name", "objectRef", "kind", "upload", "status", "phase", "progress", "format", "cdrom",
        "size", "stored", "storedBytes", "unpacked", "unpackedBytes", "target", "registryURL",
        "persistentVolumeClaimName", "downloadSpeed", "avg", "avgBytes", "current", "currentBytes", "imageUploadURLs",
        "external", "inCluster", "uploadCommand", "sourceUID", "conditions", "observedGeneration",
    ],
}  # fmt: skip
FIELDS["cvi"] = [
    *(field for field in FIELDS["vi"] if field not in ("storage", "persistentVolumeClaim")),
    "namespace", "usedInNamespaces",
]  # fmt: skip


def test_kubectl_explains_every_field(kubectl, kind):
    resource = {"vi": "virtualimage", "cvi": "clustervirtualimage"}[kind]
    text = kubectl("explain", f"{resource}.spec.dataSource").stdout
    for field in ["http", "containerImage", "objectRef", "upload", "type"]:
        assert re.search(rf"^  {field}\t<", text, re.MULTILINE), text
    assert "-required-" in text and "enum: " in text
    told = set(re.findall(r"^ +(\w+)\t<", kubectl("explain", resource, "--recursive").stdout, re.MULTILINE))
    assert set(FIELDS[kind]) <= told, set(FIELDS[kind]) - told
    for field in ["spec.dataSource.http.checksum.streebog256", "status.target", "spec.dataSource.objectRef.kind"]:
        described = kubectl("explain", f"{resource}.{field}").stdout.partition("DESCRIPTION:")[2]
        assert described.strip() and "<empty>" not in described, (field, described)


def test_kubectl_describes_an_image_with_its_events(world, kubectl, web, images, kind):
    image = world.ready(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes())), kind))

    def described():
        text = kubectl("describe", kind, "disk").stdout
        return text if "<none>" not in text.partition("Events:")[2] else None

    text = eventually(described)
    for part in [image["status"]["target"]["registryURL"], "DatasourceReady", "Stored Bytes", image["metadata"]["uid"]]:
        assert part in text
    header, _, *events = text.partition("Events:")[2].strip().splitlines()
    assert header.split() == ["Type", "Reason", "Age", "From", "Message"]
    assert events and all(event.split()[0] in ("Normal", "Warning") for event in events)
    listed = kubectl("get", "events").stdout
    assert listed.splitlines()[0].split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]


def test_kubectl_waits_for_an_image(world, kubectl, slow, noise, kind):
    world.apply(virtual_image("disk", from_web(slow.add("/disk", noise().read_bytes())), kind))
    done = kubectl("wait", "--for=condition=Ready", f"{kind}/disk", "--timeout=1s", check=False)
    assert done.returncode == 1 and "timed out" in done.stderr
    waiters = [
        kubectl.start("wait", how, f"{kind}/disk", "--timeout=60s")
        for how in ["--for=condition=Ready", "--for=jsonpath={.status.phase}=Ready", "--for=jsonpath={.status.size}"]
    ]
    assert all(waiter.poll() is None for waiter in waiters)
    slow.speed = None
    for waiter in waiters:
        out, errors = waiter.communicate(timeout=60)
        assert waiter.returncode == 0 and "condition met" in out, errors


def test_kubectl_prints_a_part_of_an_image(world, kubectl, web, images, kind):
    image = world.ready(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes())), kind))
    path = "jsonpath={.status.phase} {.status.target.registryURL} {.status.conditions[?(@.type=='Ready')].status}"
    assert kubectl("get", kind, "disk", "-o", path).stdout == f"Ready {image['status']['target']['registryURL']} True"
    custom = "custom-columns=A:.metadata.name,B:.status.format"
    assert kubectl("get", kind, "-o", custom, "--no-headers").stdout.split() == ["disk", "qcow2"]
    assert kubectl("get", kind, "-o", "yaml").stdout.startswith("apiVersion: v1\nitems:\n")
    assert kubectl("get", kind, "-o", "name").stdout.split("/")[1] == "disk\n"


def test_kubectl_patches_an_image(world, kubectl, kind):
    world.apply(virtual_image("disk", from_user(), kind))

    def patch(how, change, **options):
        return kubectl("patch", kind, "disk", f"--type={how}", "-p", json.dumps(change), **options)

    patch("merge", {"spec": {"dataSource": {"upload": {"checksum": {"md5": "a" * 32}}}}})
    assert world.get(kind, "disk")["spec"]["dataSource"]["upload"]["checksum"] == {"md5": "a" * 32}
    patch("json", [{"op": "replace", "path": "/spec/dataSource/upload/checksum/md5", "value": "b" * 32}])
    image = world.get(kind, "disk")
    assert image["spec"]["dataSource"]["upload"]["checksum"] == {"md5": "b" * 32}
    assert image["metadata"]["generation"] == 3
    assert patch("json", [{"op": "test", "path": "/kind", "value": "x"}], check=False).returncode == 1
    # The status is the controller's.
    patch("merge", {"status": {"phase": "Ready"}})
    world.wait_phase(kind, "disk", "WaitForUserUpload")


def test_kubectl_edits_an_image(world, kubectl, tmp_path, web, images, pulled, kind):
    url = web.add("/good", images.image("qcow2").read_bytes())
    world.apply(virtual_image("disk", from_web(f"{web.url}/bad"), kind))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nexec sed -i s,/bad,/good, "$1"\n')
    editor.chmod(0o755)
    kubectl.environment["KUBE_EDITOR"] = str(editor)
    done = kubectl("edit", kind, "disk")
    assert "edited" in done.stdout
    assert world.get(kind, "disk")["spec"]["dataSource"]["http"]["url"] == url
    assert pulled(world.wait_phase(kind, "disk", "Ready")) == images.image("qcow2").read_bytes()
    # What is refused is opened once more, with the reason above it.
    editor.write_text(f'#!/bin/sh\ncat "$1" >>{tmp_path}/opened\nexec sed -i s,/good,/bad, "$1"\n')
    done = kubectl("edit", kind, "disk", check=False)
    assert done.returncode == 1 and "is invalid" in done.stderr, done
    assert "cannot be changed" in (tmp_path / "opened").read_text()


def test_kubectl_labels_and_selects_images(world, kubectl, kind):
    for name in ["one", "two"]:
        world.apply(virtual_image(name, from_user(), kind))
    kubectl("label", kind, "one", "team=disks")
    kubectl("annotate", kind, "two", "note=a b")
    resource = {"vi": "virtualimage", "cvi": "clustervirtualimage"}[kind] + ".virtualization.deckhouse.io"
    for name, *selector in [
        ("one", "-l", "team=disks"),
        ("two", "-l", "team!=disks"),
        ("one", "-l", "team in (disks,x)"),
        ("two", "-l", "!team"),
        ("two", "--field-selector", "metadata.name=two"),
    ]:
        assert kubectl("get", kind, *selector, "-o", "name").stdout == f"{resource}/{name}\n"
    assert world.get(kind, "two")["metadata"]["annotations"]["note"] == "a b"
    # Neither begins it anew.
    assert world.get(kind, "one")["metadata"]["generation"] == 1
    kubectl("delete", kind, "-l", "team=disks")
    assert world.get(kind, "one") is None and world.get(kind, "two") is not None


def test_two_who_apply_the_same_field_are_in_conflict(world, kubectl, kind):
    def applied(manager, team, *more, check=True):
        manifest = virtual_image("disk", from_user(), kind)
        manifest["metadata"]["labels"] = {"team": team}
        arguments = ["apply", "--server-side", f"--field-manager={manager}", *more, "-f", "-"]
        return kubectl(*arguments, input=manifest, check=check)

    applied("one", "a")
    applied("two", "a")
    done = applied("two", "b", check=False)
    assert done.returncode == 1
    assert 'Apply failed with 1 conflict: conflict with "one": .metadata.labels.team' in done.stderr, done.stderr
    assert world.get(kind, "disk")["metadata"]["labels"] == {"team": "a"}
    applied("two", "b", "--force-conflicts")
    assert world.get(kind, "disk")["metadata"]["labels"] == {"team": "b"}
    managers = {entry["manager"] for entry in world.get(kind, "disk")["metadata"]["managedFields"]}
    assert {"one", "two"} <= managers
    # The controller is one of them, and stands in nobody's way.
    world.wait_phase(kind, "disk", "WaitForUserUpload")
    applied("two", "b")
    assert phase_of(world.get(kind, "disk")) == "WaitForUserUpload"


def test_kubectl_shows_the_difference(world, kubectl, kind):
    manifest = virtual_image("disk", from_user(), kind)
    done = kubectl("diff", "-f", "-", input=manifest, check=False)
    assert done.returncode == 1 and "+kind: " in done.stdout
    assert world.get(kind, "disk") is None
    world.apply(manifest)
    world.wait_phase(kind, "disk", "WaitForUserUpload")
    assert kubectl("diff", "-f", "-", input=manifest).stdout == ""
    manifest["metadata"]["labels"] = {"team": "disks"}
    done = kubectl("diff", "-f", "-", input=manifest, check=False)
    assert done.returncode == 1 and "+    team: disks" in done.stdout, done
    assert "labels" not in world.get(kind, "disk")["metadata"]


def test_kubectl_creates_replaces_and_tries_without_doing(world, kubectl, kind):
    manifest = virtual_image("disk", from_user(), kind)
    for how in ["server", "client"]:
        kubectl("create", f"--dry-run={how}", "-f", "-", input=manifest)
        assert world.get(kind, "disk") is None
    kubectl("create", "-f", "-", input=manifest)
    done = kubectl("create", "-f", "-", input=manifest, check=False)
    assert done.returncode == 1 and "AlreadyExists" in done.stderr and "already exists" in done.stderr
    manifest["metadata"]["labels"] = {"team": "disks"}
    kubectl("replace", "-f", "-", input=manifest)
    assert world.get(kind, "disk")["metadata"]["labels"] == {"team": "disks"}
    kubectl("delete", kind, "disk", "--dry-run=server")
    assert world.get(kind, "disk") is not None
    kubectl("delete", kind, "disk", "--wait")
    done = kubectl("get", kind, "disk", check=False)
    assert done.returncode == 1 and "NotFound" in done.stderr and '"disk" not found' in done.stderr
    kubectl("delete", kind, "disk", "--ignore-not-found")


def test_a_name_is_made_when_only_its_beginning_is_given(world, kubectl):
    manifest = virtual_image("x", from_user())
    manifest["metadata"] = {"generateName": "disk-"}
    made = kubectl.json("create", "-f", "-", input=manifest)
    assert re.fullmatch(r"disk-[a-z0-9]{5}", made["metadata"]["name"])
    world.wait_phase("vi", made["metadata"]["name"], "WaitForUserUpload")


def test_the_longest_name_has_an_image(world, kubectl, web, images, pulled, kind):
    name = "-".join(["n" * 62] * 4) + "n"
    assert len(name) == 252
    image = world.ready(virtual_image(name, from_web(web.add("/disk", images.image("qcow2").read_bytes())), kind))
    assert pulled(image) == images.image("qcow2").read_bytes()
    world.delete(kind, name)
    assert world.tags() == set()
