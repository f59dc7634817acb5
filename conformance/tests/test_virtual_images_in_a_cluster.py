"""VirtualImage resources in a real Kubernetes API: `dvcr controller`, and Jobs that are run for real.

What the resources are and say is in `test_virtual_images.py`; here is what a cluster adds.
"""

import collections
import contextlib
import functools
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster import NAMESPACE, Controller
from command import kept
from dvcr import ROOT, free_port
from images import MIB
from job_runner import MERGE
from kubernetes import Follower, version
from layers import Image
from test_metrics import imports_are_counted, scraped
from virtual_images import (
    SlowWeb,
    bundle,
    condition_of,
    curl,
    from_object,
    from_user,
    from_web,
    phase_of,
    upload_url,
    virtual_image,
)
from wire import Client, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def world_name():
    return "cluster"


@pytest.fixture
def settings():
    return {"DVCR_PRESENCE_INTERVAL": "1"}


def left(world):
    """What the work on images has left in the cluster."""
    found = world.kubectl.json("get", "jobs,pods,secrets,persistentvolumeclaims", "-A")["items"]
    names = {f"{item['kind']}/{item['metadata']['name']}" for item in found}
    return names - {"Secret/dvcr-upload-key", "PersistentVolumeClaim/dvcr-data"}


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


# Many at once.


def create(world, manifest):
    """Creates a VirtualImage, and gives what the API made of it."""
    return world.api.json("POST", world.path("vi"), manifest)


def phases(world):
    """How many images are in each phase."""
    return collections.Counter(phase_of(item) for item in world.api.json("GET", world.path("vi"))["items"])


def all_ready(world, count, seconds):
    """Waits until so many images are there, and all of them are Ready."""
    deadline = time.monotonic() + seconds
    while (found := phases(world)) != {"Ready": count}:
        assert "Failed" not in found and time.monotonic() < deadline, found
        time.sleep(0.5)


def nothing_is_left(world):
    """That neither the registry nor the cluster has anything of images that are gone, but for blobs and manifests that no
    tag leads to, which nobody collects.
    """
    assert world.tags() == set()
    eventually(lambda: not [file for file in kept(world.server) if file.startswith("uploads/")], seconds=30)
    world.runner.collect()
    eventually(lambda: left(world) == set(), seconds=30)


def delete_all(world):
    """Deletes all images. The API server gives itself a minute for it, which is little where the machine has much else to do."""
    for _ in range(5):
        with contextlib.suppress(TimeoutError):
            status, answer = world.api.answer("DELETE", world.path("vi"))
            if status < 300:
                return
            assert status in (500, 504), answer
    raise AssertionError("the images cannot be deleted")


def test_500_images_at_once(start_world, opened, web):
    """10 of them are fetched and the others made of those, which takes no Job: each would be a process of this machine,
    and what hundreds of them cost says nothing about a cluster. There is room for 2 at a time, so that Pods wait too.
    """
    world = start_world(at_a_time=2)
    follower = opened(Follower(world.api, world.path("vi")).start())
    disks = [os.urandom(MIB) for _ in range(10)]
    sources = [from_web(web.add(f"/{number}", disk)) for number, disk in enumerate(disks)]
    sources += [from_object("VirtualImage", f"disk-{number % 10}") for number in range(10, 500)]
    manifests = [virtual_image(f"disk-{number}", source) for number, source in enumerate(sources)]
    with ThreadPoolExecutor(20) as threads:
        made = list(threads.map(functools.partial(create, world), manifests))
    all_ready(world, 500, seconds=240)
    assert world.tags() == {f"vi/default/{there['name']}:{there['uid']}" for there in (image["metadata"] for image in made)}
    for number in [0, 250, 499]:
        _, data = Image(world.server.host, f"vi/default/disk-{number}", made[number]["metadata"]["uid"]).file()
        assert data == disks[number % 10]
    # Nobody who watches has missed one of them.
    eventually(lambda: {phase_of(image) for image in follower.known().values()} == {"Ready"})
    assert len(follower.known()) == 500 and follower.lists == 1
    delete_all(world)
    eventually(lambda: follower.known() == {}, seconds=120)
    assert phases(world) == {}
    nothing_is_left(world)


