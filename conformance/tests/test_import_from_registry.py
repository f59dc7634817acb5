"""docker:// sources: images of disks as docker, buildah, Kaniko and KubeVirt's users made them."""

import base64
import json
import tarfile

import pytest

from auth_proxy import PASSWORD, USER
from command import ASKED_WRONGLY, FAILED, REFUSED, kept, nothing_tagged
from flaky_http import Web
from layers import DOCKER_IMAGE, DOCKER_INDEX, Image, compressed, push_disk, special, tar
from wire import CONFIG, IMAGE, INDEX, LAYER, Client, descriptor, digest_of, encode

SOURCE = "team/disk"


@pytest.fixture
def elsewhere(start):
    """The registry that has the source."""
    return start("filesystem")


@pytest.fixture
def disk(images):
    return images.image("qcow2").read_bytes()


@pytest.fixture
def imports(dvcr, registry, elsewhere):
    """Imports from the other registry, and gives the result and the file in the layer."""

    def imports(*arguments, reference=f"{SOURCE}:v1", host=None, **options):
        source = f"docker://{host or elsewhere.host}/{reference}"
        result = dvcr.imports(source, f"{registry.host}/disks/a:v1", *arguments, **options)
        return result, *Image(registry.host, "disks/a").file()

    return imports


@pytest.fixture
def refuses(dvcr, registry, elsewhere):
    def refuses(*arguments, reference=f"{SOURCE}:v1", host=None, code=REFUSED, **options):
        source = f"docker://{host or elsewhere.host}/{reference}"
        before = kept(registry)
        error = dvcr.refuses("import", *arguments, source, f"{registry.host}/disks/a:v1", code=code, **options)
        assert nothing_tagged(registry, "disks/a")
        assert kept(registry) == before
        return error

    return refuses


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_layers_of_both_formats_are_read(imports, dvcr, registry, elsewhere, images, disk, docker, compression):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.qcow2", disk))], compression, docker)
    result, member, data = imports()
    assert data == disk
    assert (member.name, member.uid, member.gid, member.mode & 0o7777) == ("disk/disk.qcow2", 107, 107, 0o444)
    assert result["format"] == "qcow2"
    # The layer is the one that a file makes.
    assert dvcr.imports(images.image("qcow2"), f"{registry.host}/disks/b:v1")["layer"] == result["layer"]


@pytest.mark.parametrize("name", ["disk/noble.img", "./disk/noble.img", "/disk/noble.img", "disk/" + "n" * 200])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_file_may_be_named_as_tars_name_it(imports, elsewhere, disk, name, form):
    if form == tarfile.USTAR_FORMAT and len(name) > 100:
        name = name[:60]
    push_disk(elsewhere.host, SOURCE, "v1", [tar((name, disk), form=form)])
    result, member, data = imports()
    assert data == disk
    assert result["file"] == member.name == "disk/disk.qcow2"


def test_folders_beside_the_file_do_no_harm(imports, elsewhere, disk):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(special("disk/", tarfile.DIRTYPE), ("disk/disk.img", disk))])
    assert imports()[2] == disk


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_disk_may_be_in_any_layer(imports, elsewhere, disk, compression):
    layers = [tar(("etc/motd", b"hello")), tar(("disk/disk.img", disk)), tar(("usr/bin/tool", b"#!/bin/sh\n" * 9999))]
    push_disk(elsewhere.host, SOURCE, "v1", layers, compression)
    assert imports()[2] == disk


def test_two_disks_are_named_and_refused(refuses, elsewhere, disk):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/root.img", disk), ("disk/data.img", disk))])
    error = refuses()
    assert "root.img" in error and "data.img" in error


def test_two_disks_in_two_layers_are_refused(refuses, elsewhere, disk):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/root.img", disk)), tar(("disk/data.img", disk))])
    error = refuses()
    assert "root.img" in error and "data.img" in error


def test_an_image_without_a_disk_is_refused(refuses, elsewhere):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("etc/motd", b"hello"))])
    assert "disk" in refuses()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_regular_file_is_refused(refuses, elsewhere, kind):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(special("disk/disk.img", kind, "../../../etc/shadow"))])
    assert "disk.img" in refuses()


def test_a_layer_that_is_no_tar_is_refused(refuses, elsewhere, disk):
    push_disk(elsewhere.host, SOURCE, "v1", [disk])
    refuses()


def test_a_tar_that_was_cut_is_refused(refuses, elsewhere, disk):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))[:100_000]])
    refuses()


def test_an_artifact_that_is_no_image_is_refused(refuses, elsewhere):
    client = Client(elsewhere.host)
    data, config = b"a chart", b"{}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor("application/vnd.cncf.helm.config.v1+json", client.push_blob(SOURCE, config), 2),
        "layers": [
            descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", client.push_blob(SOURCE, data), 7)
        ],
    }
    assert client.put_manifest(SOURCE, "v1", manifest).status == 201
    refuses()


# Indexes.


