"""VMDisk, from a manifest to the bytes that a machine gets: on `dvcr serve` alone, and on a real kube-apiserver with Jobs."""

import hashlib
import itertools
import os
import time

import pytest

from command import FAILED
from disk import write_disk
from images import MIB, FileSystem, convert, run
from virtual_images import (
    APIS,
    KINDS,
    condition_of,
    curl,
    from_web,
    percent,
    phase_of,
    upload_url,
    virtual_image,
)
from wire import eventually

IMAGE = 8 * MIB
"""The virtual size of the images of these tests."""

FROM_THE_WEB = """
apiVersion: apps.cozystack.io/v1alpha1
kind: VMDisks
metadata:
  name: vm-disk-example
spec:
  source:
    http:
      url: "https://download.cirros-cloud.net/0.6.2/cirros-0.6.2-x86_64-disk.img"
  optical: false
  storage: 10Gi
  storageClass: "replicated"
"""

OVERVIEW = """
apiVersion: apps.cozystack.io/v1alpha1
kind: VMDisk
metadata:
  name: disk-example
spec:
  source:
    http:
      url: https://cloud-images.ubuntu.com/noble/current/noble-server-cloudimg-amd64.img
  optical: false
  storage: 30Gi
  storageClass: replicated
"""

GOLDEN = """
apiVersion: apps.cozystack.io/v1alpha1
kind: VMDisk
metadata:
  name: ubuntu-system
spec:
  source:
    image:
      name: ubuntu-2404
  optical: false
  storage: 20Gi
  storageClass: replicated
"""

UBUNTU = "/cloud-images.ubuntu.com/noble/current"
"""Where the mirror has it."""


def vm_disk(name, source=None, storage=IMAGE, **spec):
    """The manifest of a disk."""
    spec = {"source": source or {}, "storage": str(storage), **spec}
    return {"apiVersion": APIS["vmdisk"], "kind": "VMDisk", "metadata": {"name": name}, "spec": spec}


def http(url, **more):
    return {"http": {"url": url, **more}}


def named(kind, name):
    return {kind: {"name": name}}


@pytest.fixture
def settings(web):
    return {"DVCR_PRESENCE_INTERVAL": "1", "DVCR_GOLDEN_MIRROR": web.url}


@pytest.fixture
def kubectl(world):
    return world.kubectl


@pytest.fixture
def raw(tmp_path):
    """Raw disks, each another one."""
    numbers = itertools.count()

    def raw(size=IMAGE):
        path = tmp_path / f"{next(numbers)}.raw"
        write_disk(path, 2, os.urandom(8))
        os.truncate(path, size)
        return path

    return raw


@pytest.fixture
def qcow2(raw, tmp_path):
    """A qcow2, and what a machine sees of it."""

    def qcow2(size=IMAGE):
        disk = raw(size)
        image = tmp_path / f"{disk.stem}.qcow2"
        convert(disk, image, "qcow2")
        return image.read_bytes(), disk.read_bytes()

    return qcow2


def content(world, disk):
    """The file in the claim of a disk."""
    there = disk["metadata"]
    return world.volume(there["namespace"], disk["status"]["target"]["persistentVolumeClaimName"])


def padded(data, size):
    return data + bytes(size - len(data))


def fetched(web, path):
    """How often a file was fetched whole."""
    return sum(seen.whole for seen in web.requests(path))


def shared(world):
    """The images that disks share."""
    items = world.kubectl.json("get", "vi", "-n", "dvcr")["items"]
    return [item for item in items if "dvcr.virtualization.deckhouse.io/shared" in item["metadata"].get("labels", {})]


def versions(world, name):
    """The versions of a golden image."""
    label = f"dvcr.virtualization.deckhouse.io/golden-image={name}"
    return world.kubectl.json("get", "cvi", "-l", label)["items"]


def sums(**files):
    """A list of checksums."""
    return "".join(f"{hashlib.sha256(data).hexdigest()} *{name}\n" for name, data in files.items()).encode()


def publish(web, data):
    """Has the publisher of Ubuntu publish an image."""
    name = "noble-server-cloudimg-amd64.img"
    web.add(f"{UBUNTU}/{name}", data, etag=f'"{hashlib.sha256(data).hexdigest()[:8]}"')
    web.add(f"{UBUNTU}/SHA256SUMS", sums(**{name: data}))
    return f"{UBUNTU}/{name}"


