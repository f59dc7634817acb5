"""VirtualImage resources in a real Kubernetes API: `dvcr controller`, and Jobs that are run for real.

What the resources are and say is in `test_virtual_images.py`; here is what a cluster adds.
"""

import pytest

from cluster import NAMESPACE, Controller, InCluster
from dvcr import ROOT
from virtual_images import (
    SlowWeb,
    condition_of,
    curl,
    from_object,
    from_user,
    from_web,
    upload_url,
    virtual_image,
)
from wire import Client, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def world(cluster, start, tmp_path):
    server = start("filesystem", DVCR_EMBEDDED_API="false", DVCR_UPLOAD_KEY=cluster.key)
    world = InCluster(cluster, server, tmp_path, {"DVCR_PRESENCE_INTERVAL": "1"})
    try:
        yield world.start()
    finally:
        world.stop()


def left(world):
    """What the work on images has left in the cluster."""
    found = world.kubectl.json("get", "jobs,pods,secrets,persistentvolumeclaims", "-A")["items"]
    names = {f"{item['kind']}/{item['metadata']['name']}" for item in found}
    return names - {"Secret/dvcr-upload-key", "PersistentVolumeClaim/dvcr-data"}


@pytest.fixture
def pulled(dvcr, tmp_path):
    def pulled(image):
        path = tmp_path / f"{image['metadata']['uid']}.disk"
        dvcr.pulls(image["status"]["target"]["registryURL"], path)
        return path.read_bytes()

    return pulled


@pytest.mark.parametrize("kind", ["vi", "cvi"])
def test_an_image_from_the_web_is_made_by_a_job_that_is_gone_then(world, web, images, pulled, kind):
    data = images.image("qcow2").read_bytes()
    image = world.ready(virtual_image("ubuntu-22.04", from_web(web.add("/disk", data)), kind))
    assert pulled(image) == data
    line = world.kubectl("get", kind, "ubuntu-22.04").stdout.splitlines()
    assert line[0].split() == ["NAME", "PHASE", "CDROM", "PROGRESS", "AGE"]
    assert line[1].split()[:4] == ["ubuntu-22.04", "Ready", "false", "100%"]
    eventually(lambda: left(world) == set())
    world.delete(kind, "ubuntu-22.04")
    assert world.tags() == set()


@pytest.mark.parametrize("storage_class", ["local", "block"])
def test_an_image_in_a_claim_is_raw(world, web, images, storage_class):
    source = from_web(web.add("/disk", images.image("qcow2").read_bytes()))
    claim = {"storageClassName": storage_class}
    image = world.ready(
        virtual_image("disk", source, storage="PersistentVolumeClaim", persistentVolumeClaim=claim)
    )
    name = image["status"]["target"]["persistentVolumeClaimName"]
    assert condition_of(image, "StorageClassReady")["status"] == "True"
    if storage_class == "local":
        assert world.volume("default", name).read_bytes() == images.disk().read_bytes()
    mode = world.kubectl.json("get", "pvc", name)["spec"]["volumeMode"]
    assert mode == {"local": "Filesystem", "block": "Block"}[storage_class]
    eventually(lambda: world.tags() == set())
    world.delete("vi", "disk")
    eventually(lambda: left(world) == set())


def test_a_storage_class_that_is_not_there_is_waited_for(world, web, images):
    claim = {"storageClassName": "missing"}
    source = from_web(web.add("/disk", images.image("qcow2").read_bytes()))
    world.apply(virtual_image("disk", source, storage="PersistentVolumeClaim", persistentVolumeClaim=claim))
    said = world.wait_condition("vi", "disk", "StorageClassReady", "StorageClassNotFound")
    assert "missing" in said["message"]
    world.wait_phase("vi", "disk", "Pending")


def test_an_image_of_a_disk_is_read_from_its_claim(world, images, pulled):
    world.apply(virtual_image("linux-vm-root", from_object("VirtualDisk", "linux-vm-root")))
    world.wait_condition("vi", "linux-vm-root", "DatasourceReady", "VirtualDiskNotReady")
    world.put_disk("default", "linux-vm-root", images.disk())
    assert pulled(world.wait_phase("vi", "linux-vm-root", "Ready")) == images.disk().read_bytes()


def test_an_uploaded_image_is_made_and_one_of_it_moves_no_bytes(world, images, pulled):
    made = world.waiting_for_upload(virtual_image("some-image", from_user(), "cvi"))
    assert curl("-T", images.image("qcow2"), upload_url(made)).status == 201
    image = world.wait_phase("cvi", "some-image", "Ready")
    assert pulled(image) == images.image("qcow2").read_bytes()
    copy = world.ready(virtual_image("copy", from_object("ClusterVirtualImage", "some-image")))
    assert copy["status"]["sourceUID"] == image["metadata"]["uid"]
    assert pulled(copy) == images.image("qcow2").read_bytes()


def test_a_source_that_is_refused_is_final_and_the_job_says_why(world, web, images):
    source = from_web(web.add("/disk", images.image("qcow2").read_bytes()), checksum={"md5": "0" * 32})
    world.apply(virtual_image("disk", source))
    said = condition_of(world.wait_phase("vi", "disk", "Failed"), "Ready")
    assert said["reason"] == "ProvisioningFailedTerminally"
    assert "checksum" in said["message"] and "0" * 32 in said["message"]
    assert world.tags() == set()
    world.delete("vi", "disk")
    eventually(lambda: left(world) == set())


