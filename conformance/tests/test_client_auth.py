"""How the commands say who they are to a registry, and whom they trust."""

import base64
import json

import pytest

from auth_proxy import PASSWORD, USER
from command import ASKED_WRONGLY, FAILED
from flaky_http import Web
from layers import Image

schemes = pytest.mark.parametrize("scheme", ["basic", "bearer"])


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def wrong(host):
    return {"auths": {host: {"auth": base64.b64encode(b"nobody:hidden").decode()}}}


@schemes
def test_every_command_says_who_it_is(dvcr, registry, start, auth_proxy, images, tmp_path, scheme):
    proxy, other = auth_proxy(registry.host, scheme), auth_proxy(start("filesystem").host, scheme)
    auth = (
        "--auth-file",
        written(tmp_path / "auth.json", {"auths": {**proxy.entry()["auths"], **other.entry()["auths"]}}),
    )
    reference = f"{proxy.host}/disks/noble:v1"
    result = dvcr.imports(images.compressed("raw", "xz"), reference, *auth)
    assert Image(registry.host, "disks/noble").digest == result["digest"]
    assert dvcr.inspects(reference, *auth)["digest"] == result["digest"]
    dvcr.pulls(reference, tmp_path / "a", *auth)
    assert (tmp_path / "a").read_bytes() == images.disk().read_bytes()
    assert dvcr.run("ls", "--output", "json", *auth, f"{proxy.host}/disks/noble").json()[0]["tag"] == "v1"
    dvcr.run("ls", *auth, proxy.host)
    dvcr.run("copy", *auth, reference, f"{proxy.host}/disks/copy:v1")
    dvcr.run("copy", *auth, reference, f"{other.host}/disks/copy:v1")
    dvcr.run("rm", *auth, reference)
    for command in [
        ["inspect", reference],
        ["ls", proxy.host],
        ["rm", reference],
        ["pull", reference, "-o", tmp_path / "b"],
    ]:
        error = dvcr.refuses(*command, code=FAILED)
        assert proxy.host in error and ("login" in error or "credentials" in error), error
    assert not (tmp_path / "b").exists()


@schemes
def test_a_wrong_password_is_said_and_not_shown(dvcr, registry, auth_proxy, images, tmp_path, scheme):
    proxy = auth_proxy(registry.host, scheme)
    path = written(tmp_path / "auth.json", wrong(proxy.host))
    error = dvcr.refuses("import", "--auth-file", path, images.image("qcow2"), f"{proxy.host}/disks/a:v1", code=FAILED)
    assert proxy.host in error and "hidden" not in error
    # It is not tried again and again: an account could be locked.
    assert proxy.turned_away <= 4


def test_files_of_credentials_are_looked_for_in_order(dvcr, registry, auth_proxy, images, tmp_path):
    proxy = auth_proxy(registry.host)
    dvcr.imports(images.image("qcow2"), f"{registry.host}/disks/a:v1")
    reference = f"{proxy.host}/disks/a:v1"
    places = {
        "runtime": tmp_path / "run/containers/auth.json",
        "registry": tmp_path / "registry-auth.json",
        "home": dvcr.home / ".docker/config.json",
        "docker": tmp_path / "docker/config.json",
        "option": tmp_path / "option.json",
    }
    variables = {
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "REGISTRY_AUTH_FILE": str(places["registry"]),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
    }
    dvcr.refuses("inspect", reference, code=FAILED)
    # From the last to the first: each that is looked at before the others wins over them.
    written(places["runtime"], proxy.entry())
    dvcr.inspects(reference, environment={"XDG_RUNTIME_DIR": variables["XDG_RUNTIME_DIR"]})
    written(places["runtime"], wrong(proxy.host))
    written(places["registry"], proxy.entry())
    both = {name: variables[name] for name in ["XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE"]}
    dvcr.inspects(reference, environment=both)
    written(places["registry"], wrong(proxy.host))
    written(places["home"], proxy.entry())
    dvcr.inspects(reference, environment=both)
    written(places["home"], wrong(proxy.host))
    written(places["docker"], proxy.entry())
    dvcr.inspects(reference, environment=variables)
    written(places["docker"], wrong(proxy.host))
    written(places["option"], proxy.entry())
    dvcr.inspects(reference, "--auth-file", places["option"], environment=variables)


