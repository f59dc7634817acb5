"""VMInstance: on `dvcr serve`, whose machines `dvcr vm run` boots, and on a real kube-apiserver with the definitions of KubeVirt.

There is no KubeVirt behind those definitions. What it says of a machine, these tests say in its place.
"""

import base64
import json
import time

import pytest

from dvcr import ROOT
from images import MIB
from job_runner import MERGE
from virtual_images import APIS, condition_of, phase_of
from wire import eventually

OVERVIEW = """
apiVersion: apps.cozystack.io/v1alpha1
kind: VMInstance
metadata:
  name: example-vm
spec:
  # Detailed configuration below
"""

FULL = """
apiVersion: apps.cozystack.io/v1alpha1
kind: VMInstance
metadata:
  name: vm-example
spec:
  external: true
  externalMethod: PortList
  externalPorts:
    - 22
  running: true
  instanceType: u1.2xlarge
  instanceProfile: ubuntu
  disks:
    - vm-system-disk
  sshKeys:
    - ssh-rsa AAAA...
"""

PARTS = {
    "network": """
spec:
  external: true
  externalMethod: PortList
  externalPorts:
    - 22
    - 80
    - 443
""",
    "ssh": """
spec:
  sshKeys:
    - ssh-rsa AAAA... user@host
    - ssh-ed25519 AAAA... user2@host
""",
    "cloud-init": """
spec:
  cloudInit: |
    #cloud-config
    users:
      - name: admin
        sudo: ALL=(ALL) NOPASSWD:ALL
        ssh_authorized_keys:
          - ssh-rsa AAAA...

    packages:
      - htop
      - docker.io
      - curl
""",
}
"""What the documentation has of a VMInstance without its name."""

TYPES = {
    "s1": ["small", "medium", "large", "xlarge", "3large", "2xlarge", "3xlarge", "4xlarge", "8xlarge"],
    "u1": ["medium", "large", "xlarge", "2xlarge", "4xlarge", "8xlarge"],
    "m1": ["large", "xlarge", "2xlarge", "4xlarge", "8xlarge"],
}
"""The instance types of the documentation."""

SIZE = {"cpu": 2, "sockets": 1, "memory": "2Gi"}
"""A size in numbers."""

MADE = "vm-instance-machine"
"""What the objects of a VMInstance `machine` are called."""


def vm_instance(name="machine", **spec):
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": APIS["vminstance"], "kind": "VMInstance", "metadata": metadata, "spec": spec}


