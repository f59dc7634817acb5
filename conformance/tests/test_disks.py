"""GET /disks/<name>/<reference>: the disk of an image over HTTP, for whatever reads disks there."""

import contextlib
import http.client
import json
import os
import pathlib
import random
import secrets
import tarfile

import pytest

from images import MIB, convert, holes, run, same_disk, with_all_holes
from layers import DOCKER_IMAGE, DOCKER_INDEX, compressed, push_disk, special, tar
from test_boot import INIT, bootable, console
from wire import CONFIG, IMAGE, INDEX, LAYER, Client, at_once, descriptor, digest_of, encode, eventually

KIB = 1 << 10
NAME = "team/noble"
PATH = f"/disks/{NAME}/v1"
NOWHERE = digest_of(b"nothing has this digest")

STRETCHES = [
    # Bytes of noise, and bytes of zeros behind them: below and above what is left out of chunks, in whole blocks and not.
    (MIB, 4 * KIB),
    (100 * KIB, 12 * KIB),
    (96 * KIB, 20 * KIB),
    (64 * KIB, 64 * KIB),
    (10_000, 200_000),
    (3 * MIB + 3, 3 * MIB),
    (100, 2 * MIB + 500),
    (2 * MIB, 64 * KIB),
    (777, 0),
]


def noise_and_zeros(stretches=None):
    dice = random.Random("a disk for test_disks")
    return b"".join(dice.randbytes(noise) + bytes(zeros) for noise, zeros in stretches or STRETCHES)


@pytest.fixture(scope="session")
def data():
    """The bytes of a raw disk of an odd size."""
    return noise_and_zeros()


