"""The image that an import makes: its layer as other programs read it, its config, and what is written on it."""

import json
import os
import subprocess
import tarfile

import pytest

from command import ASKED_WRONGLY, FAILED
from images import MIB, holes, run
from layers import Image
from test_skopeo import PLAIN_FROM, skopeo
from wire import CONFIG, IMAGE, LAYER

GIB = 1 << 30


def noise(size):
    """A disk of a size that no rule about text refuses."""
    return bytes([0xFE]) + os.urandom(size - 1)


@pytest.fixture
def imported(dvcr, registry, images):
    """A qcow2 that was imported, as it lies in the registry."""

    def imported(*arguments, source=None, tag="v1"):
        dvcr.imports(source or images.image("qcow2"), f"{registry.host}/disks/noble:{tag}", *arguments)
        return Image(registry.host, "disks/noble", tag)

    return imported


def test_the_manifest_and_the_config_are_as_the_oci_specification_has_them(imported, images):
    image = imported()
    assert image.media_type == image.manifest["mediaType"] == IMAGE
    assert image.manifest["schemaVersion"] == 2
    assert image.manifest["config"]["mediaType"] == CONFIG
    (layer,) = image.manifest["layers"]
    assert layer["mediaType"] == LAYER
    assert image.config["rootfs"] == {"type": "layers", "diff_ids": [layer["digest"]]}
    assert (image.config["architecture"], image.config["os"]) == ("amd64", "linux")
    size = images.image("qcow2").stat().st_size
    assert image.labels == {
        "source-image-size": str(size),
        "source-image-virtual-size": str(8 * MIB),
        "source-image-format": "qcow2",
        "erofs-compatible-layers": "true",
    }


def test_the_layer_is_one_regular_file_for_qemu(imported, images):
    member, data = imported().file()
    assert member.name == "disk/disk.qcow2"
    assert member.isreg()
    assert (member.uid, member.gid, member.mode & 0o7777, member.mtime) == (107, 107, 0o444, 0)
    assert data == images.image("qcow2").read_bytes()


@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 1023, 10240, 65537, MIB + 1])
def test_a_disk_of_any_size_is_kept_to_the_byte(dvcr, registry, tmp_path, size):
    disk = tmp_path / "tiny.img"
    disk.write_bytes(noise(size))
    reference = f"{registry.host}/disks/tiny:v1"
    result = dvcr.imports(disk, reference)
    assert (result["format"], result["size"], result["virtual_size"]) == ("raw", size, size)
    member, data = Image(registry.host, "disks/tiny").file()
    assert (member.name, member.size) == ("disk/disk.raw", size)
    assert data == disk.read_bytes()
    dvcr.pulls(reference, tmp_path / "pulled.img")
    assert (tmp_path / "pulled.img").read_bytes() == data


def test_the_file_in_the_layer_may_have_another_name(imported):
    member, _ = imported("--file-name", "noble-server.img").file()
    assert member.name == "disk/noble-server.img"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\nb", "n" * 96, "n" * 255])
def test_a_name_that_is_no_file_name_is_turned_down(dvcr, registry, images, name):
    dvcr.run("import", "--file-name", name, images.image("raw"), f"{registry.host}/disks/name:v1", code=ASKED_WRONGLY)


def test_a_name_may_be_as_long_as_every_reader_of_tars_takes_it(imported):
    name = "n" * 91 + ".img"
    member, _ = imported("--file-name", name).file()
    assert member.name == f"disk/{name}"


def test_labels_and_annotations_are_written_on_the_image(imported):
    image = imported(
        "--label", "os=ubuntu", "--label", "empty=", "--label", "equation=a=b",
        "--annotation", "org.example.team=storage", "--annotation", "with=a = b",
    )  # fmt: skip
    assert image.labels["os"] == "ubuntu"
    assert image.labels["empty"] == ""
    assert image.labels["equation"] == "a=b"
    assert image.labels["source-image-format"] == "qcow2"
    assert image.annotations["org.example.team"] == "storage"
    assert image.annotations["with"] == "a = b"


def test_kubevirt_finds_what_machine_the_disk_is_for(imported):
    image = imported("--instancetype", "u1.medium", "--preference", "ubuntu", "--architecture", "arm64")
    assert set(image.env) == {
        "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_INSTANCETYPE=u1.medium",
        "INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=ubuntu",
    }
    assert image.config["architecture"] == "arm64"


