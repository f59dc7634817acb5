"""The real Kubernetes API that other tests use: it starts, applies schemas and rules, and keeps what it has."""

import pytest

from kubernetes import Kubernetes

pytestmark = pytest.mark.slow

DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "disks.conformance.invalid"},
    "spec": {
        "group": "conformance.invalid",
        "scope": "Namespaced",
        "names": {"kind": "Disk", "plural": "disks", "singular": "disk"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "source": {"type": "string", "description": "Where the disk comes from."},
                                    "size": {"type": "integer", "default": 1},
                                },
                                "x-kubernetes-validations": [
                                    {"rule": "self.source.startsWith('http')", "message": "a disk comes from the web"}
                                ],
                            }
                        },
                    }
                },
            }
        ],
    },
}


def disk(name, source):
    return {
        "apiVersion": "conformance.invalid/v1",
        "kind": "Disk",
        "metadata": {"name": name},
        "spec": {"source": source},
    }


@pytest.fixture(scope="module")
def kubernetes(cache):
    cluster = Kubernetes(cache)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def test_the_api_applies_schemas_and_rules_and_keeps_objects_over_a_restart(kubernetes):
    kubectl = kubernetes.kubectl()
    version = kubectl.json("version")
    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"]
    assert version["serverVersion"]["gitVersion"].startswith("v1."), version
    kubectl("apply", "-f", "-", input=DEFINITION)
    kubectl("wait", "--for=condition=Established", "crd/disks.conformance.invalid")

    kubectl("apply", "-f", "-", input=disk("good", "https://example.com/disk.qcow2"))
    assert kubectl.json("get", "disk", "good")["spec"] == {"source": "https://example.com/disk.qcow2", "size": 1}
    refused = kubectl("apply", "-f", "-", input=disk("bad", "ftp://example.com/disk.qcow2"), check=False)
    assert refused.returncode == 1
    assert "a disk comes from the web" in refused.stderr, refused
    assert "Where the disk comes from." in kubectl("explain", "disk.spec.source").stdout

    before = kubectl.json("get", "disk", "good")
    kubernetes.restart_api()
    assert kubectl.json("get", "disk", "good") == before


def test_an_identity_may_do_what_its_roles_say(kubernetes):
    admin = kubernetes.kubectl()
    admin("create", "serviceaccount", "reader")
    admin("create", "role", "reader", "--verb=get,list", "--resource=secrets")
    admin("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader", "--user=somebody")
    for kubeconfig in [kubernetes.service_account("reader"), kubernetes.kubeconfig("somebody", groups=["people"])]:
        reader = kubernetes.kubectl(kubeconfig)
        assert reader.json("get", "secrets")["items"] == []
        refused = reader("create", "secret", "generic", "mine", check=False)
        assert refused.returncode == 1
        assert "is forbidden" in refused.stderr, refused
