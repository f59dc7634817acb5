"""Looking at images, listing, removing and copying them."""

import json

import pytest

from command import ASKED_WRONGLY, FAILED, REFUSED, kept, requests
from images import KINDS, MIB, virtual_size
from layers import DOCKER_IMAGE, Image, push_disk, tar
from wire import INDEX, Client, descriptor, digest_of, encode


@pytest.fixture
def disks(registry):
    return f"{registry.host}/disks/noble"


# inspect


def test_an_import_is_described(dvcr, registry, disks, images):
    result = dvcr.imports(
        images.compressed("qcow2", "xz"), f"{disks}:v1", "--label", "os=ubuntu", "--preference", "ubuntu",
        "--architecture", "arm64", "--annotation", "team=storage",
    )  # fmt: skip
    image = Image(registry.host, "disks/noble")
    seen = dvcr.inspects(f"{disks}:v1")
    assert seen["config"].items() >= {"digest": image.manifest["config"]["digest"]}.items()
    del seen["config"]
    assert seen == {
        "reference": f"{disks}:v1",
        "digest": result["digest"],
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "platform": "linux/arm64",
        "layer": {
            "digest": result["layer"]["digest"],
            "size": result["layer"]["size"],
            "media_type": "application/vnd.oci.image.layer.v1.tar",
        },
        "file": "disk/disk.qcow2",
        "format": "qcow2",
        "virtual_size": 8 * MIB,
        "size": images.image("qcow2").stat().st_size,
        "stored_size": result["layer"]["size"],
        "labels": image.labels,
        "annotations": image.annotations,
        "env": ["INSTANCETYPE_KUBEVIRT_IO_DEFAULT_PREFERENCE=ubuntu"],
    }


@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vmdk-stream", "vdi", "vhd", "vhdx", "iso", "udf"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_an_image_made_by_others_is_read_from_its_first_bytes(dvcr, registry, images, name, compression):
    """It has no labels that say what is in it."""
    data = images.image(name).read_bytes()
    push_disk(registry.host, "disks/other", "v1", [tar(("disk/disk.img", data))], compression)
    seen = dvcr.inspects(f"{registry.host}/disks/other:v1")
    assert (seen["format"], seen["file"], seen["size"]) == (KINDS[name].format, "disk/disk.img", len(data))
    assert seen["virtual_size"] == virtual_size(name, images.image(name))
    assert (seen["labels"], seen["annotations"], seen["env"]) == ({}, {}, [])
    if compression != "none":
        assert seen["stored_size"] < seen["size"]


def test_a_disk_is_not_fetched_to_look_at_it(dvcr, registry, images):
    push_disk(registry.host, "disks/other", "v1", [tar(("disk/disk.img", images.disk(64).read_bytes()))])
    dvcr.inspects(f"{registry.host}/disks/other:v1")
    sent = [int(line.split("sent=")[1].split()[0]) for line in requests(registry, "GET", "/v2/disks/other/blobs/")]
    # What is on its way when enough has come lies in the buffers of the kernel.
    assert sent and sum(sent) < 32 * MIB, sent


def test_text_for_a_person_has_what_json_has(dvcr, disks, images):
    result = dvcr.imports(images.image("qcow2"), f"{disks}:v1")
    text = dvcr.run("inspect", f"{disks}:v1").out.decode()
    for fact in [result["digest"], result["layer"]["digest"], "qcow2", "disk/disk.qcow2", "linux/amd64"]:
        assert fact in text


def test_what_is_not_there_is_named(dvcr, registry, disks):
    error = dvcr.refuses("inspect", f"{disks}:v1", code=FAILED)
    assert "disks/noble" in error and "v1" in error


@pytest.mark.parametrize("reference", ["", "UPPER/x", "a b", "{}/a@sha256:12", "{}/:v1"])
def test_what_is_no_reference_is_asked_wrongly(dvcr, registry, reference):
    for command in ["inspect", "pull", "rm"]:
        dvcr.run(command, reference.format(registry.host), code=ASKED_WRONGLY)