@pytest.fixture(scope="session")
def disk(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("disks") / "noble.raw"
    path.write_bytes(data)
    return path


@pytest.fixture
def reader(registry):
    return Client(registry.host)


@pytest.fixture
def imported(dvcr, registry, disk):
    """What the import of the disk said."""
    return dvcr.imports(disk, f"{registry.host}/{NAME}:v1")


def url(registry, path=PATH):
    return f"http://{registry.host}{path}"


def part(reader, path, first, last):
    answer = reader.get(path, Range=f"bytes={first}-{last}")
    assert answer.status == 206, (first, last, answer)
    return answer.body


def same_everywhere(reader, path, data, tries=20):
    """That a disk is these bytes: whole, in single bytes at its ends, and in ranges anywhere."""
    answer = reader.get(path)
    assert answer.status == 200, answer
    assert answer.body == data
    dice, size = random.Random(len(data)), len(data)
    for _ in range(tries):
        first = dice.randrange(size)
        last = min(size - 1, first + dice.choice([0, 1, 511, 4096, 70_000, MIB]))
        assert part(reader, path, first, last) == data[first : last + 1], (first, last)
    for place in [0, size - 1]:
        assert part(reader, path, place, place) == data[place : place + 1], place


def refused(reader, path, status, *words):
    """That there is no disk, by HEAD as by GET, and a sentence with these words says why."""
    answer = reader.get(path)
    assert answer.status == status, answer
    assert answer.codes()
    (error,) = answer.json()["errors"]
    assert all(word in error["message"] for word in words), error
    assert reader.head(path).status == status


# The bytes.


def test_an_imported_disk_comes_back_byte_for_byte(reader, imported, data):
    assert imported["size"] == len(data) and len(data) % 512
    same_everywhere(reader, PATH, data, 100)


@pytest.mark.parametrize("settings", [{"DVCR_CHUNKING": "false"}, {"DVCR_CHUNK_FROM": "1"}, {"DVCR_COMPRESSION": "0"}])
def test_however_it_is_stored_it_is_the_same_disk(start, dvcr, disk, data, settings):
    registry = start("filesystem", **settings)
    dvcr.imports(disk, f"{registry.host}/{NAME}:v1")
    same_everywhere(Client(registry.host), PATH, data)


@pytest.mark.parametrize("size", [1, 511, 512, 5000, 40_000, MIB - 1536, MIB + 1])
def test_a_small_disk_is_a_disk_too(reader, registry, size):
    """Of some sizes it lies in a record, of others it is stored whole."""
    data = random.Random(size).randbytes(size)
    push_disk(registry.host, NAME, "v1", [tar(("disk/a.img", data))])
    same_everywhere(reader, PATH, data)


def test_an_empty_file_is_an_empty_disk(reader, registry):
    push_disk(registry.host, NAME, "v1", [tar(("disk/a.img", b""))])
    answer = reader.get(PATH)
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")
    answer = reader.get(PATH, Range="bytes=0-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")
    assert reader.get(f"{PATH}?extents").json() == {"size": 0, "extents": []}


def test_it_is_the_same_after_a_restart(reader, registry, imported, data):
    before = reader.head(PATH).headers["ETag"]
    registry.restart()
    assert part(reader, PATH, MIB, 2 * MIB) == data[MIB : 2 * MIB + 1]
    assert reader.head(PATH).headers["ETag"] == before


def test_a_disk_of_another_format_is_served_as_it_is(reader, registry, dvcr, images):
    """A qcow2 is for who can read one: it is not converted."""
    for name in ["qcow2", "qcow2-compressed", "vmdk-stream", "iso"]:
        dvcr.imports(images.image(name), f"{registry.host}/{NAME}:{name}")
        same_everywhere(reader, f"/disks/{NAME}/{name}", images.image(name).read_bytes(), 5)


# The headers.


def test_head_says_what_get_brings(reader, imported, data):
    for path, caching in [
        (PATH, "no-cache"),
        (f"/disks/{NAME}/{imported['digest']}", "max-age=31536000, immutable"),
    ]:
        head, get = reader.head(path), reader.get(path)
        assert (head.status, head.body, get.status) == (200, b"", 200)
        assert head.lasting() == get.lasting()
        assert head.headers["Content-Length"] == str(len(data))
        assert head.headers["Content-Type"] == "application/octet-stream"
        assert head.headers["Accept-Ranges"] == "bytes"
        assert head.headers["Content-Location"] == f"/disks/{NAME}/{imported['digest']}"
        assert head.headers["Content-Disposition"] == 'attachment; filename="disk.raw"'
        assert head.headers["Cache-Control"] == caching
        # A strong one: ranges are put together by it.
        assert head.headers["ETag"][0] == head.headers["ETag"][-1] == '"'


def test_a_part_has_the_headers_of_the_whole(reader, imported):
    whole, half = reader.head(PATH).headers, reader.get(PATH, Range="bytes=1-2").headers
    for name in ["ETag", "Accept-Ranges", "Content-Location", "Content-Disposition", "Cache-Control", "Content-Type"]:
        assert half[name] == whole[name], name


def test_the_same_disk_in_another_image_is_the_same_to_a_cache(reader, registry, dvcr, imported, disk):
    other = dvcr.imports(disk, f"{registry.host}/{NAME}:v2", "--label", "os=ubuntu")
    assert other["digest"] != imported["digest"]
    one, two = reader.head(PATH).headers, reader.head(f"/disks/{NAME}/v2").headers
    assert one["ETag"] == two["ETag"]
    assert (one["Content-Location"], two["Content-Location"]) == tuple(
        f"/disks/{NAME}/{image['digest']}" for image in [imported, other]
    )


@pytest.mark.parametrize("name", ['a".img', "a\\b.img", "a b.img", "дом.img", "a\r\nX-Evil: yes.img", "a;b=c\x7f"])
def test_a_name_that_a_header_cannot_have_does_no_harm(reader, registry, name):
    push_disk(registry.host, NAME, "v1", [tar((f"disk/{name}", b"the disk"))])
    answer = reader.get(PATH)
    assert (answer.status, answer.body) == (200, b"the disk")
    assert answer.headers["Content-Disposition"] in (None, "attachment")
    assert answer.headers["X-Evil"] is None


# Ranges.


def test_a_range_is_cut_to_the_disk(reader, imported, data):
    size = len(data)
    for wanted, first, last in [
        ("0-0", 0, 0),
        ("500-1499", 500, 1499),
        ("500-", 500, size - 1),
        ("-500", size - 500, size - 1),
        ("-1", size - 1, size - 1),
        (f"{size - 1}-{size - 1}", size - 1, size - 1),
        (f"{size - 10}-{size * 2}", size - 10, size - 1),
        (f"-{size * 2}", 0, size - 1),
        (f"0-{2**64 - 1}", 0, size - 1),
    ]:
        answer = reader.get(PATH, Range=f"bytes={wanted}")
        assert answer.status == 206, wanted
        assert answer.body == data[first : last + 1], wanted
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert answer.headers["Content-Length"] == str(last - first + 1)


def test_a_range_that_the_disk_does_not_have_cannot_be_satisfied(reader, imported, data):
    """What follows in the layer is no part of the disk."""
    size = len(data)
    for wanted in [f"{size}-", f"{size}-{size}", f"{size + 5000}-{size + 6000}", "500-0", "-0", "x"]:
        answer = reader.get(PATH, Range=f"bytes={wanted}")
        assert (answer.status, answer.codes()) == (416, ["SIZE_INVALID"]), wanted
        assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_several_ranges_and_other_units_mean_the_whole(reader, registry):
    push_disk(registry.host, NAME, "v1", [tar(("disk/a.img", b"0123456789"))])
    for wanted in ["bytes=0-1,5-6", "lines=0-1", "0-1"]:
        answer = reader.get(PATH, Range=wanted)
        assert (answer.status, answer.body) == (200, b"0123456789"), wanted
        assert answer.headers["Content-Range"] is None


def test_if_range_asks_for_the_whole_of_anything_else(reader, registry):
    push_disk(registry.host, NAME, "v1", [tar(("disk/a.img", b"0123456789"))])
    etag = reader.head(PATH).headers["ETag"]
    answer = reader.get(PATH, Range="bytes=1-2", If_Range=etag)
    assert (answer.status, answer.body) == (206, b"12")
    for other in [f'"{NOWHERE}"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"]:
        answer = reader.get(PATH, Range="bytes=1-2", If_Range=other)
        assert (answer.status, answer.body) == (200, b"0123456789"), other


def test_head_ignores_ranges(reader, imported, data):
    answer = reader.send("HEAD", PATH, headers={"Range": "bytes=1-2"})
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(data)))


def test_a_client_that_has_the_disk_is_not_sent_it_again(reader, imported):
    headers = reader.head(PATH).headers
    for condition in [headers["ETag"], f'"x", {headers["ETag"]}', "*"]:
        answer = reader.get(PATH, If_None_Match=condition)
        assert (answer.status, answer.body) == (304, b""), condition
        # It is by these that a cache goes on.
        assert [answer.headers[name] for name in ["ETag", "Cache-Control", "Content-Location"]] == [
            headers[name] for name in ["ETag", "Cache-Control", "Content-Location"]
        ]
    assert reader.send("HEAD", PATH, headers={"If-None-Match": headers["ETag"]}).status == 304
    assert reader.get(PATH, Range="bytes=0-0", If_None_Match=headers["ETag"]).status == 304
    assert reader.get(PATH, Range="bytes=0-0", If_None_Match=f'"{NOWHERE}"').status == 206


def test_a_disk_is_never_compressed_on_the_way(reader, registry):
    push_disk(registry.host, NAME, "v1", [tar(("disk/a.img", bytes(100_000)))])
    for encoding in ["gzip", "zstd, gzip, deflate", "*"]:
        answer = reader.get(PATH, Accept_Encoding=encoding)
        assert answer.headers["Content-Encoding"] is None
        assert (answer.headers["Content-Length"], answer.body) == ("100000", bytes(100_000))


