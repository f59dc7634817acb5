"""What people see: docker push and docker pull of an image with a disk, and skopeo copy of one, end to end.

Docker compresses what it pushes and unpacks what it pulls, and skopeo hashes both ways: most of the time is theirs. Each turn
pushes and pulls with the same daemon.
"""

import hashlib
import json
import os
import shutil
import subprocess

from bench.inputs import MIB
from bench.race import Scene
from bench.servers import Missing

from disk import build_disk_image
from dockerd import Dockerd

TITLE = "docker and skopeo"

IMAGE = "bench:disk"
DOCKER = {"push": "docker push of an image with a disk of noise", "pull": "docker pull of it"}
SKOPEO = {
    "push": "skopeo copy of an image with an ext4 disk from a folder, as it is",
    "pull": "skopeo copy of it into a folder",
}
PEERS = ("dvcr", "dvcr-whole", "distribution", "docker-registry", "zot")


def daemon(inputs):
    """A docker daemon with the image, for the whole run."""
    if os.getuid() != 0 or not shutil.which("dockerd"):
        raise Missing("a docker daemon of its own takes root, and Debian's docker.io")

    def start():
        docker = Dockerd()
        inputs.stack.callback(docker.stop)
        docker.start()
        build_disk_image(docker, inputs.folder / "docker", IMAGE, inputs.size // MIB)
        return docker

    return inputs.once("docker", start)


def play_docker(turn):
    docker, server = daemon(turn.inputs), turn.server()
    reference = f"{server.host}/bench/disk:v1"
    docker.run("tag", IMAGE, reference)

    def run(*words):
        docker.run(*words)

    turn.measure("push", server, lambda: run("push", reference), payload=turn.inputs.size)
    if not turn.wants("push"):
        docker.run("push", reference)
    if turn.wants("pull"):
        # The image must be gone from the daemon, or pulling moves no byte.
        docker.run("image", "rm", reference, IMAGE)
        try:
            turn.measure("pull", server, lambda: run("pull", reference), payload=turn.inputs.size)
        finally:
            if docker.run("image", "inspect", reference, check=False).returncode != 0:
                docker.run("pull", reference)
            docker.run("tag", reference, IMAGE)
    docker.run("image", "rm", reference)


def layout(folder, layer):
    """An OCI layout with one image, whose layer is a file that is there already."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    os.link(layer.path, blobs / layer.digest.removeprefix("sha256:"))

    def put(kind, document):
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}.v1+json", "digest": f"sha256:{digest}", "size": len(data)}

    described = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size}
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.digest]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config", config),
        "layers": [described],
    }
    index = {"schemaVersion": 2, "manifests": [put("manifest", manifest)]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def skopeo_copy(source, destination, *options):
    """An image from one place to another, with the digests that it has."""
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", *options, source, destination]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"skopeo: {done.stderr.strip()}")


def play_skopeo(turn):
    layer, server = turn.inputs.get("disk"), turn.server()
    source, remote = layout(turn.folder / "layout", layer), f"docker://{server.host}/bench/disk:v1"

    def push():
        skopeo_copy(f"oci:{source}", remote, "--dest-tls-verify=false")

    turn.measure("push", server, push, payload=layer.size)
    if not turn.wants("push"):
        push()
    target = f"dir:{turn.folder}/target"
    turn.measure("pull", server, lambda: skopeo_copy(remote, target, "--src-tls-verify=false"), payload=layer.size)


def scenes(settings):
    for store in ("filesystem", "seaweedfs", "minio"):
        yield Scene(f"docker/{store}", play_docker, store, PEERS, tuple(DOCKER.items()))
        yield Scene(f"skopeo/{store}", play_skopeo, store, PEERS, tuple(SKOPEO.items()))