def index_of(host, name, tag, disks):
    """Pushes an index of disks: {architecture: bytes}. Gives its digest."""
    manifests = []
    for architecture, data in disks.items():
        digest, size = push_disk(host, name, None, [tar(("disk/disk.img", data))], architecture=architecture)
        media_type = Client(host).get(f"/v2/{name}/manifests/{digest}").headers["Content-Type"]
        manifests.append(
            {**descriptor(media_type, digest, size), "platform": {"os": "linux", "architecture": architecture}}
        )
    index = encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    assert Client(host).put_manifest(name, tag, index, INDEX).status == 201
    return digest_of(index)


def test_a_platform_of_an_index_is_described_and_pulled(dvcr, registry, disks, images, tmp_path):
    qcow2, vdi = images.image("qcow2").read_bytes(), images.image("vdi").read_bytes()
    index_of(registry.host, "disks/noble", "v1", {"arm64": vdi, "amd64": qcow2})
    assert dvcr.inspects(f"{disks}:v1")["format"] == "qcow2"
    seen = dvcr.inspects(f"{disks}:v1", "--platform", "linux/arm64")
    assert (seen["format"], seen["platform"]) == ("vdi", "linux/arm64")
    dvcr.pulls(f"{disks}:v1", tmp_path / "a", "--platform", "linux/arm64")
    assert (tmp_path / "a").read_bytes() == vdi
    error = dvcr.run("inspect", "--platform", "linux/riscv64", f"{disks}:v1", code=None)
    assert error.code in (FAILED, REFUSED)
    assert "linux/riscv64" in error.error() and "linux/arm64" in error.error()


# ls


def listed(dvcr, *arguments):
    return dvcr.run("ls", "--output", "json", *arguments).json()


def test_repositories_are_listed(dvcr, registry, images):
    assert listed(dvcr, registry.host) == []
    for name in ["disks/noble", "disks/jammy", "iso"]:
        dvcr.imports(images.image("qcow2"), f"{registry.host}/{name}:v1")
    assert sorted(map(name_of, listed(dvcr, registry.host))) == ["disks/jammy", "disks/noble", "iso"]
    lines = dvcr.run("ls", registry.host).out.decode().split()
    assert {"disks/jammy", "disks/noble", "iso"} <= set(lines)


def name_of(entry):
    return entry if isinstance(entry, str) else entry.get("name") or entry["repository"]


def test_tags_are_listed_with_what_they_are(dvcr, disks, images):
    results = {
        tag: dvcr.imports(images.image(name), f"{disks}:{tag}")
        for tag, name in [("b", "qcow2"), ("a", "iso"), ("c", "vhdx")]
    }
    rows = listed(dvcr, disks)
    assert [row["tag"] for row in rows] == ["a", "b", "c"]
    for row in rows:
        result = results[row["tag"]]
        for key in ["format", "virtual_size", "digest"]:
            assert row[key] == result[key]
        assert row["stored_size"] == result["layer"]["size"]
    text = dvcr.run("ls", disks).out.decode().splitlines()
    (line,) = [line for line in text if line.split()[:1] == ["c"]]
    assert "vhdx" in line and results["c"]["digest"].removeprefix("sha256:")[:12] in line


def test_more_tags_than_a_page_has_are_all_listed(dvcr, registry, disks, images):
    dvcr.imports(images.image("iso"), f"{disks}:first")
    client = Client(registry.host)
    manifest = client.get("/v2/disks/noble/manifests/first")
    for number in range(1100):
        answer = client.put_manifest("disks/noble", f"t{number:04}", manifest.body, manifest.headers["Content-Type"])
        assert answer.status == 201
    assert len(listed(dvcr, disks)) == 1101