def vm_disk(name, **spec):
    spec = {"source": {}, "storage": str(8 * MIB), **spec}
    return {"apiVersion": APIS["vmdisk"], "kind": "VMDisk", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@pytest.fixture
def kubectl(world):
    return world.kubectl


@pytest.fixture
def ends(world, world_name):
    """A VMInstance at the end of its way: stopped on `dvcr serve`, and in a cluster whatever KubeVirt makes of it."""

    def ends(name="machine"):
        if world_name == "embedded":
            return world.wait_phase("vminstance", name, "Stopped")
        world.wait_phase("vminstance", name, "Provisioning")
        says(world, f"vm-instance-{name}", "Running")
        return world.wait_phase("vminstance", name, "Running")

    return ends


def says(world, name, state):
    """Has KubeVirt say of a machine what it does."""
    path = f"/apis/kubevirt.io/v1/namespaces/default/virtualmachines/{name}/status"
    status, body = world.api.answer("PATCH", path, {"status": {"printableStatus": state}}, MERGE)
    assert status == 200, body


def machine(world, name=MADE):
    return found(world, "vm", name)


def found(world, kind, name=MADE):
    """An object that a VMInstance has become; nothing when there is none."""
    return json.loads(world.kubectl("get", kind, name, "-o", "json", "--ignore-not-found").stdout or "null")


def domain(made):
    return made["spec"]["template"]["spec"]["domain"]


# The documentation.


def test_the_documented_overview_is_made(world, ends):
    world.apply(OVERVIEW)
    made = ends("example-vm")
    assert made["spec"]["instanceType"] == "u1.medium" and made["spec"]["disks"] == []


def test_the_documented_machine_is_made_when_its_disk_is_ready(world, world_name, ends):
    world.apply(FULL)
    waits = world.wait_condition("vminstance", "vm-example", "DisksReady", "DiskNotReady")
    assert waits["message"] == "there is no VMDisk default/vm-system-disk"
    assert phase_of(world.get("vminstance", "vm-example")) == "Pending"
    if world_name == "cluster":
        assert machine(world, "vm-instance-vm-example") is None
    world.ready(vm_disk("vm-system-disk"))
    made = ends("vm-example")
    assert condition_of(made, "DisksReady")["status"] == "True"
    if world_name == "cluster":
        vm = machine(world, made["status"]["virtualMachine"])
        assert vm["spec"]["instancetype"]["name"] == "u1.2xlarge" and vm["spec"]["runStrategy"] == "Always"
        [disk, seed] = domain(vm)["devices"]["disks"]
        assert disk == {"name": "disk-vm-system-disk", "disk": {}, "bootOrder": 1} and seed["name"] == "cloudinitdisk"
        ports = found(world, "service", "vm-instance-vm-example")["spec"]["ports"]
        assert [port["port"] for port in ports] == [22]


@pytest.mark.parametrize("part", PARTS)
def test_the_documented_parts_are_those_of_a_machine(world, ends, part):
    world.apply(f"apiVersion: {APIS['vminstance']}\nkind: VMInstance\nmetadata:\n  name: machine\n{PARTS[part].lstrip()}")
    ends()


def test_the_documented_instance_types_are_all_there(world, world_name, kubectl, dvcr):
    names = [f"{series}.{size}" for series, sizes in TYPES.items() for size in sizes]
    machines = [vm_instance(f"m{number}", instanceType=name) for number, name in enumerate(names)]
    world.apply({"apiVersion": "v1", "kind": "List", "items": machines})
    end = {"embedded": "Stopped", "cluster": "Provisioning"}[world_name]
    for number, _ in enumerate(names):
        world.wait_phase("vminstance", f"m{number}", end)
    sizes = dvcr.run("vm", "types", "-o", "json").json()
    assert [size["name"] for size in sizes] == names
    if world_name == "cluster":
        kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", ROOT / "deploy/instance-types.yaml")


# What is refused.


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"running": True, "runStrategy": "Always"}, "give one of them"),
        ({"external": True, "externalPorts": []}, "there are none"),
        ({"externalPorts": [70000]}, "externalPorts"),
        ({"externalMethod": "Nat"}, "externalMethod"),
        ({"disks": [{"bus": "virtio"}]}, "spec.disks[0].name"),
        ({"disks": [{"name": "x", "bus": "ide"}]}, "ide"),
        ({"disks": [""]}, "spec.disks[0]"),
        ({"resources": {"memory": "much"}}, "memory"),
    ],
)
def test_what_is_no_machine_is_refused_at_once(world, spec, said):
    assert said in world.refuses(vm_instance(**spec))


def test_what_no_machine_can_be_made_of_is_said_until_it_is_mended(world, ends):
    world.ready(vm_disk("disk"))
    world.apply(vm_instance(disks=["disk", "disk"]))
    failed = world.wait_phase("vminstance", "machine", "Failed")
    assert condition_of(failed, "Applied")["message"] == "spec.disks[1]: disk is there twice. Correct the spec."
    world.apply(vm_instance(disks=["disk"]))
    eventually(lambda: phase_of(world.get("vminstance", "machine")) != "Failed")
    ends()


# Its disks.


@pytest.mark.parametrize("disks", [["disk"], [{"name": "disk"}]])
def test_a_disk_that_a_machine_has_is_not_deleted(world, kubectl, ends, disks):
    world.ready(vm_disk("disk"))
    world.apply(vm_instance(disks=disks, running=False))
    ends()
    kubectl("delete", "vmdisk", "disk", "--wait=false")
    said = world.wait_condition("vmdisk", "disk", "Terminating", "CleanupPending")
    assert "VMInstance default/machine" in said["message"]
    kubectl("delete", "vminstance", "machine")
    eventually(lambda: world.get("vmdisk", "disk") is None)


