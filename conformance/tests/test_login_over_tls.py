"""Clients that people have, against a registry that is open to others than this machine: users, and TLS.

Each gets a token from where the registry says that there are some, by HTTPS, and is kept out of what is not theirs.
"""

import base64
import contextlib
import json
import subprocess

import pytest

from disk import build_disk_image
from test_auth import PASSWORDS, guarded, users  # noqa: F401
from test_tls import certified, trust, trusted_by_docker  # noqa: F401

MINE, OTHERS = "vi/team-a", "vi/team-b"
CREDENTIALS = f"alice:{PASSWORDS['alice']}"


@pytest.fixture
def server(guarded, certified):  # noqa: F811
    return guarded(**certified.settings)


@pytest.fixture
def disk(dvcr, server, trust, images, tmp_path):  # noqa: F811
    """An image that is there."""
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {server.host: {"auth": base64.b64encode(CREDENTIALS.encode()).decode()}}}))
    reference = f"{server.host}/{MINE}/disk:v1"
    dvcr.imports(images.image("qcow2"), reference, "--tls", server.host, "--ca-file", trust / "ca.crt", "--auth-file", file)
    return reference


def run(*command, code=0, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, **options)
    assert (done.returncode == 0) == (code == 0), done
    return done.stdout + done.stderr


def test_docker(docker, server, trust, tmp_path):  # noqa: F811
    mine, others = (f"{server.host}/{name}/docker:v1" for name in [MINE, OTHERS])
    with trusted_by_docker(server, trust):
        build_disk_image(docker, tmp_path / "build", mine, 20)
        docker.run("tag", mine, others)
        assert docker.run("push", mine, check=False).returncode != 0
        docker.run("login", "-u", "alice", "--password-stdin", server.host, input=PASSWORDS["alice"])
        docker.run("push", mine)
        denied = docker.run("push", others, check=False)
        assert denied.returncode != 0 and "denied" in denied.stdout + denied.stderr, denied
        docker.run("rmi", mine)
        docker.run("pull", mine)
        docker.run("logout", server.host)
        docker.run("rmi", mine, others, check=False)


def test_skopeo(server, disk, trust, tmp_path):  # noqa: F811
    file = ["--authfile", tmp_path / "skopeo.json"]
    wrong = run("skopeo", "login", *file, "--cert-dir", trust, "-u", "alice", "-p", "wrong", server.host, code=1)
    assert "unauthorized" in wrong.lower() or "invalid username/password" in wrong, wrong
    run("skopeo", "login", *file, "--cert-dir", trust, "-u", "alice", "-p", PASSWORDS["alice"], server.host)
    copy = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", *file, "--src-cert-dir", trust, "--dest-cert-dir", trust]
    run(*copy, f"docker://{disk}", f"docker://{server.host}/{MINE}/skopeo:v1")
    denied = run(*copy, f"docker://{disk}", f"docker://{server.host}/{OTHERS}/skopeo:v1", code=1)
    assert "403" in denied or "denied" in denied, denied


def test_crane(cache, server, disk, trust, tmp_path):  # noqa: F811
    environment = {"SSL_CERT_FILE": str(trust / "ca.crt"), "PATH": "/usr/bin:/bin", "DOCKER_CONFIG": str(tmp_path / "crane")}

    def crane(*arguments, **options):
        return run(cache / "bin/crane", *arguments, env=environment, **options)

    crane("digest", disk, code=1)
    crane("auth", "login", "-u", "alice", "--password-stdin", server.host, input=PASSWORDS["alice"])
    crane("copy", disk, f"{server.host}/{MINE}/crane:v1")
    assert crane("digest", f"{server.host}/{MINE}/crane:v1") == crane("digest", disk)
    assert "403" in crane("copy", disk, f"{server.host}/{OTHERS}/crane:v1", code=1)


class Containerd:
    """The containerd of dockerd, which nodes pull with, by its own client."""

    def __init__(self, docker, *options):
        self.address, self.options = docker.folder / "exec/containerd/containerd.sock", options

    def ctr(self, *arguments, **options):
        return run("ctr", "--address", self.address, "--namespace", "dvcr", *arguments, **options)

    def fetch(self, reference, *options, **more):
        return self.ctr("content", "fetch", *self.options, *options, reference, **more)

    def push(self, reference, local, *options, **more):
        return self.ctr("images", "push", *self.options, *options, reference, local, **more)

    def forget(self, *references):
        self.ctr("images", "rm", "--sync", *references)


@contextlib.contextmanager
def gone_in_the_end(containerd, *references):
    try:
        yield
    finally:
        with contextlib.suppress(AssertionError):
            containerd.forget(*references)


def test_containerd(docker, server, disk, trust, tmp_path):  # noqa: F811
    hosts = tmp_path / "certs.d" / server.host
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(f'server = "https://{server.host}"\n[host."https://{server.host}"]\nca = "{trust}/ca.crt"\n')
    containerd, alice = Containerd(docker, "--hosts-dir", hosts.parent), ["--user", CREDENTIALS]
    copy = f"{server.host}/{MINE}/containerd:v1"
    with gone_in_the_end(containerd, disk, copy):
        assert "pull access denied" in containerd.fetch(disk, code=1)
        containerd.fetch(disk, *alice)
        containerd.push(copy, disk, *alice)
        refused = containerd.push(f"{server.host}/{OTHERS}/containerd:v1", disk, *alice, code=1)
        assert "403" in refused or "denied" in refused.lower(), refused
        containerd.forget(disk)
        containerd.fetch(copy, *alice)
    bob = ["--user", f"bob:{PASSWORDS['bob']}"]
    containerd.fetch(copy, *bob, code=1)


def test_containerd_without_tls_and_users(docker, start, dvcr, images):
    server = start("filesystem")
    reference, copy = (f"{server.host}/{name}:v1" for name in ["disks/noble", "other/noble"])
    made = dvcr.imports(images.image("qcow2"), reference)
    containerd = Containerd(docker, "--plain-http")
    with gone_in_the_end(containerd, reference, copy):
        containerd.fetch(reference)
        containerd.push(copy, reference)
        assert dvcr.inspects(copy)["digest"] == made["digest"]
        assert "not found" in containerd.fetch(f"{server.host}/disks/missing:v1", code=1)