def test_a_list_has_what_is_no_disk_too(dvcr, registry, disks, images):
    """One strange tag does not hide the others."""
    dvcr.imports(images.image("iso"), f"{disks}:disk")
    push_disk(registry.host, "disks/noble", "motd", [tar(("etc/motd", b"hello"))])
    index_of(registry.host, "disks/noble", "index", {"amd64": images.image("qcow2").read_bytes()})
    push_disk(registry.host, "disks/noble", "docker", [tar(("disk/a", images.image("vdi").read_bytes()))], "gzip", True)
    rows = {row["tag"]: row for row in listed(dvcr, disks)}
    assert set(rows) == {"disk", "motd", "index", "docker"}
    assert rows["disk"]["format"] == "iso"
    dvcr.run("ls", disks)


def test_a_repository_that_is_not_there_is_named(dvcr, disks):
    assert "disks/noble" in dvcr.refuses("ls", disks, code=FAILED)


# rm


def test_a_tag_is_removed_and_others_of_the_image_stay(dvcr, registry, disks, images):
    for tag in ["v1", "v2"]:
        dvcr.imports(images.image("qcow2"), f"{disks}:{tag}")
    dvcr.run("rm", f"{disks}:v1")
    client = Client(registry.host)
    assert client.get("/v2/disks/noble/tags/list").json()["tags"] == ["v2"]
    assert client.get("/v2/disks/noble/manifests/v1").status == 404
    assert dvcr.inspects(f"{disks}:v2")


def test_an_image_is_removed_by_its_digest_with_all_its_tags(dvcr, registry, disks, images):
    for tag in ["v1", "v2"]:
        digest = dvcr.imports(images.image("qcow2"), f"{disks}:{tag}")["digest"]
    dvcr.run("rm", f"{disks}@{digest}")
    client = Client(registry.host)
    assert client.get(f"/v2/disks/noble/manifests/{digest}").status == 404
    assert client.get("/v2/disks/noble/manifests/v2").status == 404


def test_many_are_removed_at_once(dvcr, registry, disks, images):
    for tag in ["v1", "v2", "v3"]:
        dvcr.imports(images.image("qcow2"), f"{disks}:{tag}")
    dvcr.run("rm", f"{disks}:v1", f"{disks}:v3")
    assert Client(registry.host).get("/v2/disks/noble/tags/list").json()["tags"] == ["v2"]


def test_what_is_not_there_cannot_be_removed(dvcr, registry, disks, images):
    dvcr.imports(images.image("qcow2"), f"{disks}:v1")
    error = dvcr.refuses("rm", f"{disks}:v2", code=FAILED)
    assert f"{disks}:v2" in error
    missing = digest_of(b"missing")
    assert missing in dvcr.refuses("rm", f"{disks}@{missing}", code=FAILED)
    # The others are removed all the same.
    dvcr.run("rm", f"{disks}:v2", f"{disks}:v1", code=FAILED)
    assert Client(registry.host).get("/v2/disks/noble/manifests/v1").status == 404


def test_removing_says_what(dvcr, disks, images):
    digest = dvcr.imports(images.image("qcow2"), f"{disks}:v1")["digest"]
    done = dvcr.run("rm", "--output", "json", f"{disks}:v1")
    assert f"{disks}:v1" in json.dumps(done.json())
    assert digest not in dvcr.run("ls", "--output", "json", disks).out.decode()


# copy


def copies(dvcr, source, destination, *arguments, **options):
    return dvcr.run("copy", *arguments, "--output", "json", source, destination, **options).json()