def test_an_image_tells_where_it_is_from(dvcr, registry, web, images):
    url = web.add("/pool/noble.qcow2", images.image("qcow2").read_bytes())
    secret = url.replace("http://", "http://someone:hidden@") + "?X-Signature=abc#part"
    dvcr.imports(secret, f"{registry.host}/disks/noble:v1")
    image = Image(registry.host, "disks/noble")
    assert image.annotations["org.opencontainers.image.source"] == url
    assert image.annotations["org.opencontainers.image.title"] == "noble.qcow2"
    assert image.annotations["org.opencontainers.image.created"] == "2026-11-21T10:00:00Z"
    assert "hidden" not in json.dumps([image.manifest, image.config])
    assert "abc" not in json.dumps([image.manifest, image.config])


def test_a_file_tells_its_name_and_when_it_was_written(dvcr, registry, images, tmp_path):
    source = tmp_path / "my disk.qcow2"
    source.write_bytes(images.image("qcow2").read_bytes())
    os.utime(source, (1_700_000_000, 1_700_000_000))
    dvcr.imports(source, f"{registry.host}/disks/noble:v1")
    image = Image(registry.host, "disks/noble")
    assert image.annotations["org.opencontainers.image.title"] == "my disk.qcow2"
    assert image.annotations["org.opencontainers.image.created"] == "2023-11-14T22:13:20Z"
    assert str(tmp_path) not in json.dumps([image.manifest, image.config])


def test_an_annotation_that_is_given_wins_over_one_that_is_found(imported):
    assert imported("--annotation", "org.opencontainers.image.title=Noble").annotations[
        "org.opencontainers.image.title"
    ] == "Noble"  # fmt: skip


def test_two_imports_of_one_file_make_one_manifest(imported, dvcr, registry, images):
    first, second = imported(tag="v1"), imported(tag="v2")
    assert first.digest == second.digest
    elsewhere = dvcr.imports(images.image("qcow2"), f"{registry.host}/disks/other:v1")
    assert elsewhere["digest"] == first.digest


def test_standard_input_makes_the_same_image_each_time(dvcr, registry, images):
    data = images.image("qcow2").read_bytes()
    digests = {dvcr.imports("-", f"{registry.host}/disks/stdin:v{n}", data=data)["digest"] for n in range(2)}
    assert len(digests) == 1
    annotations = Image(registry.host, "disks/stdin", "v0").annotations
    assert "org.opencontainers.image.title" not in annotations
    assert "org.opencontainers.image.created" not in annotations


def test_the_result_says_what_was_done(dvcr, registry, images):
    packed = images.compressed("qcow2", "xz")
    result = dvcr.imports(packed, f"{registry.host}/disks/noble:v1")
    image = Image(registry.host, "disks/noble")
    (layer,) = image.manifest["layers"]
    seconds, passes = result.pop("seconds"), result.pop("passes")
    assert result == {
        "reference": f"{registry.host}/disks/noble:v1",
        "digest": image.digest,
        "layer": {"digest": layer["digest"], "size": layer["size"]},
        "format": "qcow2",
        "virtual_size": 8 * MIB,
        "size": images.image("qcow2").stat().st_size,
        "file": "disk/disk.qcow2",
        "compression": "xz",
        "source_size": packed.stat().st_size,
        "uploaded": layer["size"],
        "copied": 0,
    }
    assert seconds >= 0
    assert passes in (1, 2)


def test_a_tag_that_is_not_given_is_latest(dvcr, registry, images):
    result = dvcr.imports(images.image("qcow2"), f"{registry.host}/disks/noble")
    assert result["reference"] == f"{registry.host}/disks/noble:latest"
    assert Image(registry.host, "disks/noble", "latest").digest == result["digest"]


def test_a_tag_moves_to_what_was_imported_last(dvcr, registry, images):
    reference = f"{registry.host}/disks/noble:v1"
    dvcr.imports(images.image("qcow2"), reference)
    digest = dvcr.imports(images.image("vmdk"), reference)["digest"]
    assert Image(registry.host, "disks/noble").digest == digest


def test_text_for_a_person_names_the_image(dvcr, registry, images):
    done = dvcr.run("import", images.image("qcow2"), f"{registry.host}/disks/noble:v1")
    digest = Image(registry.host, "disks/noble").digest
    assert digest in done.out.decode()
    assert f"{registry.host}/disks/noble" in done.out.decode()


@pytest.mark.parametrize(
    "reference",
    ["", "UPPER", "{}/", "{}/Upper:v1", "{}/a:", "{}/a:-v1", "{}/a@sha256:abc", "http://{}/a:v1", "{}/a b:v1"],
)
def test_a_reference_that_is_none_is_turned_down(dvcr, registry, images, reference):
    dvcr.run("import", images.image("raw"), reference.format(registry.host), code=ASKED_WRONGLY)


def test_a_file_that_is_not_there_is_named(dvcr, registry, tmp_path):
    missing = tmp_path / "missing.img"
    assert str(missing) in dvcr.refuses("import", missing, f"{registry.host}/disks/a:v1", code=FAILED)