# Tags, digests, names.


def test_a_tag_that_moves_gives_the_new_disk_and_the_digest_the_old_one(reader, registry, dvcr, imported, data, tmp_path):
    old, changed = reader.head(PATH).headers, tmp_path / "changed.raw"
    changed.write_bytes(new := b"changed" + data[7:-100])
    moved = dvcr.imports(changed, f"{registry.host}/{NAME}:v1")
    assert reader.get(PATH).body == new
    assert reader.head(PATH).headers["Content-Location"] == f"/disks/{NAME}/{moved['digest']}"
    assert reader.get(old["Content-Location"]).body == data
    # A client that has begun with the old disk does not take parts of the new one for it.
    answer = reader.get(PATH, Range="bytes=0-6", If_Range=old["ETag"])
    assert (answer.status, len(answer.body)) == (200, len(new))
    assert reader.get(PATH, If_None_Match=old["ETag"]).status == 200


def test_a_repository_may_have_any_name(reader, registry):
    for name in ["a", "disks", "disks/disks", "v2", "v2/a/blobs", "a/b/c/d/e", "extents"]:
        push_disk(registry.host, name, "latest", [tar(("disk/a.img", name.encode()))])
        assert reader.get(f"/disks/{name}/latest").body == name.encode()
        assert reader.get(f"/disks/{name.replace('/', '%2F')}/latest").body == name.encode()


def test_an_image_is_served_only_from_repositories_that_have_it(reader, registry):
    digest, _ = push_disk(registry.host, NAME, "v1", [tar(("disk/a.img", b"the disk"))])
    push_disk(registry.host, "team/other", "v1", [tar(("disk/a.img", b"another"))])
    assert reader.get(f"/disks/{NAME}/{digest}").body == b"the disk"
    refused(reader, f"/disks/team/other/{digest}", 404)


def test_what_is_not_there_is_not_found(reader, imported):
    for path in [
        "/disks/team/none/v1",
        "/disks/team/v1",
        f"/disks/{NAME}/v2",
        f"/disks/{NAME}/{NOWHERE}",
        f"/disks/{NAME}/{imported['layer']['digest']}",
        f"/disks/{NAME}/v2?extents",
        f"/disks/{NAME}",
        "/disks/a",
        "/disks/",
        "/disks",
        f"/v2/disks/{NAME}/v1",
    ]:
        refused(reader, path, 404)


def test_what_was_deleted_is_not_found_any_more(reader, registry):
    """Also when it was read just before."""
    layers = [tar(("disk/a.img", os.urandom(5000)))]
    for what in ["layer", "manifest", "tag"]:
        digest, _ = push_disk(registry.host, NAME, "v1", layers)
        by_digest = f"/disks/{NAME}/{digest}"
        assert [reader.get(path).status for path in [PATH, by_digest]] == [200, 200]
        path = {"layer": f"blobs/{digest_of(layers[0])}", "manifest": f"manifests/{digest}", "tag": "manifests/v1"}[what]
        assert reader.delete(f"/v2/{NAME}/{path}").status == 202
        refused(reader, PATH, 404)
        assert reader.get(by_digest).status == (200 if what == "tag" else 404)


@pytest.mark.parametrize(
    "path",
    [
        "/disks/UPPER/v1",
        "/disks/../v1",
        "/disks/a//v1",
        "/disks/-a/v1",
        "/disks/a%00/v1",
        "/disks/a/v1:v2",
        "/disks/a/.v1",
        f"/disks/a/{'v' * 129}",
        "/disks/a/",
        "/disks/a/sha256:short",
        f"/disks/a/md5:{'0' * 32}",
        f"/disks/a/sha256:{'A' * 64}",
    ],
)
def test_what_is_no_name_is_refused(reader, path):
    refused(reader, path, 400)


def test_nothing_but_reading_is_allowed(reader, imported):
    for path in [PATH, f"/disks/{NAME}/v2", "/disks/a"]:
        for method in ["POST", "PUT", "PATCH", "DELETE"]:
            answer = reader.send(method, path, b"" if method == "DELETE" else b"data")
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD"), (method, path)
            assert answer.codes()


# Images in every shape.