# The documentation.


@pytest.mark.parametrize("world_name", ["embedded"])
def test_the_documented_disk_of_a_kind_that_is_written_otherwise_is_made(world, kubectl, web, qcow2):
    data, disk = qcow2()
    url = web.add("/0.6.2/cirros-0.6.2-x86_64-disk.img", data)
    manifest = FROM_THE_WEB.replace("https://download.cirros-cloud.net", web.url)
    assert manifest != FROM_THE_WEB
    # As often as one likes: kubectl insists on getting the kind that it has sent.
    for said in ["created", "unchanged"]:
        assert said in kubectl("apply", "-f", "-", input=manifest).stdout
    made = world.wait_phase("vmdisk", "vm-disk-example", "Ready")
    assert made["kind"] == "VMDisk" and made["status"]["capacity"] == "10Gi"
    there = content(world, made)
    assert there.stat().st_size == 10 << 30 and there.stat().st_blocks * 512 < 64 * MIB
    with there.open("rb") as file:
        assert file.read(len(disk)) == disk
    grown = manifest.replace("10Gi", "11Gi")
    assert "configured" in kubectl("apply", "-f", "-", input=grown).stdout
    world.wait("vmdisk", "vm-disk-example", lambda disk: disk["status"]["capacity"] == "11Gi")
    assert fetched(web, "/0.6.2/cirros-0.6.2-x86_64-disk.img") == 1, url
    assert "deleted" in kubectl("delete", "-f", "-", input=grown).stdout
    assert world.get("vmdisk", "vm-disk-example") is None


def test_the_documented_disk_is_made(world, web, qcow2):
    data, disk = qcow2()
    web.add("/noble/current/noble-server-cloudimg-amd64.img", data)
    manifest = OVERVIEW.replace("https://cloud-images.ubuntu.com", web.url).replace("30Gi", "16Mi")
    made = world.ready(manifest)
    assert made["status"]["capacity"] == "16Mi"
    assert content(world, made).read_bytes() == padded(disk, 16 * MIB)


def test_the_documented_disk_of_a_golden_image_is_made(world, web, qcow2):
    data, disk = qcow2()
    path = publish(web, data)
    made = world.ready(GOLDEN.replace("20Gi", "4Gi"))
    with content(world, made).open("rb") as file:
        assert file.read(len(disk)) == disk
    [version] = versions(world, "ubuntu-2404")
    assert made["status"]["madeFrom"] == {"kind": "ClusterVirtualImage", "name": version["metadata"]["name"]}
    assert made["status"]["digest"] == version["status"]["digest"]
    assert fetched(web, path) == 1


# Sources.


def test_ten_disks_of_one_file_cause_one_download_and_the_last_one_frees_it(world, web, qcow2):
    data, disk = qcow2()
    url = web.add("/disk.img", data)
    names = [f"disk-{number}" for number in range(10)]
    world.apply({"apiVersion": "v1", "kind": "List", "items": [vm_disk(name, http(url)) for name in names]})
    made = [world.wait_phase("vmdisk", name, "Ready") for name in names]
    assert all(content(world, one).read_bytes() == disk for one in made)
    assert fetched(web, "/disk.img") == 1
    [image] = shared(world)
    from_image = {"kind": "VirtualImage", "namespace": "dvcr", "name": image["metadata"]["name"]}
    assert all(one["status"]["madeFrom"] == from_image for one in made)
    assert {one["status"]["digest"] for one in made} == {image["status"]["digest"]}
    for name in names[1:]:
        world.delete("vmdisk", name)
    assert len(shared(world)) == 1
    world.delete("vmdisk", names[0])
    eventually(lambda: shared(world) == [])
    eventually(lambda: world.tags() == set())


def test_a_file_that_has_changed_is_another_image(world, web, qcow2):
    (data, disk), (other, another) = qcow2(), qcow2()
    url = web.add("/disk.img", data, etag='"1"')
    first = world.ready(vm_disk("first", http(url)))
    web.add("/disk.img", other, etag='"2"')
    second = world.ready(vm_disk("second", http(url)))
    assert content(world, first).read_bytes() == disk
    assert content(world, second).read_bytes() == another
    assert first["status"]["madeFrom"] != second["status"]["madeFrom"]