def test_the_columns_of_a_machine(world, kubectl):
    world.apply(vm_instance(disks=["disk"], instanceType="s1.small"))
    world.wait_phase("vminstance", "machine", "Pending")
    [heads, row] = kubectl("get", "vminstances").stdout.splitlines()
    assert heads.split() == ["NAME", "PHASE", "TYPE", "PROFILE", "AGE"]
    assert row.split()[:4] == ["machine", "Pending", "s1.small", "ubuntu"]
    assert "there is no VMDisk default/disk" in kubectl("get", "vminstances", "-o", "wide").stdout


# In a cluster.


@pytest.mark.parametrize("world_name", ["cluster"])
@pytest.mark.parametrize("case", ["production", "smallest", "everything", "by-numbers"])
def test_kubevirt_knows_every_field_of_what_a_machine_becomes(kubectl, case):
    kubectl("create", "namespace", "a", check=False)
    objects = ROOT / f"src/tests/machines/{case}.objects.yaml"
    kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", objects)


@pytest.mark.parametrize("world_name", ["cluster"])
def test_a_machine_follows_its_spec(world, kubectl, ends):
    world.ready(vm_disk("disk", optical=True))
    keys = ["ssh-ed25519 AAAA a", "ssh-ed25519 AAAA b"]
    world.apply(vm_instance(disks=[{"name": "disk", "bus": "sata"}], sshKeys=keys, cloudInitSeed="1"))
    ends()
    first = machine(world)
    assert domain(first)["devices"]["disks"][0] == {"name": "disk-disk", "cdrom": {"bus": "sata"}, "bootOrder": 1}
    [volume, _] = first["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "vm-disk-disk"
    secret = found(world, "secret", f"{MADE}-ssh-keys")
    assert [base64.b64decode(secret["data"][f"key{number}"]).decode() for number in range(2)] == keys
    assert found(world, "service")["spec"]["clusterIP"] == "None"
    # KubeVirt remembers which revision of an instance type a machine has.
    kubectl("patch", "vm", MADE, "--type=merge", "-p", '{"spec": {"instancetype": {"revisionName": "old"}}}')
    other = vm_instance(disks=[{"name": "disk"}], external=True, instanceType="s1.large", runStrategy="Manual")
    world.apply(other)
    after = eventually(lambda: (vm := machine(world))["spec"]["runStrategy"] == "Manual" and vm)
    assert after["spec"]["instancetype"] == {"kind": "VirtualMachineClusterInstancetype", "name": "s1.large"}
    assert len(domain(after)["devices"]["disks"]) == 1
    # Nothing in it says that cloud-init is to begin anew.
    assert domain(after)["firmware"] == domain(first)["firmware"]
    assert found(world, "service")["spec"]["type"] == "LoadBalancer"
    assert "data" not in found(world, "secret", f"{MADE}-ssh-keys")
    world.apply({**other, "spec": {**other["spec"], "cloudInitSeed": "2"}})
    eventually(lambda: domain(machine(world))["firmware"] != domain(first)["firmware"])
    kubectl("patch", "vm", MADE, "--type=merge", "-p", '{"spec": {"instancetype": {"revisionName": "old"}}}')
    world.apply(vm_instance(resources=SIZE, disks=[]))
    sized = eventually(lambda: (vm := machine(world)) and "cpu" in domain(vm) and vm)
    assert "instancetype" not in sized["spec"]
    assert domain(sized)["cpu"] == {"cores": 2, "sockets": 1} and not domain(sized)["devices"].get("disks")


@pytest.mark.parametrize("world_name", ["cluster"])
def test_a_service_that_somebody_holds_is_waited_for(world, kubectl, ends):
    world.apply(vm_instance(external=True, externalPorts=[22]))
    ends()
    # As whoever makes load balancers does it until they are gone.
    kubectl("patch", "service", MADE, "--type=merge", "-p", '{"metadata": {"finalizers": ["example.com/cleanup"]}}')
    world.apply(vm_instance(external=True, externalPorts=[22, 443]))
    eventually(lambda: [port["port"] for port in found(world, "service")["spec"]["ports"]] == [22, 443])
    world.apply(vm_instance(external=False))
    said = world.wait_condition("vminstance", "machine", "Applied", "ServiceReplaced")
    assert f"Service default/{MADE} is being deleted" in said["message"]
    kubectl("patch", "service", MADE, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    eventually(lambda: (now := found(world, "service")) and now["spec"]["clusterIP"] == "None", seconds=30)


@pytest.mark.parametrize("world_name", ["cluster"])
def test_a_machine_that_runs_gets_no_disk_that_is_not_ready_and_all_else_of_its_spec(world, ends):
    world.ready(vm_disk("first"))
    world.apply(vm_instance(disks=["first"]))
    ends()
    world.apply(vm_disk("second", source={"upload": {}}))
    world.apply(vm_instance(disks=["first", "second"], runStrategy="Halted"))
    eventually(lambda: machine(world)["spec"]["runStrategy"] == "Halted")
    assert [disk["name"] for disk in domain(machine(world))["devices"]["disks"]] == ["disk-first"]
    said = world.wait_condition("vminstance", "machine", "DisksReady", "DiskNotReady")
    assert said["message"] == "VMDisk default/second is WaitForUserUpload"


def test_nothing_is_written_where_nothing_changes(world, world_name, ends):
    world.apply(vm_instance(external=True, sshKeys=["ssh-ed25519 AAAA a"]))
    ends()

    def versions():
        kinds = ["vm", "service"] if world_name == "cluster" else []
        all_of_it = [world.get("vminstance", "machine"), *(found(world, kind) for kind in kinds)]
        return [one["metadata"]["resourceVersion"] for one in all_of_it]

    before = versions()
    # Whoever touches it has it looked at.
    world.kubectl("annotate", "vminstance", "machine", "touched=1")
    time.sleep(2)
    after = versions()
    assert after[1:] == before[1:] and after[0] != before[0]
    time.sleep(1)
    assert versions() == after


@pytest.mark.parametrize("world_name", ["cluster"])
def test_what_belongs_to_somebody_else_is_left_to_them(world, kubectl):
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{MADE}-cloud-init", "namespace": "default"},
        "stringData": {"userdata": "theirs"},
    }
    kubectl("apply", "-f", "-", input=theirs)
    world.apply(vm_instance(cloudInit="#cloud-config\n"))
    said = world.wait_condition("vminstance", "machine", "Applied", "NameTaken")
    assert f"Secret default/{MADE}-cloud-init is there and is not of this VMInstance" in said["message"]
    assert machine(world) is None
    assert base64.b64decode(found(world, "secret", f"{MADE}-cloud-init")["data"]["userdata"]) == b"theirs"
    kubectl("delete", "secret", f"{MADE}-cloud-init")
    world.wait_phase("vminstance", "machine", "Provisioning")


@pytest.mark.parametrize("world_name", ["cluster"])
def test_what_a_machine_becomes_is_its_own(world, ends):
    world.apply(vm_instance(sshKeys=["ssh-ed25519 AAAA a"]))
    made = ends()
    for kind, name in [("vm", MADE), ("service", MADE), ("secret", f"{MADE}-ssh-keys"), ("secret", f"{MADE}-cloud-init")]:
        [owner] = found(world, kind, name)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("VMInstance", made["metadata"]["uid"])
    # Only a machine that is told something has secrets.
    world.apply(vm_instance("other"))
    ends("other")
    assert found(world, "secret", "vm-instance-other-cloud-init") is None


@pytest.mark.parametrize("world_name", ["cluster"])
def test_a_cluster_without_kubevirt_is_told_so(start_world, cluster):
    kubevirt = cluster.kubernetes.kubectl()
    kubevirt("delete", "crd", "virtualmachines.kubevirt.io")
    try:
        world = start_world()
        world.apply(vm_instance())
        said = world.wait_condition("vminstance", "machine", "Applied", "KubeVirtNotFound")
        assert said["message"] == "this cluster has no KubeVirt, which runs machines"
        cluster.define()
        world.wait_phase("vminstance", "machine", "Provisioning")
    finally:
        cluster.define()


@pytest.mark.parametrize("world_name", ["cluster"])
def test_machines_are_left_to_whoever_makes_them(start_world):
    world = start_world()
    world.controller.stop()
    world.controller.environment["DVCR_VM_INSTANCES"] = "false"
    world.controller.start()
    world.apply(vm_instance())
    world.ready(vm_disk("disk"))
    assert "status" not in world.get("vminstance", "machine") and machine(world) is None