def entry(name, data, form=tarfile.GNU_FORMAT, **headers):
    """A file in a tar; `headers` are PAX's for it."""
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = len(data), headers
    return member.tobuf(form, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def sized(name, data, field):
    """A file in a tar whose header has this in place of its size."""
    header = bytearray(entry(name, data)[:512])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + entry(name, data)[512:]


def sized_in_base_256(name, data, size):
    """As files of more than 8 GiB are."""
    return sized(name, data, b"\x80" + size.to_bytes(11, "big"))


def sized_in_pax(name, data, size):
    """As files of more than 8 GiB are in POSIX's format, where the header itself has no size."""
    headers = entry(name, b"", PAX, size=str(size))[:-512]
    assert headers
    return headers + sized(name, data, b"%011o\0" % 0)


END = bytes(1024)
PAX = tarfile.PAX_FORMAT
LONG = f"{'n' * 200}.img"


def folder(name):
    return tar(special(name, tarfile.DIRTYPE))[:512]


SHAPES = {
    "a file": lambda data: entry("disk/a.img", data) + END,
    "a path with a dot": lambda data: entry("./disk/a.img", data) + END,
    "a path from the root": lambda data: entry("/disk/a.img", data) + END,
    "a folder": lambda data: folder("disk/") + entry("disk/a.img", data) + END,
    "folders with dots": lambda data: folder("./") + folder("./disk/") + entry("./disk/a.img", data) + END,
    "files around it": lambda data: tar(
        *[("etc/motd", b"hello"), ("bin/sh", os.urandom(2 * MIB)), ("disk/a.img", data)],
        *[("disk.txt", b"no"), ("z", bytes(9999))],
    ),
    "PAX headers": lambda data: entry("disk/a.img", data, PAX, mtime="1.5", **{"SCHILY.xattr.user.a": "b" * 2000}) + END,
    "PAX headers for all": lambda data: tarfile.TarInfo.create_pax_global_header({"comment": "made by a test"})
    + entry("disk/a.img", data)
    + END,
    "size in a PAX header": lambda data: sized_in_pax("disk/a.img", data, len(data)) + END,
    "size in base 256": lambda data: sized_in_base_256("disk/a.img", data, len(data)) + END,
    "ustar": lambda data: entry("disk/a.img", data, tarfile.USTAR_FORMAT) + END,
    "no end": lambda data: entry("disk/a.img", data),
    "a long end": lambda data: entry("disk/a.img", data) + bytes(20 * 512),
    "a long name of GNU": lambda data: entry(f"disk/{LONG}", data) + END,
    "a long name of PAX": lambda data: entry(f"disk/{LONG}", data, PAX) + END,
}
"""Layers with a disk, by what is special about them."""


@pytest.mark.parametrize("shape", SHAPES)
def test_the_disk_is_found_in_a_layer_of_any_shape(reader, registry, shape):
    for number, stretches in enumerate([[(5000, 10)], [(MIB, 100 * KIB), (300_001, 2 * MIB), (7, 5)]]):
        data = noise_and_zeros(stretches)
        push_disk(registry.host, NAME, f"v{number}", [SHAPES[shape](data)])
        path = f"/disks/{NAME}/v{number}"
        same_everywhere(reader, path, data)
        name = LONG if "long name" in shape else "a.img"
        assert reader.head(path).headers["Content-Disposition"] == f'attachment; filename="{name}"'
        consistent(extents(reader, path), data)


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("place", range(3))
def test_the_disk_may_be_in_any_layer(reader, registry, docker, place):
    data = noise_and_zeros([(MIB, MIB), (100, 0)])
    layers = [tar(("etc/motd", b"hello")), tar(special("disk", tarfile.DIRTYPE), ("disks/x", os.urandom(MIB)))]
    layers.insert(place, tar(("disk/a.img", data)))
    push_disk(registry.host, NAME, "v1", layers, docker=docker)
    # And again, when it is known where it is.
    for _ in range(2):
        same_everywhere(reader, PATH, data, 5)


def test_a_layer_is_the_same_disk_alone_and_among_others(reader, registry):
    """What is remembered of one image is not taken for the other."""
    data, layer = b"the disk", tar(("disk/a.img", b"the disk"))
    images = {"alone": [layer], "above": [tar(("x", b"x")), layer], "twice": [tar(("disk/b", b"")), layer]}
    for tag, layers in images.items():
        push_disk(registry.host, NAME, tag, layers)
    for _ in range(2):
        assert reader.get(f"/disks/{NAME}/alone").body == data
        assert reader.get(f"/disks/{NAME}/above").body == data
        refused(reader, f"/disks/{NAME}/twice", 422, "a.img", "b")


def push_index(host, tag, media_type, entries):
    """An index of (platform or nothing, digest, size); gives its digest and size."""
    kind = IMAGE if media_type == INDEX else DOCKER_IMAGE
    manifests = []
    for platform, digest, size, *other_kind in entries:
        manifest = descriptor(*(other_kind or [kind]), digest, size)
        if platform:
            manifest["platform"] = dict(zip(["os", "architecture"], platform.split("/"), strict=True))
        manifests.append(manifest)
    index = encode({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})
    answer = Client(host).put_manifest(NAME, tag or digest_of(index), index, media_type)
    assert answer.status == 201, answer
    return digest_of(index), len(index)


def push_for(host, architecture, docker=False):
    """An image without a tag whose disk says what it is for."""
    layers = [tar(("disk/a.img", architecture.encode()))]
    return push_disk(host, NAME, None, layers, docker=docker, architecture=architecture)


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_INDEX], ids=["oci", "docker"])
def test_the_platform_chooses_from_an_index(reader, registry, media_type):
    pushed = {name: push_for(registry.host, name, media_type == DOCKER_INDEX) for name in ["arm64", "amd64", "s390x"]}
    entries = [(f"linux/{name}", *image) for name, image in pushed.items()]
    # Attestations, as docker buildx adds them, are for no platform.
    entries.insert(0, ("unknown/unknown", *push_for(registry.host, "attestation", media_type == DOCKER_INDEX)))
    digest, _ = push_index(registry.host, "v1", media_type, entries)
    for path in [PATH, f"/disks/{NAME}/{digest}"]:
        for query, architecture in [
            ("", "amd64"),
            ("?platform=linux/amd64", "amd64"),
            ("?platform=linux/arm64", "arm64"),
            ("?platform=linux%2Farm64", "arm64"),
            ("?platform=linux/arm64/v8", "arm64"),
            ("?platform=linux/s390x", "s390x"),
        ]:
            answer = reader.get(path + query)
            assert (answer.status, answer.body) == (200, architecture.encode()), query
            # Not the index, of which the query would have to be known too.
            assert answer.headers["Content-Location"] == f"/disks/{NAME}/{pushed[architecture][0]}"
            assert reader.get(answer.headers["Content-Location"]).body == answer.body
        assert reader.get(f"{path}?platform=linux/s390x&extents").json()["size"] == 5
    refused(reader, f"{PATH}?platform=linux/riscv64", 404, "linux/riscv64", "linux/arm64", "linux/s390x")
    refused(reader, f"{PATH}?platform=windows/amd64", 404, "windows/amd64")
    refused(reader, f"{PATH}?platform=unknown/unknown", 404)