def test_a_folder_is_no_disk(dvcr, registry, tmp_path):
    assert str(tmp_path) in dvcr.run("import", tmp_path, f"{registry.host}/disks/a:v1", code=None).error()


def test_a_registry_that_is_not_there_is_named(dvcr, images):
    # The port is one that nobody can have.
    error = dvcr.refuses("import", "--retries", "1", images.image("raw"), "127.0.0.1:1/disks/a:v1", code=FAILED)
    assert "127.0.0.1:1" in error


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_skopeo_and_tar_take_the_disk_out(dvcr, registry, images, tmp_path, name):
    dvcr.imports(images.image(name), f"{registry.host}/disks/noble:v1")
    there, folder = f"docker://{registry.host}/disks/noble:v1", tmp_path / "copied"
    skopeo("copy", PLAIN_FROM, there, f"dir:{folder}")
    (layer,) = json.loads((folder / "manifest.json").read_text())["layers"]
    blob = folder / layer["digest"].removeprefix("sha256:")
    listed = run("tar", "--numeric-owner", "-tvf", blob).decode().splitlines()
    assert len(listed) == 1
    assert listed[0].split()[:2] == ["-r--r--r--", "107/107"]
    run("tar", "-xf", blob, "-C", tmp_path)
    assert (tmp_path / f"disk/disk.{name}").read_bytes() == images.image(name).read_bytes()
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", there))
    assert inspected["Architecture"] == "amd64"
    assert inspected["Labels"]["source-image-format"] == name


def test_podman_takes_the_oci_layout(dvcr, registry, images, tmp_path):
    """What containers/storage checks: the layer expands to its diff_id."""
    dvcr.imports(images.image("vmdk"), f"{registry.host}/disks/noble:v1")
    skopeo("copy", PLAIN_FROM, f"docker://{registry.host}/disks/noble:v1", f"oci:{tmp_path}/layout:v1")
    skopeo("copy", "--format=v2s2", PLAIN_FROM, f"docker://{registry.host}/disks/noble:v1", f"dir:{tmp_path}/docker")
    assert json.loads((tmp_path / "docker/manifest.json").read_text())["schemaVersion"] == 2


@pytest.mark.slow
def test_docker_pulls_an_imported_disk(dvcr, docker, registry, images, tmp_path):
    reference = f"{registry.host}/disks/docker:v1"
    dvcr.imports(images.compressed("qcow2", "xz"), reference)
    docker.run("pull", reference)
    container = docker.run("create", reference, "/none").stdout.strip()
    docker.run("cp", f"{container}:/disk/disk.qcow2", tmp_path / "disk.qcow2")
    docker.run("rm", container)
    docker.run("image", "rm", reference)
    assert (tmp_path / "disk.qcow2").read_bytes() == images.image("qcow2").read_bytes()


@pytest.mark.slow
def test_a_disk_beyond_8_gib_goes_there_and_back(dvcr, registry, tmp_path):
    """The size does not fit the octal field of a tar header, and the disk is mostly holes."""
    disk, size, marks = tmp_path / "large.raw", 8 * GIB + 512, {0: b"first", 5 * GIB: b"middle", 8 * GIB + 500: b"last"}
    with disk.open("wb") as file:
        for position, mark in marks.items():
            file.seek(position)
            file.write(mark)
        file.truncate(size)
    reference = f"{registry.host}/disks/large:v1"
    result = dvcr.imports(disk, reference, timeout=600)
    assert (result["size"], result["virtual_size"]) == (size, size)
    assert result["uploaded"] == result["layer"]["size"] > size
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{reference}"))
    assert inspected["Labels"]["source-image-size"] == str(size)

    # Python's tar reads the header; what follows is checked on the pulled disk.
    url = f"http://{registry.host}/v2/disks/large/blobs/{result['layer']['digest']}"
    with subprocess.Popen(["curl", "-sf", "-r", "0-65535", url], stdout=subprocess.PIPE) as curl:
        with tarfile.open(fileobj=curl.stdout, mode="r|") as archive:
            member = archive.next()
            assert (member.name, member.size, member.isreg()) == ("disk/disk.raw", size, True)
        curl.stdout.read()

    pulled = tmp_path / "pulled.raw"
    dvcr.pulls(reference, pulled, timeout=600)
    assert pulled.stat().st_size == size
    assert pulled.stat().st_blocks * 512 < MIB
    with pulled.open("rb") as file:
        for position, mark in marks.items():
            file.seek(position)
            assert file.read(len(mark)) == mark
    assert sum(end - start for start, end in holes(pulled)) > size - 64 * 1024