def test_a_file_that_knows_another_registry_does_not_end_the_search(dvcr, registry, auth_proxy, images, tmp_path):
    proxy = auth_proxy(registry.host)
    dvcr.imports(images.image("qcow2"), f"{registry.host}/disks/a:v1")
    written(dvcr.home / ".docker/config.json", wrong("registry.example.org"))
    path = written(tmp_path / "auth.json", proxy.entry())
    dvcr.inspects(f"{proxy.host}/disks/a:v1", environment={"REGISTRY_AUTH_FILE": str(path)})


HELPER = """#!/bin/sh
# Speaks what docker's credential helpers speak: the action is an argument, the registry comes on standard input.
read -r registry
echo "$1 $registry" >> {log}
[ "$1" = get ] || exit 1
[ "$registry" = "{host}" ] || {{ echo "credentials not found in native keychain"; exit 1; }}
printf '{{"ServerURL":"%s","Username":"%s","Secret":"%s"}}' "$registry" '{user}' '{password}'
"""


@pytest.fixture
def helper(tmp_path):
    """Puts a helper program on PATH."""

    def helper(name, host, user=USER, password=PASSWORD):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / f"docker-credential-{name}"
        program.write_text(HELPER.format(log=folder / "log", host=host, user=user, password=password))
        program.chmod(0o755)
        return {"PATH": f"{folder}:/usr/bin:/bin"}

    return helper


@schemes
@pytest.mark.parametrize("place", ["credHelpers", "credsStore"])
def test_a_helper_program_has_the_password(dvcr, registry, auth_proxy, helper, images, tmp_path, scheme, place):
    proxy = auth_proxy(registry.host, scheme)
    environment = helper("conformance", proxy.host)
    content = {place: {proxy.host: "conformance"} if place == "credHelpers" else "conformance"}
    path = written(tmp_path / "auth.json", {**content, "auths": {proxy.host: {}}})
    dvcr.imports(images.image("qcow2"), f"{proxy.host}/disks/a:v1", "--auth-file", path, environment=environment)
    assert f"get {proxy.host}" in (tmp_path / "bin/log").read_text()


def test_a_helper_for_one_registry_wins_over_that_for_all(dvcr, registry, auth_proxy, helper, images, tmp_path):
    proxy = auth_proxy(registry.host)
    helper("wrong", proxy.host, password="hidden")
    environment = helper("right", proxy.host)
    path = written(tmp_path / "auth.json", {"credsStore": "wrong", "credHelpers": {proxy.host: "right"}})
    dvcr.imports(images.image("qcow2"), f"{proxy.host}/disks/a:v1", "--auth-file", path, environment=environment)


def test_a_store_without_the_registry_leaves_it_to_the_file(dvcr, registry, auth_proxy, helper, images, tmp_path):
    proxy = auth_proxy(registry.host)
    environment = helper("conformance", "registry.example.org")
    path = written(tmp_path / "auth.json", {"credsStore": "conformance", **proxy.entry()})
    dvcr.imports(images.image("qcow2"), f"{proxy.host}/disks/a:v1", "--auth-file", path, environment=environment)


def test_a_helper_that_is_not_there_is_named(dvcr, registry, auth_proxy, images, tmp_path):
    proxy = auth_proxy(registry.host)
    path = written(tmp_path / "auth.json", {"credHelpers": {proxy.host: "missing"}})
    error = dvcr.refuses("import", "--auth-file", path, images.image("qcow2"), f"{proxy.host}/disks/a:v1", code=None)
    assert "docker-credential-missing" in error


def test_without_credentials_one_is_anonymous(dvcr, registry, auth_proxy, images, tmp_path):
    """A config with nothing about this registry is no error, whatever else it has."""
    proxy = auth_proxy(registry.host, "open")
    path = written(tmp_path / "auth.json", {"auths": {}, "HttpHeaders": {"User-Agent": "Docker"}, "psFormat": "x"})
    dvcr.imports(images.image("qcow2"), f"{proxy.host}/disks/a:v1", "--auth-file", path)


# TLS


@pytest.fixture
def secure(auth_proxy, authority, registry, outside):
    """The registry behind TLS, at an address that is no loopback address."""
    return auth_proxy(registry.host, "open", address=outside, tls=authority.certify(outside))


