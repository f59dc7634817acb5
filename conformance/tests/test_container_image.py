"""The Dockerfile: it builds, and what it builds serves, as nobody in particular and in an empty image."""

import pathlib
import subprocess
import time

import pytest

from dvcr import ROOT, free_port
from wire import Client

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image(docker):
    """The image that `docker build .` makes, on a base image of this machine's own."""
    base = subprocess.run([ROOT / "conformance/base-image"], check=True, capture_output=True, text=True).stdout.strip()
    first_line = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
    docker.run("import", base, first_line.split()[1])
    # There is no bridge; the build fetches crates over the host's network.
    # How fast the program is, is no matter here.
    quick = ["OPT_LEVEL=1", "LTO=off", "CODEGEN_UNITS=16"]
    arguments = [f"--build-arg=CARGO_PROFILE_RELEASE_{setting}" for setting in quick]
    docker.run("build", "--network=host", "--tag=dvcr", *arguments, ROOT)
    return "dvcr"


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