def test_the_only_image_of_an_index_is_taken_unless_another_is_asked_for(reader, registry):
    push_index(registry.host, "v1", INDEX, [("linux/arm64", *push_for(registry.host, "arm64"))])
    assert reader.get(PATH).body == b"arm64"
    refused(reader, f"{PATH}?platform=linux/amd64", 404, "linux/amd64", "linux/arm64")
    # One that is for no platform fits all.
    push_index(registry.host, "v1", INDEX, [(None, *push_for(registry.host, "any"))])
    for query in ["", "?platform=linux/riscv64"]:
        assert reader.get(PATH + query).body == b"any"


def test_an_index_may_name_an_index_but_not_for_ever(reader, registry):
    inner = push_index(registry.host, None, INDEX, [("linux/arm64", *push_for(registry.host, "arm64"))])
    middle = push_index(registry.host, "two", INDEX, [(None, *inner, INDEX)])
    push_index(registry.host, "three", INDEX, [(None, *middle, INDEX)])
    for query in ["", "?platform=linux/arm64"]:
        assert reader.get(f"/disks/{NAME}/two{query}").body == b"arm64"
    refused(reader, f"/disks/{NAME}/three", 422, "index")


def test_an_index_with_nothing_in_it_has_no_disk(reader, registry):
    push_index(registry.host, "v1", INDEX, [])
    refused(reader, PATH, 404)


@pytest.mark.parametrize("platform", ["", "linux", "arm64", "/", "linux/", "/arm64", "linux/arm64/v8/x"])
def test_what_is_no_platform_is_refused(reader, registry, platform):
    push_index(registry.host, "v1", INDEX, [("linux/arm64", *push_for(registry.host, "arm64"))])
    refused(reader, f"{PATH}?platform={platform}", 400, "platform")


# What cannot be served.


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_layer_is_refused_with_the_way_out(reader, registry, compression, docker):
    layer = tar(("disk/a.img", noise_and_zeros([(3000, 100)])))
    push_disk(registry.host, NAME, "v1", [layer], compression, docker)
    name = digest_of(compressed(layer, compression))
    refused(reader, PATH, 422, name, compression, "compressed", "dvcr import", "docker push")
    refused(reader, f"{PATH}?extents", 422, compression)


def link(name, target):
    return special(name, tarfile.SYMTYPE, target)


REFUSALS = {
    "two files": ([tar(("disk/a.img", b"a"), ("disk/b.img", b"b"))], ["a.img", "b.img"]),
    "two files in two layers": ([tar(("disk/a.img", b"a")), tar(("disk/b.img", b"b"))], ["a.img", "b.img"]),
    "a file twice": ([tar(("disk/a.img", b"a")), tar(("disk/a.img", b"b"))], ["a.img"]),
    "a link": ([tar(link("disk/a.img", "/etc/passwd"))], ["disk/a.img", "link"]),
    "a hard link": ([tar(("a.img", b"a"), special("disk/a.img", tarfile.LNKTYPE, "a.img"))], ["disk/a.img", "link"]),
    "a link in place of the folder": ([tar(("d/a.img", b"a"), link("disk", "d"))], ["disk", "link"]),
    "a device": ([tar(special("disk/sda", tarfile.BLKTYPE))], ["disk/sda", "device"]),
    "a pipe": ([tar(special("disk/a", tarfile.FIFOTYPE))], ["disk/a", "pipe"]),
    "a folder in the folder": ([tar(special("disk/sub", tarfile.DIRTYPE), ("disk/a.img", b"a"))], ["disk/sub"]),
    "a file that is too deep": ([tar(("disk/sub/a.img", b"a"))], ["disk/sub/a.img"]),
    "a whiteout": ([tar(("disk/a.img", b"a")), tar(("disk/.wh.a.img", b""))], [".wh.a.img", "delete"]),
    "a whiteout of all": ([tar(("disk/a.img", b"a")), tar(("disk/.wh..wh..opq", b""))], [".wh..wh..opq", "delete"]),
    "a whiteout of the folder": ([tar(("disk/a.img", b"a")), tar((".wh.disk", b""))], [".wh.disk", "delete"]),
    "no file": ([tar(("etc/motd", b"hello"))], ["disk/"]),
    "a folder alone": ([tar(special("disk", tarfile.DIRTYPE))], ["disk/"]),
    "another folder": ([tar(("disks/a.img", b"a"), ("boot/disk/a.img", b"a"))], ["disk/"]),
    "no layers": ([], ["disk/"]),
    "a layer without an entry": ([bytes(10240)], ["disk/"]),
    "no tar": ([bytes([7]) * 2048], ["layer"]),
    "text": ([b'{"spdxVersion": "SPDX-2.3"}' * 100], ["layer"]),
    "a checksum that is wrong": ([b"x" + tar(("disk/a.img", b"a"))[1:]], ["layer"]),
}
"""Layers that are no image of a disk, and what the refusal says."""


@pytest.mark.parametrize("refusal", REFUSALS)
def test_an_image_without_one_clear_disk_is_refused(reader, registry, refusal):
    layers, words = REFUSALS[refusal]
    push_disk(registry.host, NAME, "v1", layers)
    # And again, when something may be remembered.
    for _ in range(2):
        refused(reader, PATH, 422, *words)
    refused(reader, f"{PATH}?extents", 422, *words)