def test_a_registry_elsewhere_is_spoken_to_over_tls(dvcr, registry, secure, authority, images, tmp_path):
    reference, ca = f"{secure.host}/disks/a:v1", ("--ca-file", authority.certificate)
    digest = dvcr.imports(images.compressed("raw", "xz"), reference, *ca)["digest"]
    assert Image(registry.host, "disks/a").digest == digest
    dvcr.pulls(reference, tmp_path / "a", *ca)
    assert (tmp_path / "a").read_bytes() == images.disk().read_bytes()
    dvcr.run("ls", *ca, f"{secure.host}/disks/a")
    dvcr.run("copy", *ca, reference, f"{secure.host}/disks/b:v1")
    dvcr.run("rm", *ca, reference)


def test_an_unknown_certificate_is_accepted_only_when_that_is_said(dvcr, secure, images):
    reference = f"{secure.host}/disks/a:v1"
    error = dvcr.refuses("import", "--retries", "1", images.image("qcow2"), reference, code=FAILED)
    assert "certificate" in error
    dvcr.imports(images.image("qcow2"), reference, "--insecure-skip-tls-verify")
    said = dvcr.run("inspect", reference, code=FAILED).errors
    assert "certificate" in said and said.count("\n") == 1, said
    dvcr.inspects(reference, "--insecure-skip-tls-verify")


def test_plain_http_is_for_the_registries_that_are_named(dvcr, registry, auth_proxy, outside, images):
    plain = auth_proxy(registry.host, "open", address=outside)
    reference = f"{plain.host}/disks/a:v1"
    dvcr.refuses("import", "--retries", "1", images.image("qcow2"), reference, code=FAILED)
    dvcr.imports(images.image("qcow2"), reference, "--plain-http", plain.host)
    dvcr.inspects(reference, "--plain-http", outside)
    dvcr.refuses("inspect", "--plain-http", f"{outside}:1", reference, code=FAILED)
    dvcr.inspects(reference, "--plain-http", "registry.example.org", "--plain-http", plain.host)


def test_a_password_goes_over_plain_http_only_when_that_is_said(dvcr, registry, auth_proxy, outside, images, tmp_path):
    plain = auth_proxy(registry.host, address=outside)
    path = written(tmp_path / "auth.json", plain.entry())
    dvcr.refuses(
        "import", "--retries", "1", "--auth-file", path, images.image("qcow2"), f"{plain.host}/disks/a:v1", code=FAILED
    )
    assert plain.turned_away == 0
    dvcr.imports(images.image("qcow2"), f"{plain.host}/disks/a:v1", "--auth-file", path, "--plain-http", plain.host)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_registry_on_this_machine_needs_no_tls(dvcr, registry, images, name):
    reference = f"{name}:{registry.port}/disks/a:v1"
    dvcr.imports(images.image("qcow2"), reference)
    assert dvcr.inspects(reference)["reference"] == reference


@pytest.mark.parametrize("address", ["127.8.7.6", "[::1]"])
def test_all_addresses_of_this_machine_need_no_tls(dvcr, opened, address):
    """Nothing answers as a registry there; that it answers at all shows how it was asked."""
    web = opened(Web(address.strip("[]")))
    dvcr.refuses("inspect", f"{web.host}/a/b:v1", code=FAILED)
    assert any(seen.path == "/v2/a/b/manifests/v1" for seen in web.requests(method=None))


def test_the_default_registry_is_dockers(dvcr):
    """As with docker and skopeo. Nobody answers for it here, so the error names it."""
    error = dvcr.refuses("inspect", "ubuntu", code=None, environment={"HTTPS_PROXY": "http://127.0.0.1:1"})
    assert "docker.io" in error and "library/ubuntu" in error, error


def test_options_that_are_no_files_are_asked_wrongly(dvcr, registry, tmp_path):
    reference = f"{registry.host}/a:v1"
    for option in ["--auth-file", "--ca-file"]:
        error = dvcr.run("inspect", option, tmp_path / "missing", reference, code=None)
        assert error.code in (FAILED, ASKED_WRONGLY)
        assert str(tmp_path / "missing") in error.error()
