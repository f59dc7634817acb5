"""dvcr import --format: a disk is stored in another format than it comes in, so that a version costs what changed."""

import hashlib
import json
import os
import random
import shutil
import signal
import struct

import pytest

from command import ASKED_WRONGLY, FAILED, finished, kept
from flaky_http import Resource, Web
from images import COMPRESSIONS, KINDS, MIB, LoopDevice, compress, convert, filled_up, reported, run, same_disk
from layers import Image, push_disk, tar
from wire import eventually

INTERRUPTED = 130
SIZE, HELD = 24 * MIB, 16 * MIB

both = pytest.mark.parametrize("target", ["raw", "qcow2"])


@pytest.fixture
def room(tmp_path):
    """The folder for temporary files."""
    folder = tmp_path / "room"
    folder.mkdir()
    return folder


@pytest.fixture
def dvcr(dvcr, room):
    """The commands of a client that keeps temporary files there and nowhere else."""
    dvcr.environment["TMPDIR"] = str(room)
    yield dvcr
    if room.exists():
        assert list(room.iterdir()) == [], "a temporary file stays"


@pytest.fixture
def packed(images):
    """A compressed qcow2, as distributions publish them."""
    return images.image("qcow2-compressed")


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A compressed qcow2 that is as large as its disk."""
    folder = tmp_path_factory.mktemp("noise")
    disk, path = folder / "noise.raw", folder / "noise.qcow2"
    disk.write_bytes(os.urandom(SIZE))
    convert(disk, path, "qcow2", compressed=True)
    return path


@pytest.fixture
def program(tmp_path):
    """Puts a script in front of qemu-img, and gives the environment with it."""

    def program(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "qemu-img"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return program


def nowhere(folder):
    """An environment without any program."""
    empty = folder / "nothing"
    empty.mkdir(exist_ok=True)
    return {"PATH": str(empty)}


def file_of(registry, folder, name="disks/a", tag="v1"):
    """The file in an image, and its name."""
    member, data = Image(registry.host, name, tag).file()
    path = folder / "file-of-image"
    path.write_bytes(data)
    return path, member.name


def clusters(path):
    """How many clusters of a qcow2 that is in order are compressed."""
    checked = json.loads(run("qemu-img", "check", "--output=json", "-f", "qcow2", path))
    assert not checked.get("corruptions") and not checked.get("leaks") and not checked["check-errors"], checked
    return checked.get("compressed-clusters", 0)


# The disk.


@both
@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].format != "iso"])
def test_a_disk_of_any_format_is_the_same_disk_in_another(dvcr, registry, images, tmp_path, name, target):
    original, reference = images.image(name), f"{registry.host}/disks/a"
    result = dvcr.imports(original, f"{reference}:v1", "--format", target)
    path, inner = file_of(registry, tmp_path)
    assert (result["format"], result["file"], inner) == (target, f"disk/disk.{target}", f"disk/disk.{target}")
    assert (result["size"], result["virtual_size"]) == (path.stat().st_size, 8 * MIB)
    assert (result["compression"], result["source_size"]) == ("none", original.stat().st_size)
    labels = Image(registry.host, "disks/a").labels
    assert labels["source-image-format"] == target
    assert labels["source-image-size"] == str(path.stat().st_size)
    assert labels["source-image-virtual-size"] == str(8 * MIB)
    same_disk(original, KINDS[name].driver, path, target)
    again = dvcr.imports(original, f"{reference}:v2", "--format", target)
    assert (again["uploaded"], again["layer"]) == (0, result["layer"])


def test_a_disk_of_any_format_has_one_layer_as_raw(dvcr, registry, images):
    layers = {
        name: dvcr.imports(images.image(name), f"{registry.host}/disks/{name}:v1", "--format", "raw")["layer"]["digest"]
        for name in KINDS
        if KINDS[name].format != "iso"
    }
    assert len(set(layers.values())) == 1, layers
    assert layers["raw"] == dvcr.imports(images.disk(), f"{registry.host}/disks/as-it-is:v1")["layer"]["digest"]


def test_a_compressed_qcow2_is_no_compressed_one_any_more(dvcr, registry, packed, tmp_path):
    assert clusters(packed) > 0
    dvcr.imports(packed, f"{registry.host}/disks/a:v1", "--format", "qcow2")
    path, _ = file_of(registry, tmp_path)
    assert clusters(path) == 0
    same_disk(packed, "qcow2", path, "qcow2")


def test_without_a_format_it_stays_as_it_is(dvcr, registry, packed, tmp_path):
    dvcr.imports(packed, f"{registry.host}/disks/a:v1")
    assert file_of(registry, tmp_path)[0].read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("name", ["iso", "udf"])
def test_a_disc_is_raw_already(dvcr, registry, images, tmp_path, name):
    result = dvcr.imports(images.image(name), f"{registry.host}/disks/a:v1", "--format", "raw")
    path, _ = file_of(registry, tmp_path)
    assert path.read_bytes() == images.image(name).read_bytes()
    assert result["format"] == "iso"


@both
def test_two_versions_cost_little_more_than_one(start, dvcr, tmp_path, target):
    """And nearly twice as compressed qcow2s: what follows a change lies elsewhere in them."""
    dice, versions = random.Random("versions"), []
    data = dice.randbytes(6 * MIB).hex().encode()
    for number in range(2):
        raw, version = tmp_path / "version.raw", tmp_path / f"version{number}.qcow2"
        # The first cluster is of another length when it is compressed.
        raw.write_bytes(data[: 40_000 + number * 5000].ljust(64 << 10, b".") + data[64 << 10 :])
        convert(raw, version, "qcow2", compressed=True)
        versions.append(version)
    for arguments, least, most in [(["--format", target], 1.0, 1.1), ([], 1.8, 2.1)]:
        registry, stored = start("filesystem"), []
        for number, version in enumerate(versions):
            dvcr.imports(version, f"{registry.host}/disks/a:v{number}", *arguments)
            stored.append(dvcr.run("stats", "--output", "json", registry.host).json()["stored_bytes"])
        assert least * stored[0] < stored[1] < most * stored[0], (arguments, stored)


@pytest.mark.parametrize("compression", ["none", "gzip", "xz", "zstd-unsized"])
@pytest.mark.parametrize("size", [1, 513, MIB + 777])
def test_a_raw_disk_keeps_its_size_to_the_byte(dvcr, registry, tmp_path, size, compression):
    """The same disk in any compression has the same layer."""
    disk = tmp_path / "odd.raw"
    disk.write_bytes(b"\xfe" + random.Random(size).randbytes(size - 1))
    plain = dvcr.imports(disk, f"{registry.host}/disks/plain:v1")
    path = compress(disk, compression)
    for source, options in [(path, {}), ("-", {"data": path.read_bytes()})]:
        result = dvcr.imports(source, f"{registry.host}/disks/a:v1", "--format", "raw", **options)
        assert (result["size"], result["layer"]["digest"]) == (size, plain["layer"]["digest"]), source


def test_it_works_with_a_bucket(dvcr, start, packed, images, tmp_path):
    server = start("s3")
    result = dvcr.imports(packed, f"{server.host}/disks/a:v1", "--format", "raw")
    assert dvcr.imports("-", f"{server.host}/disks/a:v2", "--format", "raw", data=packed.read_bytes())["uploaded"] == 0
    dvcr.pulls(f"{server.host}/disks/a:v1", tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == images.disk().read_bytes()
    assert result["size"] == 8 * MIB


# Where it comes from.


@both
def test_a_disk_is_converted_from_every_source(dvcr, registry, start, web, opened, authority, packed, target):
    data = packed.read_bytes()
    secure = opened(Web(tls=authority.certify("127.0.0.1", "localhost")))
    elsewhere = start("filesystem")
    for compression in ["none", "gzip"]:
        push_disk(elsewhere.host, f"other/{compression}", "v1", [tar(("disk/disk.img", data))], compression)
    layers = {}

    def imports(name, source, *arguments, **options):
        result = dvcr.imports(source, f"{registry.host}/disks/{name}:v1", "--format", target, *arguments, **options)
        assert (result["format"], result["source_size"]) == (target, result["source_size"])
        layers[name] = result["layer"]["digest"]

    imports("file", packed)
    imports("http", web.add("/disk", data))
    imports("cut", web.add("/cut", data, cut=len(data) // 3, cuts=3))
    imports("chunked", web.add("/chunked", data, framing="chunked", ranges=False))
    imports("https", secure.add("/disk", data), "--source-ca-file", authority.certificate)
    imports("pipe", "-", data=data)
    with packed.open("rb") as file:
        imports("stdin", "-", stdin=file)
    imports("registry", f"docker://{elsewhere.host}/other/none:v1")
    imports("gzipped-layer", f"docker://{elsewhere.host}/other/gzip:v1")
    with LoopDevice(filled_up(packed, "none"), read_only=True) as device:
        imports("device", device)
    assert len(set(layers.values())) == 1, layers


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", ["qcow2-compressed", "raw"])
def test_a_disk_is_converted_out_of_every_compression(dvcr, registry, web, images, tmp_path, name, compression):
    path = images.compressed(name, compression)
    data, layers = path.read_bytes(), set()
    for number, (source, options) in enumerate([(path, {}), (web.add("/disk", data), {}), ("-", {"data": data})]):
        result = dvcr.imports(source, f"{registry.host}/disks/a:v{number}", "--format", "raw", **options)
        assert (result["compression"], result["source_size"]) == (reported(compression), len(data)), result
        layers.add(result["layer"]["digest"])
    assert len(layers) == 1
    assert file_of(registry, tmp_path)[0].read_bytes() == images.disk().read_bytes()


def test_a_source_that_changes_while_it_is_read_is_read_anew(dvcr, registry, web, images, packed):
    """What comes of it is the later one, whole."""
    later = Resource(images.image("qcow2").read_bytes(), etag='"v2"', modified="Sun, 22 Nov 2026 10:00:00 GMT")
    url = web.add("/disk", packed.read_bytes(), cut=packed.stat().st_size // 2, cuts=1, becomes=later)
    changed = dvcr.imports(url, f"{registry.host}/disks/a:v1", "--format", "raw")
    assert changed["source_size"] == len(later.data)
    plain = dvcr.imports(images.disk(), f"{registry.host}/disks/b:v1")
    assert changed["layer"] == plain["layer"]


def test_a_raw_file_is_not_copied(dvcr, registry, web, images, tmp_path, room):
    """It takes no space, and no program."""
    room.rmdir()
    plain = dvcr.imports(images.disk(), f"{registry.host}/disks/plain:v1")
    for source in [images.disk(), web.add("/disk", images.disk().read_bytes())]:
        result = dvcr.imports(
            source, f"{registry.host}/disks/a:v1", "--format", "raw", environment=nowhere(tmp_path)
        )
        assert (result["format"], result["layer"]) == ("raw", plain["layer"])


# What is written on it.


def test_an_image_tells_where_its_source_is_from(dvcr, registry, web, packed, room):
    url = web.add("/pool/noble.img.xz", compress(packed, "xz").read_bytes())
    secret = url.replace("http://", "http://someone:hidden@") + "?X-Signature=abc"
    dvcr.imports(secret, f"{registry.host}/disks/a:v1", "--format", "raw", "--label", "os=ubuntu")
    image = Image(registry.host, "disks/a")
    assert image.annotations["org.opencontainers.image.source"] == url
    assert image.annotations["org.opencontainers.image.title"] == "noble.img.xz"
    assert image.annotations["org.opencontainers.image.created"] == "2026-11-21T10:00:00Z"
    assert image.labels["os"] == "ubuntu"
    written = json.dumps([image.manifest, image.config])
    assert "hidden" not in written and "abc" not in written and str(room) not in written


def test_a_file_tells_its_name_and_when_it_was_written(dvcr, registry, packed, tmp_path, room):
    source = tmp_path / "my disk.qcow2"
    shutil.copy(packed, source)
    os.utime(source, (1_700_000_000, 1_700_000_000))
    digests = set()
    for tag in ["v1", "v2"]:
        digests.add(dvcr.imports(source, f"{registry.host}/disks/a:{tag}", "--format", "raw")["digest"])
    assert len(digests) == 1, "two imports of one file make one manifest"
    image = Image(registry.host, "disks/a")
    assert image.annotations["org.opencontainers.image.title"] == "my disk.qcow2"
    assert image.annotations["org.opencontainers.image.created"] == "2023-11-14T22:13:20Z"
    assert str(tmp_path) not in json.dumps([image.manifest, image.config])


def test_standard_input_has_no_name(dvcr, registry, packed):
    dvcr.imports("-", f"{registry.host}/disks/a:v1", "--format", "raw", data=packed.read_bytes())
    annotations = Image(registry.host, "disks/a").annotations
    assert "org.opencontainers.image.title" not in annotations
    assert "org.opencontainers.image.created" not in annotations


def test_the_machine_of_another_image_is_kept(dvcr, registry, start, packed):
    elsewhere = start("filesystem")
    layer = tar(("disk/disk.img", packed.read_bytes()))
    push_disk(elsewhere.host, "other/disk", "v1", [layer], architecture="arm64")
    dvcr.imports(f"docker://{elsewhere.host}/other/disk:v1", f"{registry.host}/disks/a:v1", "--format", "raw")
    assert Image(registry.host, "disks/a").config["architecture"] == "arm64"


def test_the_file_may_have_another_name(dvcr, registry, packed, tmp_path):
    dvcr.imports(packed, f"{registry.host}/disks/a:v1", "--format", "raw", "--file-name", "noble.img")
    assert file_of(registry, tmp_path)[1] == "disk/noble.img"


# What is refused.


@pytest.mark.parametrize("target", ["vmdk", "vdi", "iso", "RAW", "", "qcow"])
def test_a_format_that_is_none_is_asked_wrongly(dvcr, registry, images, target):
    done = dvcr.run("import", "--format", target, images.image("raw"), f"{registry.host}/a:v1", code=ASKED_WRONGLY)
    assert "raw or qcow2" in done.errors, done


@both
@pytest.mark.parametrize("compression", ["none", "xz"])
def test_checksums_are_of_the_source_as_it_comes(dvcr, registry, refused, web, images, compression, target):
    path = images.compressed("qcow2-compressed", compression)
    data = path.read_bytes()
    right, wrong = f"sha256:{hashlib.sha256(data).hexdigest()}", f"sha256:{'0' * 64}"
    for number, (source, options) in enumerate([(path, {}), (web.add("/disk", data), {}), ("-", {"data": data})]):
        error = refused(source, "--format", target, "--checksum", wrong, **options)
        assert right.removeprefix("sha256:") in error and "0" * 64 in error, error
        dvcr.imports(
            source, f"{registry.host}/disks/right:v{number}", "--format", target, "--checksum", right,
            "--checksum", f"md5:{hashlib.md5(data).hexdigest()}", **options,
        )  # fmt: skip


def test_checksums_of_a_raw_file_are_checked_too(dvcr, registry, refused, images):
    refused(images.disk(), "--format", "raw", "--checksum", f"sha256:{'0' * 64}")
    right = hashlib.sha256(images.disk().read_bytes()).hexdigest()
    dvcr.imports(images.disk(), f"{registry.host}/disks/a:v1", "--format", "raw", "--checksum", f"sha256:{right}")


def backing_file(path, images):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", images.disk(), path)
    return "backing file"


def data_file(path, _):
    data = path.with_suffix(".data")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", path, "8M")
    return "file"


def encrypted(path, images):
    data = bytearray(images.image("qcow2").read_bytes())
    data[32:36] = struct.pack(">I", 1)
    path.write_bytes(data)
    return "encrypted"


def truncated(path, images):
    data = images.image("qcow2-compressed").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return "qcow2"


def in_several_files(path, _):
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "8M")
    return "vmdk"


def snapshot(path, images):
    run("qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", images.image("vmdk"), path)
    return "parent"


def page(path, _):
    path.write_bytes(b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n")
    return "web page"


def empty(path, _):
    path.write_bytes(b"")
    return "empty"


def archive(path, images):
    disk = images.image("vmdk-stream").read_bytes()
    path.write_bytes(tar(("machine.ovf", b"<?xml version='1.0'?><Envelope/>"), ("disk.vmdk", disk)))
    return ""


def broken_stream(path, images):
    data = images.compressed("qcow2-compressed", "xz").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return "xz"


@both
@pytest.mark.parametrize(
    "make",
    [backing_file, data_file, encrypted, truncated, in_several_files, snapshot, page, empty, archive, broken_stream],
    ids=lambda make: make.__name__,
)
def test_what_is_refused_otherwise_is_refused_before_qemu_sees_it(
    refused, web, images, program, tmp_path, make, target
):
    word, path, ran = make(tmp_path / "bad", images), tmp_path / "bad", tmp_path / "ran"
    environment = program(f"case $1 in --version) ;; *) touch {ran} ;; esac")
    data = path.read_bytes()
    for source, options in [(path, {}), (web.add("/bad", data), {}), ("-", {"data": data})]:
        error = refused(source, "--format", target, environment=environment, **options)
        assert word in error, error
    assert not ran.exists()


def test_limits_are_those_of_the_source(dvcr, registry, refused, packed):
    error = refused(packed, "--format", "raw", "--max-virtual-size", 8 * MIB - 1)
    assert str(8 * MIB - 1) in error
    dvcr.imports(packed, f"{registry.host}/disks/a:v1", "--format", "raw", "--max-virtual-size", 8 * MIB)


def test_a_disk_that_a_guest_wrote_makes_nobody_read_another_file(refused, tmp_path):
    """The raw content of a disk is a guest's, who can write there what looks like a disk of another format."""
    secret, overlay, disk = tmp_path / "secret", tmp_path / "overlay.qcow2", tmp_path / "disk.qcow2"
    secret.write_bytes(b"a secret of the host" + os.urandom(MIB - 20))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, overlay)
    convert(overlay, disk, "qcow2", compressed=True)
    # Raw is told by content alone, so it cannot be stored as what it is.
    assert "backing file" in refused(disk, "--format", "raw")