@pytest.mark.parametrize("size", [3000, 3 * MIB])
def test_a_layer_that_was_cut_short_is_refused(reader, registry, size):
    """The disk that its header speaks of is not there."""
    whole = entry("disk/a.img", noise_and_zeros([(size, 0)]))
    for length in [300, 512, 513, 1024, 512 + size // 2, 512 + size - 1]:
        push_disk(registry.host, NAME, "v1", [whole[:length]])
        refused(reader, PATH, 422, "layer")


@pytest.mark.parametrize("size", [1025, 1 << 40, (1 << 62) + 7, (1 << 63) - 1, (1 << 64) - 1, 1 << 64])
def test_a_size_that_the_layer_does_not_have_is_refused(reader, registry, size):
    data = bytes([7]) * 1024
    for number, layer in enumerate(
        [
            sized_in_base_256("disk/a.img", data, size),
            sized_in_pax("disk/a.img", data, size),
            sized_in_base_256("etc/motd", data, size),
        ]
    ):
        push_disk(registry.host, NAME, f"v{number}", [layer])
        refused(reader, f"/disks/{NAME}/v{number}", 422)


def test_a_header_that_is_as_long_as_a_disk_is_refused(reader, registry):
    """Readers of tar take a long name into memory whole."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 64 * MIB
    layer = name.tobuf(tarfile.GNU_FORMAT) + bytes(64 * MIB) + entry("disk/a.img", b"yes") + bytes(1024)
    push_disk(registry.host, NAME, "v1", [layer])
    for _ in range(3):
        refused(reader, PATH, 422, "more headers than the image of a disk")
    assert registry.peak_memory() < 192


@pytest.mark.parametrize("form", ["gnu", "pax 0.0", "pax 0.1", "pax 1.0"])
def test_a_file_that_is_stored_sparse_is_refused(reader, registry, tmp_path, form):
    """In the layer are its pieces and a map of them."""
    (tmp_path / "disk").mkdir()
    with (tmp_path / "disk/a.img").open("wb") as file:
        file.write(os.urandom(5000))
        file.seek(3 * MIB)
        file.write(os.urandom(5000))
    name, *version = form.split()
    options = [f"--format={name}", *(f"--sparse-version={number}" for number in version)]
    run("tar", "-C", tmp_path, "--sparse", *options, "-cf", tmp_path / "layer", "disk/a.img")
    assert (tmp_path / "layer").stat().st_size < MIB
    push_disk(registry.host, NAME, "v1", [(tmp_path / "layer").read_bytes()])
    refused(reader, PATH, 422, "a.img", "sparse")


def test_a_manifest_that_is_no_image_is_refused(reader, registry):
    """An SBOM, a Helm chart, a signature: each a manifest of an image by its type."""
    empty = descriptor("application/vnd.oci.empty.v1+json", reader.push_blob(NAME, b"{}"), 2)
    sbom = b'{"spdxVersion": "SPDX-2.3"}' * 10
    layer = descriptor("application/spdx+json", reader.push_blob(NAME, sbom), len(sbom))
    for number, fields in enumerate(
        [
            {"artifactType": "application/spdx+json", "config": empty, "layers": [layer]},
            {"artifactType": "application/x.none", "config": empty, "layers": [empty]},
            {"config": descriptor(CONFIG, empty["digest"], 2), "layers": []},
        ]
    ):
        manifest = {"schemaVersion": 2, "mediaType": IMAGE, **fields}
        answer = reader.put_manifest(NAME, f"v{number}", manifest)
        assert answer.status == 201, answer
        refused(reader, f"/disks/{NAME}/v{number}", 422)


def test_layers_that_are_not_here_are_named(start):
    """A mirror of parts of images may have the manifest alone."""
    reader = Client(start("filesystem", DVCR_MISSING_BLOBS="accept").host)
    config = descriptor(CONFIG, reader.push_blob(NAME, b"{}"), 2)
    manifest = {"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": [descriptor(LAYER, NOWHERE, 5000)]}
    assert reader.put_manifest(NAME, "v1", manifest).status == 201
    refused(reader, PATH, 404, NOWHERE)


# Extents.


def extents(reader, path):
    """The extents of a disk as (start, end, whether it is a hole), by an answer that must have exactly these fields."""
    separator = "&" if "?" in path else "?"
    answer = reader.get(f"{path}{separator}extents")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json"), answer
    said = answer.json()
    assert set(said) == {"size", "extents"}
    assert said["size"] == int(reader.head(path).headers["Content-Length"])
    found = []
    for extent in said["extents"]:
        assert set(extent) == {"start", "length", "data", "zero"}
        assert extent["data"] is not extent["zero"], extent
        found.append((extent["start"], extent["start"] + extent["length"], extent["zero"]))
    return found


def consistent(found, data):
    """That extents are those of a disk: without gaps, no two neighbours alike, and all holes are zeros."""
    assert [start for start, _, _ in found] == [0, *(end for _, end, _ in found)][:-1]
    assert not found or found[-1][1] == len(data)
    assert all(start < end for start, end, _ in found)
    assert all(one[2] != two[2] for one, two in zip(found, found[1:], strict=False))
    for start, end, hole in found:
        assert not hole or not data[start:end].strip(b"\0"), (start, end)


def in_a_hole(found, start, end):
    return any(hole and first <= start and end <= last for first, last, hole in found)


def test_the_extents_of_a_disk_are_its_data_and_its_holes(reader, imported, data):
    found = extents(reader, PATH)
    consistent(found, data)
    # Of zeros, 16 KiB and more in whole blocks of 4 KiB are not stored.
    position = 0
    for noise, zeros in STRETCHES:
        begin, position = position + noise, position + noise + zeros
        first, last = -(-begin // 4096) * 4096, position // 4096 * 4096
        if last - first >= 16 * KIB:
            assert in_a_hole(found, first, last), (begin, position)
    for start in range(0, len(data) - 64 * KIB, 64 * KIB):
        if not data[start : start + 64 * KIB].strip(b"\0"):
            assert in_a_hole(found, start, start + 64 * KIB), start
    # Around each end, ranges are what the file has there.
    for _, end, _ in found[:-1]:
        assert part(reader, PATH, end - 10, end + 9) == data[end - 10 : end + 10], end


def test_what_is_no_hole_is_what_is_stored(reader, registry, imported, data):
    """Noise cannot be stored in less: the map does not promise holes that are none, nor hides those that are."""
    is_data = sum(end - start for start, end, hole in extents(reader, PATH) if not hole)
    noise = sum(noise for noise, _ in STRETCHES)
    assert noise <= is_data <= noise + 100 * KIB


def test_a_real_disk_has_the_holes_that_qemu_sees(reader, registry, dvcr, images, tmp_path):
    path = with_all_holes(images.disk(64), tmp_path / "disk.raw")
    dvcr.imports(path, f"{registry.host}/{NAME}:v1")
    found = extents(reader, PATH)
    consistent(found, path.read_bytes())
    seen = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", path))
    seen = [(extent["start"], extent["start"] + extent["length"]) for extent in seen if not extent["data"]]
    large = [hole for hole in seen if hole[1] - hole[0] >= MIB]
    assert large and seen == holes(path)
    for start, end in large:
        assert in_a_hole(found, start, end), (start, end)
    # The other way round: cp leaves out what is zero in whole blocks, of whatever size.
    for start, end, hole in found:
        if hole and end - start >= MIB:
            assert any(first <= start + 64 * KIB and end - 64 * KIB <= last for first, last in large), (start, end)


def test_a_disk_that_is_stored_whole_is_all_data(start, dvcr, disk, data):
    registry = start("filesystem", DVCR_CHUNKING="false")
    dvcr.imports(disk, f"{registry.host}/{NAME}:v1")
    assert extents(Client(registry.host), PATH) == [(0, len(data), False)]


def test_a_small_disk_is_all_data(reader, registry):
    push_disk(registry.host, NAME, "v1", [tar(("disk/a.img", bytes(100_000)))])
    assert extents(reader, PATH) == [(0, 100_000, False)]


@pytest.mark.parametrize("size", [8 * MIB, 8 * MIB + 777])
def test_a_disk_of_zeros_is_a_hole(reader, registry, dvcr, tmp_path, size):
    path = tmp_path / "zeros.raw"
    path.touch()
    os.truncate(path, size)
    dvcr.imports(path, f"{registry.host}/{NAME}:v1")
    found = extents(reader, PATH)
    consistent(found, bytes(size))
    assert in_a_hole(found, 0, size // 4096 * 4096), found
    same_everywhere(reader, PATH, bytes(size))


def test_extents_have_the_place_of_the_disk_and_are_no_disk(reader, imported, data):
    for path, caching in [(PATH, "no-cache"), (f"/disks/{NAME}/{imported['digest']}", "max-age=31536000, immutable")]:
        for query in ["?extents", "?extents=", "?extents=true", "?platform=linux/amd64&extents"]:
            get, head = reader.get(path + query), reader.head(path + query)
            assert (get.status, get.json()["size"]) == (200, len(data))
            assert (head.status, head.body) == (200, b"")
            for answer in [get, head]:
                assert answer.headers["Content-Type"] == "application/json"
                assert answer.headers["Content-Location"] == f"/disks/{NAME}/{imported['digest']}"
                assert answer.headers["Cache-Control"] == caching
                # It is neither called like the disk nor has it its ranges.
                assert answer.headers["Content-Disposition"] is None and answer.headers["Accept-Ranges"] is None
                assert answer.headers["ETag"] != reader.head(path).headers["ETag"]
            # HEAD need not know the length, but if it says one, it is that.
            assert head.headers["Content-Length"] in (None, get.headers["Content-Length"], str(len(get.body)))
    assert reader.get(f"{PATH}?extents", Range="bytes=0-0").status == 200


# Clients.


def test_curl_resumes_and_knows_the_name(registry, imported, disk, data, tmp_path):
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    run("curl", "-sS", "--fail", "-C", "-", "-D", tmp_path / "headers", "-o", tmp_path / "half", url(registry))
    assert (tmp_path / "half").read_bytes() == data
    assert " 206 " in (tmp_path / "headers").read_text().splitlines()[0]
    run("curl", "-sS", "--fail", "-OJ", url(registry), cwd=tmp_path)
    assert (tmp_path / "disk.raw").read_bytes() == data


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_qemu_img_reads_a_disk_where_it_is(registry, dvcr, images, tmp_path, name):
    """It tells a qcow2 by its first bytes, as it does of a file.

    With -m 1, one reading at a time: with more, qemu-img 7.2 waits for ever once in thirty times or so, after it has got all
    that it asked for, from whatever server.
    """
    digest = dvcr.imports(images.image(name), f"{registry.host}/{NAME}:v1")["digest"]
    addresses = [url(registry), url(registry, f"/disks/{NAME}/{digest}")]
    addresses.append("json:" + json.dumps({"driver": name, "file": {"driver": "http", "url": addresses[0]}}))
    for number, address in enumerate(addresses):
        info = json.loads(run("qemu-img", "info", "--output=json", address))
        assert (info["format"], info["virtual-size"]) == (name, 8 * MIB)
        copy = tmp_path / f"copy{number}"
        run("qemu-img", "convert", "-m", 1, "-O", "raw", address, copy)
        same_disk(images.disk(), "raw", copy, "raw")
    if name == "qcow2":
        run("qemu-img", "check", "-f", "qcow2", addresses[0])


def test_nbdkit_serves_a_disk_from_the_registry(registry, imported, data, tmp_path):
    """As CDI does when it imports: nbdkit's curl plugin, and qemu-img on the socket. nbdcopy asks for much at once."""
    nbdkit = ["nbdkit", "--readonly", "-U", "-", "--filter=cacheextents", "--filter=retry", "curl", f"url={url(registry)}"]
    info = json.loads(run(*nbdkit, "--run", 'nbdinfo --json "$uri"'))
    assert info["exports"][0]["export-size"] == len(data)
    run(*nbdkit, "--run", f'nbdcopy "$uri" {tmp_path}/nbdcopy.raw')
    assert (tmp_path / "nbdcopy.raw").read_bytes() == data
    run(*nbdkit, "--run", f'qemu-img convert -f raw -O raw "$uri" {tmp_path}/qemu.raw')
    # qemu counts in sectors.
    assert (tmp_path / "qemu.raw").read_bytes() == data + bytes(-len(data) % 512)


# It reads one piece at a time, for the reason that is said of qemu-img above.
WRITER = """#!/bin/busybox sh
/bin/busybox mkdir -p /dev
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox dd if=/dev/nvme0n1 bs=64k count=256 iflag=direct 2>/dev/null | /bin/busybox sha256sum
/bin/busybox echo "{text}" | /bin/busybox dd of=/dev/nvme0n1 bs=512 seek={sector} conv=notrunc,fsync 2>/dev/null
"""


@pytest.mark.slow
def test_a_machine_runs_from_the_registry_and_writes_to_an_overlay(reader, registry, dvcr, cache, tmp_path):
    """Nothing is copied to it first: its firmware, its loader and its kernel read over HTTP what they need."""
    text, sector = f"booted from a disk of DVCR: {secrets.token_hex(16)}", 100
    # It writes between the boot sector and the partition, and says the text when that is done.
    init = WRITER.format(text=text, sector=sector) + INIT.format(text=text).split("\n", 1)[1]
    raw = bootable(tmp_path, cache / "kernel/vmlinuz", init)
    digest = dvcr.imports(raw, f"{registry.host}/{NAME}:v1")["digest"]
    before, overlay = raw.read_bytes(), tmp_path / "overlay.qcow2"
    raw.unlink()
    base = url(registry, f"/disks/{NAME}/{digest}")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay)

    printed = console(overlay, text.encode(), ["if=none,id=disk", "-device", "nvme,drive=disk,serial=1"])
    assert text.encode() in printed, printed.decode(errors="replace")[-3000:]
    assert digest_of(before[: 16 * MIB]).removeprefix("sha256:").encode() in printed

    written = f"{text}\n".encode().ljust(512, b"\0")
    after = bytearray(before)
    after[sector * 512 : (sector + 1) * 512] = written
    run("qemu-img", "convert", "-m", 1, "-O", "raw", overlay, tmp_path / "after.raw")
    assert (tmp_path / "after.raw").read_bytes() == after
    assert overlay.stat().st_size < 2 * MIB
    assert reader.get(PATH).body == before