def push_index(host, media_type, platforms):
    """An index of (os, architecture, digest, size)."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [
            {
                **descriptor(IMAGE if media_type == INDEX else DOCKER_IMAGE, digest, size),
                "platform": {"os": system, "architecture": architecture},
            }
            for system, architecture, digest, size in platforms
        ],
    }
    answer = Client(host).put_manifest(SOURCE, "v1", manifest, media_type)
    assert answer.status == 201, answer


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_INDEX])
def test_the_platform_chooses_from_an_index(imports, refuses, registry, elsewhere, images, media_type):
    docker, disks, platforms = media_type == DOCKER_INDEX, {}, []
    for architecture, name in [("arm64", "vmdk"), ("amd64", "qcow2"), ("s390x", "vdi")]:
        disks[architecture] = images.image(name).read_bytes()
        layers = [tar(("disk/disk.img", disks[architecture]))]
        pushed = push_disk(elsewhere.host, SOURCE, None, layers, docker=docker, architecture=architecture)
        platforms.append(("linux", architecture, *pushed))
    push_index(elsewhere.host, media_type, platforms)
    assert "linux/riscv64" in refuses("--platform", "linux/riscv64")
    for arguments, architecture in [
        ([], "amd64"),
        (["--platform", "linux/arm64"], "arm64"),
        (["--architecture", "s390x"], "s390x"),
    ]:
        assert imports(*arguments)[2] == disks[architecture]
        assert Image(registry.host, "disks/a").config["architecture"] == architecture


def test_what_is_beside_the_images_of_an_index_does_no_harm(imports, elsewhere, disk):
    """Attestations, as docker buildx adds them, are for no platform."""
    pushed = push_disk(elsewhere.host, SOURCE, None, [tar(("disk/disk.img", disk))])
    other = push_disk(elsewhere.host, SOURCE, None, [tar(("attestation", b"{}"))])
    push_index(elsewhere.host, INDEX, [("unknown", "unknown", *other), ("linux", "amd64", *pushed)])
    assert imports()[2] == disk


def test_the_architecture_is_that_of_the_source(imports, registry, elsewhere, disk):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))], architecture="arm64")
    imports()
    assert Image(registry.host, "disks/a").config["architecture"] == "arm64"


def test_a_digest_names_an_image_too(imports, elsewhere, disk):
    digest, _ = push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))])
    assert imports(reference=f"{SOURCE}@{digest}")[2] == disk
    assert imports(reference=f"{SOURCE}:anything@{digest}")[2] == disk


def test_an_image_that_is_not_there_is_named(refuses, elsewhere):
    error = refuses(reference="team/missing:v1", code=FAILED)
    assert "team/missing" in error


def test_a_source_that_is_no_reference_is_asked_wrongly(dvcr, registry):
    for source in ["docker://", "docker://UPPER/x", "docker://a/b@sha256:12"]:
        dvcr.run("import", source, f"{registry.host}/disks/a:v1", code=ASKED_WRONGLY)


# Bytes that are not the ones that were named.

MARK, CHANGED = b"MARK-OF-THE-CONFORMANCE-TESTS", b"MARK-OF-THE-conformance-TESTS"


def marked(disk):
    return disk + MARK + bytes(4096 - len(MARK))


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_layer_with_another_byte_is_refused(refuses, elsewhere, images, cutting_proxy, compression):
    layer = compressed(tar(("disk/disk.raw", images.disk().read_bytes())), compression)
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.raw", images.disk().read_bytes()))], compression)
    # In a compressed layer, a piece from its middle that the decoder may well accept.
    piece = layer[len(layer) // 2 :][:40] if compression == "gzip" else b"Hello from a disk image.\n" * 3
    proxy = cutting_proxy(elsewhere.host, change=(piece, piece[:-1] + bytes([piece[-1] ^ 1])))
    refuses("--retries", "1", host=proxy.host)
    assert proxy.was_changed


def test_a_config_with_another_byte_is_refused(refuses, elsewhere, disk, cutting_proxy):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))], labels={"mark": MARK.decode()})
    proxy = cutting_proxy(elsewhere.host, change=(MARK, CHANGED))
    error = refuses("--retries", "1", host=proxy.host)
    assert proxy.was_changed
    assert "sha256:" in error


def test_a_manifest_with_another_byte_is_refused(refuses, elsewhere, disk, cutting_proxy):
    client = Client(elsewhere.host)
    layer, config = tar(("disk/disk.img", disk)), encode({"architecture": "amd64", "os": "linux"})
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": descriptor(CONFIG, client.push_blob(SOURCE, config), len(config)),
            "layers": [descriptor(LAYER, client.push_blob(SOURCE, layer), len(layer))],
            "annotations": {"mark": MARK.decode()},
        }
    )
    assert client.put_manifest(SOURCE, "v1", manifest).status == 201
    proxy = cutting_proxy(elsewhere.host, change=(MARK, CHANGED))
    refuses("--retries", "1", reference=f"{SOURCE}@{digest_of(manifest)}", host=proxy.host)
    assert proxy.was_changed


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_connection_that_is_cut_is_made_again(imports, elsewhere, images, cutting_proxy, compression):
    noise = images.image("vdi").read_bytes()
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", noise))], compression)
    proxy = cutting_proxy(elsewhere.host, cut=400_000)
    assert imports("--retries", "3", host=proxy.host)[2] == noise
    assert proxy.was_cut


# Pull secrets.


def secret(folder, content):
    path = folder / "pull-secret.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_pull_secret_opens_a_private_registry(
    dvcr, imports, refuses, registry, elsewhere, auth_proxy, disk, tmp_path, scheme
):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))])
    proxy = auth_proxy(elsewhere.host, scheme)
    error = refuses(host=proxy.host, code=FAILED)
    assert proxy.host in error and ("login" in error or "credentials" in error), error
    path = secret(tmp_path, proxy.entry())
    assert imports("--source-auth-file", path, host=proxy.host)[2] == disk
    assert proxy.turned_away
    if scheme == "bearer":
        assert {service for service, _ in proxy.scopes} == {"disks"}
        assert all(scopes == [f"repository:{SOURCE}:pull"] for _, scopes in proxy.scopes if scopes)


def test_a_pull_secret_with_a_wrong_password_is_said_and_not_shown(refuses, elsewhere, auth_proxy, disk, tmp_path):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))])
    for scheme in ["basic", "bearer"]:
        proxy = auth_proxy(elsewhere.host, scheme)
        entry = base64.b64encode(f"{USER}:hidden".encode()).decode()
        path = secret(tmp_path, {"auths": {proxy.host: {"auth": entry}}})
        error = refuses("--source-auth-file", path, host=proxy.host, code=FAILED)
        assert "hidden" not in error and entry not in error


@pytest.mark.parametrize("form", ["host", "url", "path", "pair", "repository"])
def test_a_pull_secret_names_the_registry_as_docker_does(imports, elsewhere, auth_proxy, disk, tmp_path, form):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))])
    proxy = auth_proxy(elsewhere.host)
    auth = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    if form == "pair":
        auth = {"username": USER, "password": PASSWORD}
    name = {
        "host": proxy.host,
        "url": f"https://{proxy.host}",
        "path": f"https://{proxy.host}/v2/",
        "pair": proxy.host,
        "repository": f"{proxy.host}/{SOURCE}",
    }[form]
    path = secret(tmp_path, {"auths": {name: auth}})
    assert imports("--source-auth-file", path, host=proxy.host)[2] == disk


def test_a_pull_secret_is_for_the_source_alone(dvcr, registry, elsewhere, auth_proxy, disk, tmp_path):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))])
    source, target = auth_proxy(elsewhere.host), auth_proxy(registry.host)
    path = secret(tmp_path, {"auths": {**source.entry()["auths"], **target.entry()["auths"]}})
    there = f"{target.host}/disks/a:v1"
    dvcr.refuses("import", "--source-auth-file", path, f"docker://{source.host}/{SOURCE}:v1", there, code=FAILED)
    dvcr.imports(f"docker://{source.host}/{SOURCE}:v1", there, "--source-auth-file", path, "--auth-file", path)


def test_tokens_that_expire_are_fetched_again(imports, elsewhere, auth_proxy, images, tmp_path, registry, dvcr):
    noise = images.image("vdi").read_bytes()
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", noise))])
    proxy = auth_proxy(elsewhere.host, "bearer")
    proxy.uses = 2
    assert imports("--source-auth-file", secret(tmp_path, proxy.entry()), host=proxy.host)[2] == noise
    target = auth_proxy(registry.host, "bearer")
    target.uses = 2
    path = secret(tmp_path, target.entry())
    dvcr.imports(images.image("vdi-static"), f"{target.host}/disks/token:v1", "--auth-file", path)
    assert len(target.scopes) > 2


def test_a_file_of_secrets_that_is_none_is_named(refuses, tmp_path):
    for content in [None, "no json"]:
        path = tmp_path / "missing.json"
        if content:
            path.write_text(content)
        error = refuses("--source-auth-file", path, code=None)
        assert str(path) in error


def test_a_registry_that_sends_for_a_token_to_this_machine_is_refused(refused, opened, auth_proxy, authority, outside, elsewhere, disk):
    push_disk(elsewhere.host, SOURCE, "v1", [tar(("disk/disk.img", disk))])
    there = auth_proxy(elsewhere.host, "bearer", address=outside, tls=authority.certify(outside))
    web = opened(Web(tls=authority.certify("127.0.0.1")))
    there.web = web.url
    source, ca = f"docker://{there.host}/{SOURCE}:v1", ("--source-ca-file", authority.certificate)
    assert "loopback" in refused(source, *ca, "--deny-local-addresses", "--retries", "1")
    assert web.requests(method=None) == []
    assert there.turned_away > 0
