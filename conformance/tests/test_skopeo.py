"""skopeo: copies to and from, in Docker's and OCI's formats, and deletes."""

import io
import json
import os
import subprocess
import tarfile

import pytest

from wire import Client, digest_of


def skopeo(*arguments):
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"skopeo {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


PLAIN_FROM, PLAIN_TO = "--src-tls-verify=false", "--dest-tls-verify=false"


@pytest.fixture
def layout(tmp_path):
    """An OCI layout on disk with an image of one layer, a tar that holds a disk."""
    disk = os.urandom(3 << 20)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("disk/disk.img")
        entry.size = len(disk)
        archive.addfile(entry, io.BytesIO(disk))
    folder = tmp_path / "layout"
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data, media_type):
        digest = digest_of(data)
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    layer = blob(tar.getvalue(), "application/vnd.oci.image.layer.v1.tar")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    named = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    named["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder, layer["digest"]


def blob_bytes(folder, digest):
    return (folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def test_an_oci_image_is_copied_there_and_back(server, layout, tmp_path):
    source, layer = layout
    there, back = f"docker://{server.host}/disks/oci:v1", tmp_path / "back"
    # Otherwise skopeo compresses the layer on its way.
    skopeo("copy", "--preserve-digests", PLAIN_TO, f"oci:{source}:v1", there)
    skopeo("copy", "--preserve-digests", PLAIN_FROM, there, f"oci:{back}:v1")
    assert blob_bytes(back, layer) == blob_bytes(source, layer)
    digests = [json.loads((folder / "index.json").read_text())["manifests"][0]["digest"] for folder in (source, back)]
    assert digests[0] == digests[1]


def test_an_image_in_docker_format_is_kept_in_it(server, layout):
    source, _ = layout
    there = f"docker://{server.host}/disks/docker:v1"
    skopeo("copy", "--format=v2s2", PLAIN_TO, f"oci:{source}:v1", there)
    manifest = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", there))
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_a_copy_within_the_registry_mounts_the_layers(server, layout):
    source, layer = layout
    first, second = f"docker://{server.host}/a/disk:v1", f"docker://{server.host}/b/disk:v1"
    skopeo("copy", "--preserve-digests", PLAIN_TO, f"oci:{source}:v1", first)
    skopeo("copy", "--preserve-digests", PLAIN_FROM, PLAIN_TO, first, second)
    assert Client(server.host).get(f"/v2/b/disk/blobs/{layer}").body == blob_bytes(source, layer)


def test_delete_removes_the_manifest_and_all_its_tags(server, layout):
    source, _ = layout
    for tag in ["v1", "v2"]:
        skopeo("copy", PLAIN_TO, f"oci:{source}:v1", f"docker://{server.host}/disks/gone:{tag}")
    listed = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{server.host}/disks/gone"))
    assert listed["Tags"] == ["v1", "v2"]
    skopeo("delete", "--tls-verify=false", f"docker://{server.host}/disks/gone:v1")
    assert Client(server.host).get("/v2/disks/gone/tags/list").json()["tags"] == []