def test_what_many_write_while_the_status_is_written_is_neither_lost_nor_in_the_way(world, opened):
    """Some patch, and some replace what they have read, as the controller does it."""
    slow = opened(SlowWeb(speed=MIB))
    disks = {f"disk-{number}": os.urandom(3 * MIB) for number in range(8)}
    for name, disk in disks.items():
        create(world, virtual_image(name, from_web(slow.add(f"/{name}", disk))))
    stopped, written = threading.Event(), {}

    def patch(name, field, key, value):
        change = {"metadata": {field: {key: value}}}
        world.api.json("PATCH", world.path("vi", name), change, MERGE)

    def replace(name, field, key, value):
        """Replaces an image; when another one was faster, it is read again."""
        while True:
            image = world.get("vi", name)
            image["metadata"].setdefault(field, {})[key] = value
            status, answer = world.api.answer("PUT", world.path("vi", name), image)
            if status == 200:
                return
            assert status == 409, answer

    def write(writer, how, field):
        for number in itertools.count():
            for name in disks:
                how(name, field, writer, str(number))
                written[name, field, writer] = str(number)
            if stopped.is_set():
                return

    writers = [(f"writer-{number}", [patch, replace][number % 2], ["labels", "annotations"][number // 2]) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        ends = [threads.submit(write, *writer) for writer in writers]
        try:
            all_ready(world, len(disks), seconds=120)
        finally:
            stopped.set()
        for end in ends:
            end.result()
    for name, disk in disks.items():
        image = world.wait_phase("vi", name, "Ready")
        for _, field, writer in [key for key in written if key[0] == name]:
            assert image["metadata"][field][writer] == written[name, field, writer]
        assert int(written[name, "labels", "writer-0"]) > 3
        assert image["metadata"]["generation"] == image["status"]["observedGeneration"] == 1
        _, data = Image(world.server.host, f"vi/default/{name}", image["metadata"]["uid"]).file()
        assert data == disk
    world.api.json("DELETE", world.path("vi"))
    eventually(lambda: phases(world) == {}, seconds=60)
    nothing_is_left(world)


def test_nobody_who_watches_misses_anything_when_the_api_is_started_again(world, opened, web, cluster, images):
    """Neither somebody from outside nor the controller: images of before, while and after it become Ready, or go."""
    follower = opened(Follower(world.api, world.path("vi")).start())
    url = web.add("/disk", images.image("qcow2").read_bytes())
    names = [f"disk-{number}" for number in range(6)]
    for turn in range(2):
        for name in names:
            create(world, virtual_image(f"{name}-{turn}", from_web(url)))
        world.wait_phase("vi", f"{names[0]}-{turn}", "Ready")
        if turn == 1:
            # What is told to go at the last moment goes.
            world.api.json("DELETE", world.path("vi", f"{names[0]}-0"))
        cluster.kubernetes.restart_api()
    create(world, virtual_image("last", from_web(url)))
    eventually(lambda: world.get("vi", f"{names[0]}-0") is None, seconds=30)
    all_ready(world, 2 * len(names), seconds=60)
    eventually(lambda: {phase_of(image) for image in follower.known().values()} == {"Ready"})
    listed = world.api.json("GET", world.path("vi"))["items"]
    assert follower.known().keys() == {item["metadata"]["name"] for item in listed}
    assert follower.watches >= 3
    # Each state of an image was told once, and in its order.
    for name in follower.known():
        versions = [int(version(item)) for _, item in follower.events if item["metadata"]["name"] == name]
        assert versions == sorted(set(versions))
    added = [item["metadata"]["name"] for kind, item in follower.events if kind == "ADDED"]
    assert sorted(added) == sorted([*(f"{name}-{turn}" for name in names for turn in range(2)), "last"])


# Replicas, and the work of an image.


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


def test_a_job_that_is_made_anew_has_a_secret_of_its_own(world, opened, images, authority, pulled):
    slow, data = opened(SlowWeb()), images.disk().read_bytes()
    # Authorities are in the secret.
    source = from_web(slow.add("/disk", data), caBundle=bundle(authority.certificate))
    world.apply(virtual_image("disk", source))
    made = lambda kind: world.kubectl.json("get", kind, "-n", NAMESPACE)["items"]  # noqa: E731

    def secret_of(job):
        mine = [one for one in made("secrets") if owner(one) == job["metadata"]["uid"]]
        return mine[0]["metadata"]["name"] if mine else None

    def owner(item):
        return item["metadata"].get("ownerReferences", [{}])[0].get("uid")

    eventually(lambda: slow.readers("/disk") == 1, seconds=20)
    [job] = made("jobs")
    first, name = secret_of(job), job["metadata"]["name"]
    # Whoever takes away what a Job owned may be slow.
    world.kubectl("delete", "job", name, "-n", NAMESPACE, "--wait=false")

    def again():
        jobs = [one for one in made("jobs") if one["metadata"]["uid"] != job["metadata"]["uid"]]
        return jobs and secret_of(jobs[0])

    second = eventually(again, seconds=30)
    assert second != first and first in {one["metadata"]["name"] for one in made("secrets")}
    slow.speed = None
    assert pulled(world.wait_phase("vi", "disk", "Ready")) == data
    eventually(lambda: not made("jobs"), seconds=20)
    world.runner.collect()
    assert left(world) == set()


def test_the_controller_tells_what_becomes_of_jobs(world, opened, images):
    host = f"127.0.0.1:{free_port()}"
    world.controller.stop()
    world.controller.environment["DVCR_METRICS_LISTEN"] = host
    world.controller.start()
    slow = opened(SlowWeb())

    def listens():
        with contextlib.suppress(OSError):
            return scraped(host)

    eventually(listens, seconds=30)
    imports_are_counted(world, host, slow, images.disk().read_bytes())
    # A pod that is killed cannot say why.
    slow.speed = 0
    world.apply(virtual_image("killed", from_web(slow.add("/killed", os.urandom(4 << 20)))))
    eventually(lambda: slow.readers("/killed") == 1, seconds=30)
    uid = world.get("vi", "killed")["metadata"]["uid"]
    world.runner.crash(f"dvcr-import-{uid}", NAMESPACE)
    killed = 'dvcr_imports_total{outcome="retried",reason="killed"}'
    eventually(lambda: scraped(host)[killed] == 1, seconds=30)


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
    world.kubectl("delete", "virtualmachines.virtualization.deckhouse.io", "linux-vm")
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


def test_jobs_run_the_image_that_the_pod_of_the_controller_runs(world, web, images):
    """Whoever installs it renames one image, and not another one in some variable."""
    world.controller.stop()
    world.runner.stop()
    deployment = world.kubectl.json("get", "deployment", "dvcr-controller", "-n", NAMESPACE)
    spec = deployment["spec"]["template"]["spec"]
    spec["containers"][0]["image"] = "registry.example.com/renamed:9"
    metadata = {"name": "dvcr-controller-0", "namespace": NAMESPACE}
    world.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    at = world.controller.command.index("--image")
    world.controller.command[at : at + 2] = ["--pod", "dvcr-controller-0"]
    world.let_go()
    world.controller.start()
    world.apply(virtual_image("disk", from_web(web.add("/disk", images.image("qcow2").read_bytes()))))

    def jobs():
        return world.kubectl.json("get", "jobs", "-n", NAMESPACE)["items"]

    eventually(jobs, seconds=20)
    assert jobs()[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example.com/renamed:9"


@pytest.mark.parametrize("installation", ["filesystem", "s3", "ingress"])
def test_each_installation_is_one_that_the_api_accepts(cluster, installation):
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", ROOT / "deploy/kubernetes" / installation)


def test_each_example_is_one_that_the_api_accepts(cluster):
    examples = sorted((ROOT / "deploy/examples").glob("*.yaml"))
    assert examples
    for example in examples:
        cluster.kubectl("apply", "--dry-run=server", "-f", example)
