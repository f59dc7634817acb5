"""The Dockerfile: it builds, and what it builds serves, as nobody in particular and in an empty image."""

import os
import pathlib
import re
import subprocess
import time

import pytest

from dvcr import ROOT, free_port
from images import same_disk
from wire import Client

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(docker):
    """Builds a target of the Dockerfile, on base images of this machine's own."""
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        base = re.match(r"FROM ((rust|debian):\S+)", line)
        if base:
            made = subprocess.run([ROOT / "conformance/base-image", base[2]], check=True, capture_output=True, text=True)
            docker.run("import", made.stdout.strip(), base[1])

    def built(target=None):
        name = target or "dvcr"
        # How fast the program is, is no matter here.
        quick = ["OPT_LEVEL=0", "LTO=off", "CODEGEN_UNITS=16"]
        arguments = [f"--build-arg=CARGO_PROFILE_RELEASE_{setting}" for setting in quick]
        arguments += [f"--target={target}"] if target else []
        # There is no bridge; the build fetches crates and packages over the host's network.
        docker.run("build", "--network=host", f"--tag={name}", *arguments, ROOT)
        return name

    return built


@pytest.fixture(scope="module")
def image(built):
    """The image of the registry."""
    return built()


def test_the_image_holds_the_binary_and_little_else(docker, image, tmp_path):
    container = docker.run("create", image).stdout.strip()
    docker.run("cp", f"{container}:/", tmp_path / "root")
    docker.run("rm", container)
    root = tmp_path / "root"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.stat().st_size}
    assert files == {"dvcr", "etc/ssl/certs/ca-certificates.crt"}
    assert "statically linked" in described(root / "dvcr")


def described(binary: pathlib.Path):
    """What the dynamic linker says of a binary."""
    ldd = subprocess.run(["ldd", binary], check=False, capture_output=True, text=True)
    return (ldd.stdout + ldd.stderr).replace("not a dynamic executable", "statically linked")


def test_the_container_serves_and_is_healthy_as_an_ordinary_user(docker, image):
    port = free_port()
    container = docker.run(
        "run", "--detach", "--network=host", f"--env=DVCR_LISTEN=127.0.0.1:{port}", "--health-interval=1s", image
    ).stdout.strip()
    try:
        state = ["inspect", "--format={{.State.Health.Status}} {{.Config.User}}", container]
        for _ in range(300):
            found = docker.run(*state).stdout.split()
            if found[0] == "healthy":
                break
            time.sleep(0.1)
        assert found == ["healthy", "65532:65532"], docker.run("logs", container).stderr
        client = Client(f"127.0.0.1:{port}")
        digest = client.push_image("disks/tiny", "v1")
        assert client.get("/v2/disks/tiny/manifests/v1").headers["Docker-Content-Digest"] == digest
        docker.run("stop", container)
        assert docker.run("inspect", "--format={{.State.ExitCode}}", container).stdout.strip() == "0"
    finally:
        docker.run("rm", "--force", "--volumes", container)


def test_the_image_of_jobs_writes_a_qcow2_raw_into_a_claim_with_a_root_that_cannot_be_written(
    docker, built, registry, dvcr, images, tmp_path
):
    name = built("controller")
    disk = images.image("qcow2-compressed")
    dvcr.imports(disk, f"{registry.host}/disks/small:v1")
    claim = tmp_path / "claim"
    claim.mkdir()
    os.chown(claim, 107, 107)
    # As the controller has its Jobs do it: see controller/jobs/manifest.rs.
    docker.run(
        "run", "--rm", "--network=host", "--read-only", "--user=107:107", "--cap-drop=ALL", "--tmpfs=/tmp",
        f"--volume={claim}:/volume", "--env=HOME=/tmp", "--entrypoint=/dvcr", name,
        "pull", "--force", "--format=raw", "--to=/volume/disk.img", f"--plain-http={registry.host}",
        "--progress=none", "--", f"{registry.host}/disks/small:v1",
    )
    same_disk(claim / "disk.img", "raw", disk, "qcow2")