def test_a_disk_within_a_disk_stays_within(dvcr, registry, tmp_path, images):
    overlay, disk = tmp_path / "overlay.qcow2", tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", images.disk(), overlay)
    convert(overlay, disk, "qcow2", compressed=True)
    dvcr.imports(disk, f"{registry.host}/disks/a:v1", "--format", "qcow2")
    path, _ = file_of(registry, tmp_path)
    same_disk(overlay, "raw", path, "qcow2")


# Where it cannot be done.


@both
def test_converting_needs_qemu_img_and_says_so(refused, web, packed, images, tmp_path, target):
    data = packed.read_bytes()
    sources = [(packed, {}), (web.add("/disk", data), {}), ("-", {"data": data}), (images.image("vdi"), {})]
    for source, options in sources:
        error = refused(source, "--format", target, code=FAILED, environment=nowhere(tmp_path), **options)
        assert "qemu-img" in error and target in error, error


def test_that_qemu_img_is_missing_shows_before_the_source_is_read(refused, web, noise, tmp_path):
    """And not when 100 GB have come."""
    url = web.add("/disk", noise.read_bytes(), hold=HELD)
    patience = ["--idle-timeout", "2", "--retries", "1"]
    assert "qemu-img" in refused(url, "--format", "raw", *patience, code=FAILED, environment=nowhere(tmp_path))