def test_a_checksum_says_that_a_file_is_the_same(world, web, qcow2):
    data, disk = qcow2()
    checksum = {"sha256": hashlib.sha256(data).hexdigest()}
    url = web.add("/disk.img", data, etag=None, modified=None)
    for name in ["first", "second"]:
        made = world.ready(vm_disk(name, http(url, checksum=checksum)))
        assert content(world, made).read_bytes() == disk
    assert fetched(web, "/disk.img") == 1
    # One that nobody can tell from another one is fetched for each.
    world.ready(vm_disk("third", http(url)))
    world.ready(vm_disk("fourth", http(url)))
    assert fetched(web, "/disk.img") == 3


@pytest.mark.parametrize("kind", ["vi", "cvi"])
def test_a_disk_is_made_of_an_image(world, web, qcow2, kind):
    data, disk = qcow2()
    image = world.ready(virtual_image("ubuntu", from_web(web.add("/disk", data)), kind))
    source = named({"vi": "virtualImage", "cvi": "clusterVirtualImage"}[kind], "ubuntu")
    made = world.ready(vm_disk("disk", source, 2 * IMAGE))
    assert content(world, made).read_bytes() == padded(disk, 2 * IMAGE)
    assert made["status"]["digest"] == image["status"]["digest"]
    assert made["status"]["madeFrom"]["kind"] == KINDS[kind]
    # The disk has all it needs, and nobody else the disk.
    world.delete(kind, "ubuntu")
    assert phase_of(world.get("vmdisk", "disk")) == "Ready"


def test_a_disk_waits_for_its_image(world, web, qcow2):
    data, disk = qcow2()
    world.apply(vm_disk("disk", named("virtualImage", "ubuntu")))
    said = world.wait_condition("vmdisk", "disk", "DatasourceReady", "ImageNotReady")
    assert said["message"] == "VirtualImage ubuntu does not exist"
    world.ready(virtual_image("ubuntu", from_web(web.add("/disk", data))))
    made = world.wait_phase("vmdisk", "disk", "Ready")
    assert content(world, made).read_bytes() == disk


def test_a_disk_is_uploaded(world, raw):
    disk = raw()
    waiting = world.waiting_for_upload(vm_disk("disk", {"upload": {}}, 2 * IMAGE))
    curl("-T", disk, upload_url(waiting))
    made = world.wait_phase("vmdisk", "disk", "Ready")
    assert content(world, made).read_bytes() == padded(disk.read_bytes(), 2 * IMAGE)
    # It is in the claim, and nowhere else.
    eventually(lambda: world.tags() == set())


