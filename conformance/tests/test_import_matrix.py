"""Every format in every compression from every source: the same disk, the same layer, and back again."""

import subprocess

import pytest

from command import kept, requests
from images import COMPRESSIONS, KINDS, LoopDevice, filled_up, holes, reported, same_disk, virtual_size, with_all_holes
from layers import Image, push_disk, tar

pairs = pytest.mark.parametrize("compression", COMPRESSIONS)


def comes_back(dvcr, reference, name, original, folder):
    """Pulls a disk and compares it with what was imported."""
    target = folder / f"{name}.pulled"
    dvcr.pulls(reference, target)
    assert target.read_bytes() == original.read_bytes()
    if KINDS[name].driver != "raw":
        same_disk(original, KINDS[name].driver, target, KINDS[name].driver)
    target.unlink()


@pairs
@pytest.mark.parametrize("name", KINDS)
def test_a_disk_is_the_same_from_every_source(dvcr, registry, start, web, images, tmp_path, name, compression):
    original, packed = images.image(name), images.compressed(name, compression)
    data, size = packed.read_bytes(), virtual_size(name, original)
    elsewhere = start("filesystem")
    push_disk(elsewhere.host, "other/disk", "v1", [tar((f"disk/{packed.name}", data))])

    # A block device is as long as it is, so what is on it must fill it.
    with LoopDevice(filled_up(packed, compression), read_only=True) as device:
        sources = {
            "file": (packed, {}),
            "http": (web.add(f"/{packed.name}", data), {}),
            "stdin": ("-", {"data": data}),
            "docker": (f"docker://{elsewhere.host}/other/disk:v1", {}),
            "device": (device, {}),
        }
        layers, tags = set(), []
        for source, (where, options) in sources.items():
            # Each to a repository of its own, so that each is sent.
            repository = f"{registry.host}/disks/{source}"
            result = dvcr.imports(where, f"{repository}:v1", **options)
            assert result["reference"] == f"{repository}:v1"
            assert result["format"] == KINDS[name].format, result
            assert result["virtual_size"] == size, result
            assert result["size"] == original.stat().st_size, result
            assert result["compression"] == reported(compression), result
            if source != "device":
                assert result["source_size"] == len(data), result
            assert result["file"] == f"disk/disk.{KINDS[name].format}", result
            layers.add(result["layer"]["digest"])
            tags.append(f"{repository}:v1")
        assert len(layers) == 1, (layers, tags)

        before = kept(registry)
        for source, (where, options) in sources.items():
            sent = len(requests(registry, "PATCH"))
            again = dvcr.imports(where, f"{registry.host}/disks/{source}:again", **options)
            assert again["uploaded"] == 0, (source, again)
            assert again["layer"]["digest"] in layers
            # A pipe cannot be read a second time, so that it may be sent before it is known.
            assert len(requests(registry, "PATCH")) == sent or source == "stdin", source
    new = kept(registry).keys() - before.keys()
    assert [file for file in new if file.startswith(("data/", "uploads/"))] == []

    member, bytes_of_file = Image(registry.host, "disks/http").file()
    assert member.name == f"disk/disk.{KINDS[name].format}"
    assert bytes_of_file == original.read_bytes()
    comes_back(dvcr, tags[0], name, original, tmp_path)


@pytest.mark.parametrize("name", ["raw", "qcow2", "vhd-fixed"])
@pytest.mark.parametrize("compression", ["none", "gzip", "xz-blocks", "zstd-unsized"])
def test_a_disk_is_the_same_from_a_bucket(dvcr, start, web, images, tmp_path, name, compression):
    server = start("s3")
    original, packed = images.image(name), images.compressed(name, compression)
    reference = f"{server.host}/disks/bucket"
    result = dvcr.imports(web.add(f"/{packed.name}", packed.read_bytes()), f"{reference}:http")
    assert result["uploaded"] >= result["layer"]["size"]
    for source, options in [(packed, {}), ("-", {"data": packed.read_bytes()})]:
        again = dvcr.imports(source, f"{reference}:again", **options)
        assert (again["uploaded"], again["layer"]) == (0, result["layer"])
    comes_back(dvcr, f"{reference}:http", name, original, tmp_path)


@pytest.mark.parametrize("compression", ["none", "xz"])
def test_holes_of_a_sparse_disk_are_holes_again(dvcr, registry, images, tmp_path, compression):
    reference = f"{registry.host}/disks/sparse:v1"
    original = images.disk(48)
    dvcr.imports(images.compressed("raw", compression, 48), reference)
    pulled = tmp_path / "pulled.raw"
    dvcr.pulls(reference, pulled)
    assert pulled.read_bytes() == original.read_bytes()
    # As sparse as cp makes it, with holes in the same places.
    expected = with_all_holes(original, tmp_path / "expected.raw")
    assert holes(pulled) == holes(expected)
    # But for what the file system keeps about them.
    assert pulled.stat().st_blocks <= expected.stat().st_blocks + 64


@pytest.mark.parametrize("name", ["raw", "qcow2", "iso"])
def test_a_pipe_is_read_as_it_comes(dvcr, registry, images, name):
    """Bytes that come a few at a time, from a program that is still making them."""
    reference = f"{registry.host}/disks/pipe:v1"
    expected = dvcr.imports(images.image(name), f"{registry.host}/disks/file:v1")
    with subprocess.Popen(
        ["dd", f"if={images.image(name)}", "bs=777", "status=none"], stdout=subprocess.PIPE
    ) as writer:
        result = dvcr.imports("-", reference, stdin=writer.stdout)
    assert result["layer"] == expected["layer"]


@pytest.mark.parametrize("padding", [512, 4096, 1 << 20])
@pytest.mark.parametrize("compression", ["gzip", "xz"])
def test_zeros_after_a_compressed_stream_are_the_rest_of_a_device(
    dvcr, registry, images, tmp_path, compression, padding
):
    packed = images.compressed("qcow2", compression).read_bytes()
    source = tmp_path / "device"
    source.write_bytes(packed + bytes(-len(packed) % 512 + padding))
    with LoopDevice(source) as device:
        result = dvcr.imports(device, f"{registry.host}/disks/device:v1")
    assert result["size"] == images.image("qcow2").stat().st_size