def test_an_image_that_is_lost_is_made_again(world, web, images, pulled):
    data = images.image("qcow2").read_bytes()
    image = world.ready(virtual_image("disk", from_web(web.add("/disk", data))))
    repository, _, tag = image["status"]["target"]["registryURL"].partition("/")[2].rpartition(":")
    with world.watch() as watch:
        assert Client(world.server.host).delete(f"/v2/{repository}/manifests/{tag}").status == 202
        watch.until("disk", lambda image: image["status"]["phase"] == "ImageLost")
        assert pulled(world.wait_phase("vi", "disk", "Ready")) == data


def test_nothing_is_lost_or_doubled_when_everything_is_killed(world, opened, images, cluster, pulled):
    """The job, the controller, the registry and the API server, each in the middle of an import."""
    slow = opened(SlowWeb(speed=2 << 20))
    data = images.disk().read_bytes()
    world.apply(virtual_image("disk", from_web(slow.add("/disk", data))))
    uid = world.wait_phase("vi", "disk", "Provisioning")["metadata"]["uid"]
    job = f"dvcr-import-{uid}"
    eventually(lambda: slow.readers("/disk") == 1, seconds=20)
    world.runner.crash(job, NAMESPACE)
    eventually(lambda: slow.readers("/disk") == 1, seconds=20)
    world.crash()
    cluster.kubernetes.restart_api()
    slow.speed = None
    assert pulled(world.wait_phase("vi", "disk", "Ready", timeout=90)) == data
    assert world.tags() == {f"vi/default/disk:{uid}"}
    eventually(lambda: left(world) == set(), seconds=20)


@pytest.mark.parametrize("is_told", [True, False])
def test_another_replica_goes_on_when_the_one_that_works_stops_or_dies(world, opened, images, pulled, is_told, tmp_path):
    other = Controller(world.cluster, world.server.host, tmp_path / "other.log", {}).start()
    try:
        slow = opened(SlowWeb(speed=2 << 20))
        data = images.disk().read_bytes()
        world.apply(virtual_image("disk", from_web(slow.add("/disk", data))))
        eventually(lambda: slow.readers("/disk") == 1, seconds=20)
        assert not other.works()
        if is_told:
            assert world.controller.stop() == 0
        else:
            world.controller.kill()
        # One that has died is waited for until its Lease has run out.
        eventually(other.works, seconds=10 if is_told else 40)
        slow.speed = None
        assert pulled(world.wait_phase("vi", "disk", "Ready")) == data
        world.delete("vi", "disk")
    finally:
        other.kill()


def test_an_image_that_is_deleted_while_it_is_made_ends_its_job(world, opened, images):
    slow = opened(SlowWeb())
    world.apply(virtual_image("disk", from_web(slow.add("/disk", images.disk().read_bytes()))))
    eventually(lambda: slow.readers("/disk") == 1, seconds=20)
    world.delete("vi", "disk", "--timeout=30s")
    eventually(lambda: slow.readers("/disk") == 0)
    assert left(world) == set() and world.tags() == set()


def test_an_image_that_a_machine_uses_is_not_deleted(world, web, images):
    world.ready(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes()))))
    machine = {
        "apiVersion": "virtualization.deckhouse.io/v1alpha2",
        "kind": "VirtualMachine",
        "metadata": {"name": "linux-vm", "namespace": "default"},
        "spec": {"blockDeviceRefs": [{"kind": "VirtualImage", "name": "disk"}]},
    }
    world.apply(machine)
    world.kubectl("delete", "vi", "disk", "--wait=false")
    image = world.wait_phase("vi", "disk", "Terminating")
    image = world.wait("vi", "disk", lambda image: condition_of(image, "InUse").get("status") == "True")
    assert "VirtualMachine default/linux-vm" in condition_of(image, "InUse")["message"]
    assert len(world.tags()) == 1
    world.kubectl("delete", "virtualmachine", "linux-vm")
    world.kubectl("wait", "--for=delete", "vi/disk", "--timeout=30s")
    assert world.tags() == set()


def test_the_rules_are_those_of_the_embedded_api(world, web, images):
    error = world.refuses(virtual_image("bad", {"type": "HTTP"}))
    assert "HTTP requires http and cannot have ContainerImage, ObjectRef or Upload." in error
    error = world.refuses(virtual_image("bad", from_object("VirtualImage", "a"), "cvi"))
    assert "The namespace is required for VirtualDisk, VirtualImage and VirtualDiskSnapshot" in error
    url = web.add("/disk", images.image("qcow2").read_bytes())
    world.ready(virtual_image("disk", from_web(url)))
    error = world.refuses(virtual_image("disk", from_web(url), storage="PersistentVolumeClaim"))
    assert "cannot be changed" in error
    explained = world.kubectl("explain", "virtualimage.spec.dataSource").stdout
    assert "objectRef" in explained and "Where an image comes from" in explained


@pytest.mark.parametrize("installation", ["filesystem", "s3", "ingress"])
def test_each_installation_is_one_that_the_api_accepts(cluster, installation):
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", ROOT / "deploy/kubernetes" / installation)


def test_each_example_is_one_that_the_api_accepts(cluster):
    examples = sorted((ROOT / "deploy/examples").glob("*.yaml"))
    assert examples
    for example in examples:
        cluster.kubectl("apply", "--dry-run=server", "-f", example)