def test_a_copy_to_another_registry_has_the_same_digest(dvcr, start, disks, images, tmp_path):
    other = start("filesystem")
    digest = dvcr.imports(images.image("qcow2"), f"{disks}:v1")["digest"]
    result = copies(dvcr, f"{disks}:v1", f"{other.host}/a/b:v2")
    size = result.pop("bytes")
    assert result == {
        "source": f"{disks}:v1",
        "destination": f"{other.host}/a/b:v2",
        "digest": digest,
        "blobs": {"copied": 2, "mounted": 0, "present": 0},
        "reused": 0,
    }
    assert size > images.image("qcow2").stat().st_size
    dvcr.pulls(f"{other.host}/a/b:v2", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == images.image("qcow2").read_bytes()

    again = copies(dvcr, f"{disks}:v1", f"{other.host}/a/b:v3")
    assert (again["blobs"], again["bytes"]) == ({"copied": 0, "mounted": 0, "present": 2}, 0)
    assert not [file for file in kept(other) if file.startswith("uploads/")]


def test_a_copy_within_a_registry_mounts(dvcr, registry, disks, images):
    digest = dvcr.imports(images.image("qcow2"), f"{disks}:v1")["digest"]
    before = len(requests(registry, "PATCH"))
    result = copies(dvcr, f"{disks}:v1", f"{registry.host}/other/disk:v1")
    assert (result["digest"], result["bytes"]) == (digest, 0)
    assert result["blobs"] == {"copied": 0, "mounted": 2, "present": 0}
    assert len(requests(registry, "PATCH")) == before
    assert Image(registry.host, "other/disk").file()[1] == images.image("qcow2").read_bytes()


def test_a_copy_by_digest_keeps_the_digest(dvcr, registry, start, disks, images):
    other, digest = start("filesystem"), dvcr.imports(images.image("qcow2"), f"{disks}:v1")["digest"]
    assert copies(dvcr, f"{disks}@{digest}", f"{other.host}/a:v1")["digest"] == digest
    assert Image(other.host, "a").digest == digest


def test_an_index_is_copied_with_all_that_it_names(dvcr, registry, start, disks, images):
    other = start("filesystem")
    contents = {"amd64": images.image("qcow2").read_bytes(), "arm64": images.image("vdi").read_bytes()}
    digest = index_of(registry.host, "disks/noble", "v1", contents)
    assert copies(dvcr, f"{disks}:v1", f"{other.host}/a:v1")["digest"] == digest
    client = Client(other.host)
    copied = client.get("/v2/a/manifests/v1")
    assert copied.body == Client(registry.host).get("/v2/disks/noble/manifests/v1").body
    for entry in copied.json()["manifests"]:
        architecture = entry["platform"]["architecture"]
        assert Image(other.host, "a", entry["digest"]).file()[1] == contents[architecture]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_an_image_of_docker_is_copied_as_it_is(dvcr, registry, start, disks, images, compression):
    other, data = start("filesystem"), images.image("qcow2").read_bytes()
    layers = [tar(("etc/motd", b"hello")), tar(("disk/disk.img", data))]
    digest, _ = push_disk(registry.host, "disks/noble", "v1", layers, compression, docker=True)
    result = copies(dvcr, f"{disks}:v1", f"{other.host}/a:v1")
    assert (result["digest"], result["blobs"]["copied"]) == (digest, 3)
    assert Client(other.host).get("/v2/a/manifests/v1").headers["Content-Type"] == DOCKER_IMAGE


def test_a_copy_over_connections_that_are_cut_gets_there(dvcr, registry, start, cutting_proxy, disks, images):
    other = start("filesystem")
    dvcr.imports(images.disk(48), f"{disks}:v1")
    proxy = cutting_proxy(registry.host, cut=10 * MIB)
    copies(dvcr, f"{proxy.host}/disks/noble:v1", f"{other.host}/a:v1")
    assert proxy.was_cut >= 4
    assert Image(other.host, "a").file()[1] == images.disk(48).read_bytes()


def test_a_blob_with_a_wrong_byte_is_not_copied(dvcr, registry, start, cutting_proxy, disks, images):
    other = start("filesystem")
    dvcr.imports(images.disk(), f"{disks}:v1")
    text = b"Hello from a disk image.\n" * 3
    proxy = cutting_proxy(registry.host, change=(text, text.upper()))
    dvcr.refuses("copy", f"{proxy.host}/disks/noble:v1", f"{other.host}/a:v1")
    assert proxy.was_changed
    assert Client(other.host).get("/v2/a/manifests/v1").status == 404
    assert not [file for file in kept(other) if file.startswith("uploads/")]


def test_what_is_not_there_is_not_copied(dvcr, registry, disks):
    assert "disks/noble" in dvcr.refuses("copy", f"{disks}:v1", f"{registry.host}/a:v1", code=FAILED)