def test_many_read_one_disk_at_once(reader, imported, data):
    def read(number):
        if number % 4 == 0:
            return reader.get(PATH).body == data
        dice = random.Random(number)
        places = [dice.randrange(len(data) - 100_000) for _ in range(20)]
        return all(part(reader, PATH, place, place + 99_999) == data[place : place + 100_000] for place in places)

    assert all(at_once(lambda number=number: read(number) for number in range(12)))


def test_a_connection_is_used_again(reader, imported, data):
    """As qemu does for every block."""
    connection = http.client.HTTPConnection(reader.host, timeout=60)
    with contextlib.closing(connection):
        connection.connect()
        socket = connection.sock
        for place in range(0, len(data), 500_000):
            connection.request("GET", PATH, headers={"Range": f"bytes={place}-{place + 999}"})
            assert connection.getresponse().read() == data[place : place + 1000]
        assert connection.sock is socket


def test_a_client_that_goes_away_does_no_harm(reader, registry, imported, data):
    for _ in range(5):
        with reader.connect() as connection:
            connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert reader.get(PATH).body == data
    # It is no failure of the registry's.
    eventually(lambda: registry.log.read_text().count(f'path="{PATH}"') >= 6)
    assert "ERROR" not in registry.log.read_text()


def damage(registry, places):
    """Changes the largest pack of a registry, and gives its name: one byte at each of the places, which are parts of it."""
    files = [path for path in (pathlib.Path(registry.storage[1]) / "data").rglob("*") if path.is_file()]
    pack = max(files, key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    stored = bytearray(pack.read_bytes())
    for place in places:
        stored[int(place * (len(stored) - 1))] ^= 1
    with pack.open("r+b") as file:
        file.write(stored)
    return pack.name


def test_a_damaged_pack_breaks_the_answer_and_is_named_in_the_log(reader, registry, imported, data):
    pack = damage(registry, [0.5])
    with pytest.raises(http.client.IncompleteRead) as broken:
        reader.get(PATH)
    # What was sent before it was noticed is right.
    assert data.startswith(broken.value.partial)
    log = registry.log.read_text(errors="replace")
    assert pack in log and "failed to read the disk" in log and "ERROR" in log
    # Elsewhere it is readable, and so is its map.
    assert part(reader, PATH, 0, 99) == data[:100]
    assert part(reader, PATH, len(data) - 100, len(data) - 1) == data[-100:]
    consistent(extents(reader, PATH), data)


def test_a_disk_that_cannot_be_found_for_damage_is_no_fault_of_the_client(reader, registry):
    """The header that says where the disk is lies in the middle of the layer."""
    dice = random.Random(1)
    layer = tar(("bin/sh", dice.randbytes(2 * MIB)), ("disk/a.img", dice.randbytes(2 * MIB)))
    push_disk(registry.host, NAME, "v1", [layer])
    pack = damage(registry, [place / 1000 for place in range(1001)])
    answer = reader.get(PATH)
    assert answer.status in (500, 503), answer
    assert answer.codes()
    assert pack in registry.log.read_text(errors="replace")