def test_what_qemu_img_says_is_passed_on(refused, packed, program):
    environment = program('case $1 in --version) ;; *) echo "qemu-img: the moon is full" >&2; exit 1 ;; esac')
    error = refused(packed, "--format", "raw", code=FAILED, environment=environment)
    assert "the moon is full" in error


def test_a_folder_that_is_not_there_is_named(refused, web, packed, room):
    room.rmdir()
    data = packed.read_bytes()
    for source, options in [(packed, {}), (web.add("/disk", data), {}), ("-", {"data": data})]:
        error = refused(source, "--format", "raw", code=FAILED, **options)
        assert str(room) in error and "TMPDIR" in error, error


@pytest.fixture
def small_room(room):
    """A folder with space for 8 MiB."""
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", room)
    yield room
    run("umount", room)


@pytest.mark.parametrize("source", ["file", "http", "stdin"])
def test_a_folder_that_the_source_fills_is_named(refused, web, noise, small_room, source):
    options = {"data": noise.read_bytes()} if source == "stdin" else {}
    where = {"file": noise, "stdin": "-", "http": web.add("/disk", noise.read_bytes())}[source]
    error = refused(where, "--format", "raw", code=FAILED, **options)
    assert str(small_room) in error and "space" in error, error
    assert list(small_room.iterdir()) == []


