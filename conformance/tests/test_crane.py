"""crane and regctl: push, pull, validate, chunked uploads, delete."""

import subprocess

import pytest

from disk import sha256_of, write_disk
from wire import Client


@pytest.fixture
def run(cache, tmp_path):
    def run(program, *arguments, **options):
        done = subprocess.run(
            [cache / "bin" / program, *map(str, arguments)],
            capture_output=True,
            timeout=300,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            **options,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout

    return run


@pytest.fixture
def image(run, server, tmp_path):
    """A disk image that crane made of a tar and pushed."""
    folder = tmp_path / "root/disk"
    folder.mkdir(parents=True)
    write_disk(folder / "disk.img", 5)
    subprocess.run(["tar", "-cf", tmp_path / "layer.tar", "-C", tmp_path / "root", "disk"], check=True)
    reference = f"{server.host}/disks/crane:v1"
    run("crane", "append", "--insecure", "--new_layer", tmp_path / "layer.tar", "--new_tag", reference)
    return reference


def test_a_pushed_image_is_valid_in_every_blob(run, image):
    run("crane", "validate", "--insecure", "--remote", image)


def test_an_image_is_pulled_and_pushed_again_with_the_same_digest(run, server, image, tmp_path):
    run("crane", "pull", "--insecure", "--format=oci", image, tmp_path / "pulled")
    again = f"{server.host}/disks/again:v1"
    run("crane", "push", "--insecure", tmp_path / "pulled", again)
    assert run("crane", "digest", "--insecure", image) == run("crane", "digest", "--insecure", again)


def test_the_disk_comes_out_as_it_went_in(run, image, tmp_path):
    run("crane", "export", "--insecure", image, tmp_path / "exported.tar")
    subprocess.run(["tar", "-xf", tmp_path / "exported.tar", "-C", tmp_path], check=True)
    assert sha256_of(tmp_path / "disk/disk.img") == sha256_of(tmp_path / "root/disk/disk.img")


def test_crane_lists_and_deletes(run, server, image):
    assert run("crane", "catalog", "--insecure", server.host).split() == [b"disks/crane"]
    assert run("crane", "ls", "--insecure", f"{server.host}/disks/crane").split() == [b"v1"]
    digest = run("crane", "digest", "--insecure", image).decode().strip()
    run("crane", "delete", "--insecure", f"{server.host}/disks/crane@{digest}")
    assert Client(server.host).get("/v2/disks/crane/manifests/v1").status == 404


def test_regctl_pushes_a_blob_in_chunks(run, server, tmp_path):
    run("regctl", "registry", "set", "--tls=disabled", "--blob-chunk=1048576", "--blob-max=1", server.host)
    sha256 = write_disk(tmp_path / "chunked.img", 9)
    with (tmp_path / "chunked.img").open("rb") as disk:
        digest = run("regctl", "blob", "put", f"{server.host}/disks/chunked", stdin=disk).decode().split()[0]
    assert digest == f"sha256:{sha256}"
    assert "PATCH" in server.log.read_text()
    assert run("regctl", "blob", "get", f"{server.host}/disks/chunked", digest) == (
        tmp_path / "chunked.img"
    ).read_bytes()
