"""VirtualImage resources in a real Kubernetes API: `dvcr serve` and `dvcr controller` beside it, Jobs run for real.

The API server is one for all tests; registry, controller and kubelet stand-in are each test's own. The controller has
the rights that `deploy/` gives it and no others.
"""

import base64
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

from dvcr import BINARY, ROOT
from job_runner import CLAIMS, JOBS, MERGE, NAMESPACES, PODS, JobRunner, finalize, named
from kubernetes import Api, Kubernetes
from virtual_images import GROUP, VERSION, World
from wire import eventually

NAMESPACE = "dvcr"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
IMAGES = [f"/apis/{GROUP}/{VERSION}/{plural}" for plural in ["virtualimages", "clustervirtualimages"]]
APPS = "apps.cozystack.io"
DISKS = [f"/apis/{APPS}/v1alpha1/{plural}" for plural in ["vmdisks", "vminstances"]]
OTHERS = [f"/apis/{GROUP}/{VERSION}/{plural}" for plural in ["virtualdisks", "virtualmachines"]]
MACHINES = [f"/apis/kubevirt.io/v1/{plural}" for plural in ["virtualmachines", "virtualmachineinstances"]]
MADE = [*DISKS, *IMAGES, *OTHERS, *MACHINES, JOBS, PODS, CLAIMS, *(f"/api/v1/{kind}" for kind in ["services", "secrets", "events"])]
"""What tests, the controller and Jobs make."""
OURS = ["dvcr", "dvcr-upload-key", "dvcr-data", "kubernetes"]
"""What the installation and Kubernetes itself have of these kinds."""

def storage_class(name, annotations=None, grows=False):
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations or {}},
        "provisioner": "example.com/disks",
        "allowVolumeExpansion": grows,
    }


STORAGE_CLASSES = [
    storage_class("local", {"storageclass.kubernetes.io/is-default-class": "true"}),
    storage_class("fast"),
    storage_class("replicated", grows=True),
    storage_class("block", {"virtualdisk.virtualization.deckhouse.io/volume-mode": "Block"}),
]


def definition(kind, group, version):
    """A custom resource of somebody else, as far as the controller looks at it."""
    plural = f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [
                {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    }


def within(path, namespace):
    """The path of all objects of a kind in a namespace, of the path of all of that kind anywhere."""
    root, _, resource = path.rpartition("/")
    return path if namespace is None else f"{root}/namespaces/{namespace}/{resource}"


class Cluster:
    """A real API server with everything of `deploy/kubernetes/filesystem` in it."""

    def __init__(self, cache):
        self.cache = pathlib.Path(cache)
        self.kubernetes = Kubernetes(cache)
        self.key = base64.b64encode(os.urandom(32)).decode()

    def start(self):
        self.kubernetes.start()
        self.kubectl = kubectl = self.kubernetes.kubectl()
        kubectl("apply", "--server-side", "-k", ROOT / "deploy/kubernetes/filesystem")
        for made in [
            definition("VirtualDisk", GROUP, VERSION),
            definition("VirtualMachine", GROUP, VERSION),
            *STORAGE_CLASSES,
        ]:
            kubectl("apply", "-f", "-", input=made)
        self.define()
        kubectl("-n", NAMESPACE, "create", "secret", "generic", "dvcr-upload-key", f"--from-literal=key={self.key}")
        self.controller = self.kubernetes.service_account("dvcr-controller", NAMESPACE)
        return self

    def define(self):
        """Has the API server know KubeVirt and CDI, as their operators do."""
        self.kubectl("apply", "--server-side", "-f", self.cache / "kubevirt/definitions.json")
        # It fails on a definition that has no conditions at all yet.
        established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]
        eventually(lambda: self.kubectl(*established, check=False).returncode == 0, seconds=60)

    def stop(self):
        self.kubernetes.stop()

    def clean(self):
        """Removes what a test has left, whoever holds it."""
        api = Api(self.kubernetes.admin)
        not_ours = "fieldSelector=" + ",".join(f"metadata.name!={name}" for name in OURS)
        for path in MADE:
            left = api.json("GET", f"{path}?{not_ours}")["items"]
            for namespace in {item["metadata"].get("namespace") for item in left}:
                api.json("DELETE", f"{within(path, namespace)}?{not_ours}", {"gracePeriodSeconds": 0})
            for item in left:
                if item["metadata"].get("finalizers"):
                    api.answer("PATCH", named(path, item), {"metadata": {"finalizers": None}}, MERGE)
        for namespace in api.json("GET", NAMESPACES)["items"]:
            name = namespace["metadata"]["name"]
            if name not in ("default", NAMESPACE) and not name.startswith("kube-"):
                api.json("DELETE", f"{NAMESPACES}/{name}")
                finalize(api.answer, name)


class Controller:
    """One `dvcr controller`."""

    def __init__(self, cluster, registry, log, settings):
        self.command = [BINARY, "controller", "--registry", registry, "--image", "dvcr", "--namespace", NAMESPACE]
        self.log = pathlib.Path(log)
        settings = {"DVCR_ALLOW_LOCAL_SOURCES": "true", "DVCR_PUBLIC_URL": f"http://{registry}", **settings}
        self.environment = {**os.environ, **settings, "KUBECONFIG": str(cluster.controller)}
        self.process = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def stop(self):
        """Asks it to stop, and says how it ended."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.kill()

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def works(self):
        return "has the Lease" in self.log.read_text(errors="replace")


class InCluster(World):
    """Registry, controller and kubelet stand-in around a real API server. `room` is how many Pods run at one time."""

    others = frozenset({"VirtualDisk", "VirtualMachine"})

    def __init__(self, cluster, server, tmp_path, settings, room=None):
        self.cluster = cluster
        self.volumes = tmp_path / "volumes"
        self.volumes.mkdir()
        self.controller = Controller(cluster, server.host, tmp_path / "controller.log", settings)
        self.runner = JobRunner(cluster.kubernetes.admin, BINARY, self.volumes, room=room)
        super().__init__(server, cluster.kubernetes.kubectl(), Api(cluster.kubernetes.admin))

    def start(self):
        self.let_go()
        self.controller.start()
        self.runner.start()
        eventually(self.controller.works, seconds=20)
        return self

    def stop(self):
        with contextlib.ExitStack() as stack:
            stack.callback(self.cluster.clean)
            stack.callback(self.controller.kill)
            stack.callback(self.runner.stop)

    def let_go(self):
        """A Lease that a controller before has died with need not run out."""
        self.api.json("DELETE", LEASES)

    def log(self):
        files = [self.server.log, self.controller.log, *self.runner.folder.glob("*/*/*.log")]
        return "".join(file.read_text(errors="replace") for file in files)

    def volume(self, namespace, claim):
        return self.volumes / namespace / claim / "disk.img"

    def lose_claim(self, namespace, claim):
        self.kubectl("delete", "pvc", claim, "-n", namespace)

    def put_disk(self, namespace, name, disk):
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"vd-{name}", "namespace": namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "64Mi"}},
                "storageClassName": "local",
            },
        }
        self.apply(claim)
        path = self.volume(namespace, f"vd-{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(disk, path)
        path.chmod(0o644)
        self.apply(
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "VirtualDisk",
                "metadata": {"name": name, "namespace": namespace},
                "status": {"phase": "Ready", "target": {"persistentVolumeClaimName": f"vd-{name}"}},
            }
        )

    def restart(self):
        self.controller.stop()
        self.server.restart()
        self.controller.start()

    def crash(self):
        self.controller.kill()
        self.server.kill()
        self.server.start()
        self.let_go()
        self.controller.start()