def test_a_disk_is_a_copy_of_another_one(world, web, qcow2):
    data, disk = qcow2()
    first = world.ready(vm_disk("first", http(web.add("/disk", data))))
    with content(world, first).open("r+b") as file:
        file.write(b"written by a machine")
    changed = content(world, first).read_bytes()
    second = world.ready(vm_disk("second", named("disk", "first"), 2 * IMAGE))
    assert content(world, second).read_bytes() == padded(changed, 2 * IMAGE)
    world.apply(vm_disk("third", named("disk", "second"), IMAGE))
    said = world.wait_condition("vmdisk", "third", "Ready", "DiskTooSmall")
    assert "8Mi" in said["message"] and "16Mi" in said["message"]
    assert world.delete("vmdisk", "first")
    assert content(world, second).read_bytes() == padded(changed, 2 * IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize("world_name", ["embedded"])
def test_a_copy_shares_its_blocks_where_the_file_system_can(start_world, web, qcow2, tmp_path):
    with FileSystem(tmp_path, "mkfs.xfs", "-q", "-m", "reflink=1") as place:
        world = start_world(DVCR_STATE=str(place))
        data, disk = qcow2()
        world.ready(vm_disk("first", http(web.add("/disk", data))))
        second = world.ready(vm_disk("second", named("disk", "first"), storage=2 * IMAGE))
        copy = place / "volumes/default" / second["status"]["target"]["persistentVolumeClaimName"] / "disk.img"
        assert copy.read_bytes() == padded(disk, 2 * IMAGE)
        extents = run("filefrag", "-v", copy).decode().splitlines()
        extents = [line for line in extents if line.split(":")[0].strip().isdigit()]
        assert extents and all("shared" in line for line in extents), extents
        world.server.stop()


def test_a_disk_that_was_uploaded_is_made_of_a_file_instead_when_its_user_wants_that(world, web, qcow2):
    data, disk = qcow2()
    world.waiting_for_upload(vm_disk("disk", {"upload": {}}))
    made = world.ready(vm_disk("disk", {"upload": None} | http(web.add("/disk", data))))
    assert content(world, made).read_bytes() == disk
    assert "imageUploadURLs" not in made["status"]


def test_an_upload_that_is_larger_than_its_disk_is_kept_for_a_larger_one(world, kubectl, raw):
    disk = raw()
    waiting = world.waiting_for_upload(vm_disk("disk", {"upload": {}}, IMAGE // 2))
    curl("-T", disk, upload_url(waiting))
    world.wait_condition("vmdisk", "disk", "Ready", "DiskTooSmall")
    kubectl("patch", "vmdisk", "disk", "--type=merge", "-p", '{"spec": {"storage": "8Mi"}}')
    made = world.wait("vmdisk", "disk", lambda disk: phase_of(disk) == "Ready", fails=True)
    assert content(world, made).read_bytes() == disk.read_bytes()
    eventually(lambda: world.tags() == set())


def test_what_was_too_large_for_a_disk_is_not_what_another_source_makes_of_it(world, web, qcow2, raw):
    data, disk = qcow2()
    world.ready(virtual_image("ubuntu", from_web(web.add("/disk", data)), storage="PersistentVolumeClaim"))
    waiting = world.waiting_for_upload(vm_disk("disk", {"upload": {}}, IMAGE // 2))
    curl("-T", raw(), upload_url(waiting))
    world.wait_condition("vmdisk", "disk", "Ready", "DiskTooSmall")
    world.apply(vm_disk("disk", {"upload": None} | named("virtualImage", "ubuntu")))
    made = world.wait("vmdisk", "disk", lambda disk: phase_of(disk) == "Ready", fails=True)
    assert content(world, made).read_bytes() == disk
    eventually(lambda: world.tags() == set())


def test_a_copy_of_an_empty_disk_is_empty(world):
    world.ready(vm_disk("first"))
    second = world.ready(vm_disk("second", named("disk", "first"), 2 * IMAGE))
    assert content(world, second).read_bytes() == bytes(2 * IMAGE)


def test_a_disk_without_a_source_is_empty(world):
    manifest = vm_disk("disk")
    del manifest["spec"]
    world.apply(manifest | {"spec": {"source": {}}})
    made = world.wait_phase("vmdisk", "disk", "Ready")
    assert made["spec"] == {"source": {}, "optical": False, "storage": "5Gi", "storageClass": "replicated"}
    assert made["status"]["capacity"] == "5Gi"
    if (file := content(world, made)).exists():
        assert file.stat().st_size == 5 << 30 and file.stat().st_blocks == 0
    world.delete("vmdisk", "disk")
    eventually(lambda: not content(world, made).exists())


# What is refused.


def test_two_sources_are_one_too_many(world):
    error = world.refuses(vm_disk("disk", http("http://x.example/y") | named("disk", "z")))
    assert "Exactly one type of source is expected" in error


@pytest.mark.parametrize("storage", ["much", "-5Gi", "5GiB", "", -5, 1.5])
def test_a_size_that_is_none_is_refused(world, storage):
    manifest = vm_disk("disk")
    manifest["spec"]["storage"] = storage
    assert "spec.storage" in world.refuses(manifest)


def test_a_disk_that_is_too_small_for_its_image_is_refused_with_both_sizes(world, kubectl, web, qcow2):
    data, disk = qcow2()
    url = web.add("/disk", data)
    world.apply(vm_disk("disk", http(url), 5 * MIB))
    said = world.wait_condition("vmdisk", "disk", "Ready", "DiskTooSmall")
    assert said["message"] == (
        "The disk is to have 5Mi, and the virtual size of its image is 8Mi. Set spec.storage to 8Mi or more."
    )
    assert phase_of(world.get("vmdisk", "disk")) == "Failed"
    kubectl("patch", "vmdisk", "disk", "--type=merge", "-p", '{"spec": {"storage": "9Mi"}}')
    # It has failed until it is seen again.
    made = world.wait("vmdisk", "disk", lambda disk: phase_of(disk) == "Ready", fails=True)
    assert content(world, made).read_bytes() == padded(disk, 9 * MIB)
    assert fetched(web, "/disk") == 1


def test_a_disk_grows_and_never_shrinks(world, kubectl, web, qcow2):
    data, disk = qcow2()
    made = world.ready(vm_disk("disk", http(web.add("/disk", data))))

    def resize(size, check=True):
        change = f'{{"spec": {{"storage": "{size}"}}}}'
        return kubectl("patch", "vmdisk", "disk", "--type=merge", "-p", change, check=check)

    resize("16Mi")
    world.wait("vmdisk", "disk", lambda disk: disk["status"].get("capacity") == "16Mi")
    if not world.others:
        # In a cluster it is the machine that makes the file in the claim larger.
        assert content(world, made).read_bytes() == padded(disk, 16 * MIB)
    assert "DiskResized" in world.events("disk")
    refused = resize("15Mi", check=False)
    assert refused.returncode != 0 and "A disk cannot be made smaller" in refused.stderr
    assert world.get("vmdisk", "disk")["spec"]["storage"] == "16Mi"


def test_what_a_disk_is_made_of_cannot_be_changed_afterwards(world, kubectl, web, qcow2):
    data, _ = qcow2()
    world.ready(vm_disk("disk", http(web.add("/disk", data))))
    for change, said in [
        ('{"spec": {"source": {"http": {"url": "http://x.example/y"}}}}', "The source cannot be changed once"),
        ('{"spec": {"storageClass": "local"}}', "The storage class cannot be changed"),
    ]:
        refused = kubectl("patch", "vmdisk", "disk", "--type=merge", "-p", change, check=False)
        assert refused.returncode != 0 and said in refused.stderr


def test_a_source_that_is_mended_makes_the_disk_and_leaves_nothing_of_the_other(world, web, qcow2):
    data, disk = qcow2()
    world.apply(vm_disk("disk", http(f"{web.url}/nothing")))
    said = world.wait_condition("vmdisk", "disk", "DatasourceReady", "SourceUnreachable")
    assert "404" in said["message"]
    other = web.add("/other", data, hold=len(data) // 2)
    world.apply(vm_disk("disk", http(other)))
    assert web.resources["/other"].held.wait(60)
    made = world.ready(vm_disk("disk", http(web.add("/disk", data))))
    assert content(world, made).read_bytes() == disk
    [image] = eventually(lambda: len(found := shared(world)) == 1 and found)
    assert image["metadata"]["name"] == made["status"]["madeFrom"]["name"]


def test_what_is_no_disk_fails_with_the_reason_of_the_import(world, kubectl, raw, tmp_path, web):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw(), tmp_path / "overlay.qcow2")
    url = web.add("/overlay", (tmp_path / "overlay.qcow2").read_bytes())
    world.apply(vm_disk("disk", http(url)))
    failed = world.wait_phase("vmdisk", "disk", "Failed")
    message = condition_of(failed, "Ready")["message"]
    assert "backing file" in message and message.endswith("Correct spec.source, or recreate the VMDisk.")
    world.delete("vmdisk", "disk")
    eventually(lambda: shared(world) == [])


# How it goes.


def test_the_columns_of_a_disk(world, kubectl, web, qcow2):
    data, _ = qcow2()
    world.ready(vm_disk("disk", http(web.add("/disk", data))))
    head, line = kubectl("get", "vmdisk", "disk").stdout.splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "CAPACITY", "CLASS", "AGE"]
    assert line.split()[:5] == ["disk", "Ready", "100%", "8Mi", "replicated"]
    assert kubectl("get", "vmdisks.apps.cozystack.io", "-o", "name").stdout.strip() == "vmdisk.apps.cozystack.io/disk"
    explained = kubectl("explain", "vmdisk.spec.source").stdout
    assert all(f"{source}\t" in explained for source in ["http", "image", "upload", "disk", "virtualImage"])


def test_the_progress_of_a_disk_is_that_of_its_image_first(world, web, qcow2):
    data, _ = qcow2()
    url = web.add("/disk", data, hold=len(data) // 2)
    world.apply(vm_disk("disk", http(url)))
    seen = world.wait("vmdisk", "disk", lambda disk: (percent(disk) or 0) > 0)
    assert phase_of(seen) == "Provisioning" and percent(seen) < 50
    web.resources["/disk"].go.set()
    world.wait_phase("vmdisk", "disk", "Ready")


def test_a_disk_that_is_lost_stays_so(world, web, qcow2):
    data, _ = qcow2()
    made = world.ready(vm_disk("disk", http(web.add("/disk", data))))
    world.lose_claim("default", made["status"]["target"]["persistentVolumeClaimName"])
    lost = world.wait_phase("vmdisk", "disk", "PVCLost")
    assert "What was on it is lost" in condition_of(lost, "Ready")["message"]
    time.sleep(3)
    assert phase_of(world.get("vmdisk", "disk")) == "PVCLost" and not content(world, made).exists()


def test_disks_and_their_images_outlive_the_server(world, web, qcow2):
    data, disk = qcow2()
    url = web.add("/disk", data, hold=len(data) // 2)
    world.apply(vm_disk("disk", http(url)))
    web.resources["/disk"].held.wait(60)
    web.resources["/disk"].passing = 99
    world.crash()
    web.resources["/disk"].go.set()
    made = world.wait_phase("vmdisk", "disk", "Ready")
    assert content(world, made).read_bytes() == disk
    world.delete("vmdisk", "disk")
    eventually(lambda: shared(world) == [])


# A cluster.


@pytest.mark.parametrize("world_name", ["cluster"])
def test_a_claim_of_somebody_else_is_neither_written_nor_removed(world, kubectl, web, qcow2):
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "vm-disk-disk", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    world.kubectl("apply", "-f", "-", input=claim)
    data, _ = qcow2()
    world.apply(vm_disk("disk", http(web.add("/disk", data))))
    failed = world.wait_phase("vmdisk", "disk", "Failed")
    assert "default/vm-disk-disk is there and is not of this VMDisk" in condition_of(failed, "Ready")["message"]
    world.delete("vmdisk", "disk")
    assert kubectl("get", "pvc", "vm-disk-disk").returncode == 0


@pytest.mark.parametrize("world_name", ["cluster"])
def test_a_disk_grows_only_where_its_class_lets_it(world, kubectl, web, qcow2):
    data, _ = qcow2()
    world.ready(vm_disk("disk", http(web.add("/disk", data)), storageClass="local"))
    kubectl("patch", "vmdisk", "disk", "--type=merge", "-p", '{"spec": {"storage": "1Gi"}}')
    said = world.wait_condition("vmdisk", "disk", "Resizing", "ResizeFailed")
    assert "cannot grow to 1Gi" in said["message"]
    assert phase_of(world.get("vmdisk", "disk")) == "Ready"


@pytest.mark.parametrize("world_name", ["cluster"])
@pytest.mark.parametrize("classes", [("block", "replicated"), ("replicated", "block")])
def test_a_disk_of_another_class_is_copied_between_files_and_devices(world, web, qcow2, classes):
    data, disk = qcow2()
    world.ready(vm_disk("first", http(web.add("/disk", data)), storageClass=classes[0]))
    second = world.ready(vm_disk("second", named("disk", "first"), storageClass=classes[1]))
    place = content(world, second)
    place = place if classes[1] == "replicated" else place.parent
    with place.open("rb") as file:
        assert file.read(len(disk)) == disk


# Golden images.


@pytest.fixture
def golden(world, dvcr):
    """`dvcr golden`, for the API of the world."""

    def golden(action, *words, **options):
        return dvcr.run("golden", action, "--server", f"http://{world.server.host}", *words, **options)

    return golden


def test_a_wrong_name_is_answered_with_the_one_that_was_meant(world):
    world.apply(vm_disk("disk", named("image", "ubuntu-24.04"), "4Gi"))
    said = world.wait_condition("vmdisk", "disk", "DatasourceReady", "GoldenImageNotFound")
    assert said["message"] == (
        "there is no golden image ubuntu-24.04; did you mean ubuntu-2404? `dvcr golden list` has all names"
    )


def test_a_disk_below_the_minimum_of_its_image_is_refused_before_anything_is_fetched(world, web, qcow2):
    data, _ = qcow2()
    publish(web, data)
    world.apply(vm_disk("disk", named("image", "ubuntu-2404"), "3Gi"))
    said = world.wait_condition("vmdisk", "disk", "Ready", "DiskTooSmall")
    assert said["message"] == (
        "The disk is to have 3Gi, and golden image ubuntu-2404 takes at least 4Gi. Set spec.storage to 4Gi or more."
    )
    assert versions(world, "ubuntu-2404") == [] and web.requests(method=None) == []


def test_disks_of_a_golden_image_cause_one_download(world, web, qcow2):
    data, disk = qcow2()
    path = publish(web, data)
    for number in range(3):
        made = world.ready(vm_disk(f"disk-{number}", named("image", "ubuntu-2404"), "4Gi"))
        with content(world, made).open("rb") as file:
            assert file.read(len(disk)) == disk
    assert fetched(web, path) == 1
    # It is there for the next one.
    for number in range(3):
        world.delete("vmdisk", f"disk-{number}")
    assert len(versions(world, "ubuntu-2404")) == 1


@pytest.mark.parametrize("world_name", ["embedded"])
def test_golden_images_are_listed_preloaded_refreshed_and_added(world, golden, web, qcow2, tmp_path):
    listed = golden("list").out.decode().splitlines()
    assert listed[0].split()[:1] == ["NAME"] and len(listed) == 24
    builds = [qcow2() for _ in range(5)]
    publish(web, builds[0][0])
    # The server has a mirror, and so has to have the command.
    mirror = ["--golden-mirror", web.url, "--golden-keep", "3"]
    assert "new" in golden("preload", *mirror, "--wait", "ubuntu-2404").out.decode()
    assert "as it was" in golden("refresh", *mirror).out.decode()
    for data, _ in builds[1:]:
        publish(web, data)
        assert "new" in golden("refresh", *mirror, "--wait", "ubuntu-2404").out.decode()
    eventually(lambda: len(versions(world, "ubuntu-2404")) == 3)
    made = world.ready(vm_disk("disk", named("image", "ubuntu-2404"), "4Gi"))
    with content(world, made).open("rb") as file:
        assert file.read(IMAGE) == builds[-1][1]
    data, disk = qcow2()
    web.add("/mine.img", data)
    golden("add", "mine-1", "--url", f"{web.url}/mine.img", "--minimum-storage", "8Mi", "--os", "Mine", "--wait")
    made = world.ready(vm_disk("mine", named("image", "mine-1")))
    assert content(world, made).read_bytes() == disk
    state = {image["name"]: image for image in golden("list", "--output", "json").json()}
    assert [version["phase"] for version in state["mine-1"]["versions"]] == ["Ready"]
    assert state["mine-1"]["os"] == "Mine" and len(state) == 24
    assert state["debian-13"]["versions"] == []


@pytest.mark.parametrize("world_name", ["embedded"])
def test_a_checksum_that_is_wrong_fails_the_version_and_not_the_one_before(world, golden, web, qcow2):
    (data, disk), (other, _) = qcow2(), qcow2()
    path = publish(web, data)
    golden("preload", "--golden-mirror", web.url, "--wait", "ubuntu-2404")
    web.add(path, data + b"damaged", etag='"9"')
    web.add(f"{UBUNTU}/SHA256SUMS", sums(**{"noble-server-cloudimg-amd64.img": other}))
    done = golden("refresh", "--golden-mirror", web.url, "--wait", code=FAILED)
    assert "sha256" in done.error()
    made = world.ready(vm_disk("disk", named("image", "ubuntu-2404"), "4Gi"))
    with content(world, made).open("rb") as file:
        assert file.read(IMAGE) == disk


@pytest.mark.parametrize("world_name", ["embedded"])
def test_new_builds_are_fetched_by_themselves(start_world, web, qcow2):
    world = start_world(DVCR_GOLDEN_MIRROR=web.url, DVCR_GOLDEN_INTERVAL="1")
    publish(web, qcow2()[0])
    world.ready(vm_disk("disk", named("image", "ubuntu-2404"), "4Gi"))
    publish(web, qcow2()[0])
    eventually(lambda: [phase_of(version) for version in versions(world, "ubuntu-2404")] == ["Ready", "Ready"], seconds=30)