def test_a_folder_that_the_converted_disk_fills_is_named(refused, small_room, tmp_path):
    disk, path = tmp_path / "text.raw", tmp_path / "text.qcow2"
    disk.write_bytes(b"this compresses well\n" * (16 * MIB // 21) + bytes(-(16 * MIB // 21 * 21) % 512))
    convert(disk, path, "qcow2", compressed=True)
    error = refused(path, "--format", "raw", code=FAILED)
    assert str(small_room) in error and "space" in error.lower(), error
    assert list(small_room.iterdir()) == []


# In the middle.


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_of_an_import_that_is_stopped_while_it_reads(dvcr, registry, web, noise, room, end):
    url = web.add("/disk", noise.read_bytes(), hold=HELD)
    before = kept(registry)
    process = dvcr.start("import", "--format", "raw", url, f"{registry.host}/disks/a:v1")
    assert web.resources["/disk"].held.wait(60)
    eventually(lambda: any(path.stat().st_size > 8 * MIB for path in room.iterdir()))
    process.send_signal(end)
    done = finished(["import"], process, INTERRUPTED)
    assert "stopped" in done.error()
    assert list(room.iterdir()) == []
    assert kept(registry) == before


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_of_an_import_that_is_stopped_while_qemu_works(
    dvcr, registry, packed, program, room, tmp_path, end
):
    begun = tmp_path / "begun"
    # Its id is there at once or not at all, and it is that of the sleep.
    environment = program(f"[ $1 = --version ] && exit\necho $$ > {begun}.new\nmv {begun}.new {begun}\nexec sleep 600")
    before = kept(registry)
    arguments = ["import", "--format", "raw", packed, f"{registry.host}/disks/a:v1"]
    process = dvcr.start(*arguments, environment=environment)
    eventually(begun.exists, seconds=60)
    assert len(list(room.iterdir())) == 2
    process.send_signal(end)
    finished(arguments, process, INTERRUPTED)
    assert list(room.iterdir()) == []
    assert kept(registry) == before
    pid = begun.read_text().strip()

    def gone():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        return False

    eventually(gone)


def test_nothing_stays_of_an_import_whose_registry_goes_away(dvcr, registry, packed, room):
    registry.stop()
    # The disk is converted first.
    error = dvcr.refuses(
        "import", "--retries", "1", "--format", "raw", packed, f"{registry.host}/disks/a:v1", code=FAILED
    )
    assert registry.host in error
    assert list(room.iterdir()) == []


def test_an_import_that_was_stopped_works_the_next_time(dvcr, registry, web, noise, tmp_path):
    reference = f"{registry.host}/disks/a:v1"
    url = web.add("/disk", noise.read_bytes(), hold=HELD)
    process = dvcr.start("import", "--format", "raw", url, reference)
    assert web.resources["/disk"].held.wait(60)
    process.terminate()
    finished(["import"], process, INTERRUPTED)
    web.resources["/disk"].go.set()
    dvcr.imports(url, reference, "--format", "raw")
    same_disk(noise, "qcow2", file_of(registry, tmp_path)[0], "raw")


def test_others_cannot_read_what_is_kept_meanwhile(dvcr, registry, web, noise, room):
    url = web.add("/disk", noise.read_bytes(), hold=HELD)
    process = dvcr.start("import", "--format", "raw", url, f"{registry.host}/disks/a:v1")
    try:
        assert web.resources["/disk"].held.wait(60)
        eventually(lambda: list(room.iterdir()))
        for path in room.iterdir():
            assert path.stat().st_mode & 0o077 == 0
    finally:
        web.resources["/disk"].go.set()
        finished(["import"], process)


def test_progress_for_programs_is_a_line_of_json_each(dvcr, registry, packed):
    done = dvcr.run("import", "--progress", "json", "--format", "raw", packed, f"{registry.host}/disks/a:v1")
    for line in done.errors.splitlines():
        told = json.loads(line)
        assert set(told) == {"phase", "done", "total", "rate", "seconds_left"}, told
        assert told["total"] is None or told["done"] <= told["total"], told
