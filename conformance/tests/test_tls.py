"""TLS as clients and operators meet it: real clients, certificates of clients, new certificates while it works."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from command import FAILED
from disk import MIB, build_disk_image
from dvcr import BINARY, Dvcr, free_port
from flaky_http import Authority
from kubernetes import Kubectl
from test_metrics import scraped
from virtual_images import Embedded, from_object, from_user, from_web, virtual_image
from wire import Answer, digest_of, eventually

RELOAD = 30
"""Seconds in which a new certificate is found, at most; the server looks every five."""


class Certified:
    """A server with TLS: its files, as an operator puts and changes them."""

    def __init__(self, folder, authority):
        self.folder, self.authority = folder, authority
        folder.mkdir()
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.renew(authority)

    def renew(self, authority, days=30):
        """Puts a new certificate and its key in place, and gives the certificate's fingerprint."""
        made, key = authority.certify("127.0.0.1", "localhost", days=days)
        for source, target in [(key, self.key), (made, self.certificate)]:
            part = target.with_suffix(".part")
            shutil.copyfile(source, part)
            part.rename(target)
        return fingerprint(made.read_text())

    @property
    def settings(self):
        return {"DVCR_TLS_CERTIFICATE": str(self.certificate), "DVCR_TLS_KEY": str(self.key)}


def fingerprint(pem):
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def shown(server):
    """The fingerprint of the certificate that a server shows."""
    return fingerprint(ssl.get_server_certificate(("127.0.0.1", server.port)))


@pytest.fixture
def certified(tmp_path, authority):
    return Certified(tmp_path / "tls", authority)


@pytest.fixture
def server(start, certified):
    return start("filesystem", **certified.settings)


@pytest.fixture
def clients(tmp_path):
    """An authority of clients."""
    return Authority(tmp_path / "clients")


def client_certificate(authority, name):
    """A certificate and key for a client."""
    key, request, made = (authority.folder / f"{name}.{end}" for end in ["key", "csr", "crt"])
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
    subprocess.run([*new, "-keyout", key, "-out", request], check=True, capture_output=True)
    extensions = authority.folder / "client.ext"
    extensions.write_text("extendedKeyUsage=clientAuth\n")
    sign = ["openssl", "x509", "-req", "-in", request, "-CA", authority.certificate, "-CAkey", authority.key]
    sign += ["-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", made]
    subprocess.run(sign, check=True, capture_output=True)
    return made, key


def curl(server, certified, *arguments, path="/v2/", check=True):
    """What curl says of the answer: the version of HTTP and the status."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    command += ["--cacert", certified.authority.certificate, *map(str, arguments), f"https://{server.host}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done
    return done.stdout


def trusting(certified):
    """The trust that an HTTPS client of Python needs."""
    return ssl.create_default_context(cafile=certified.authority.certificate)


def test_http_2_and_1_are_chosen_by_the_client(server, certified):
    assert curl(server, certified, "--http2") == "2 200"
    assert curl(server, certified, "--http1.1") == "1.1 200"
    assert curl(server, certified, "--tlsv1.2", "--tls-max", "1.2") == "2 200"
    assert curl(server, certified, "--tlsv1.3") == "2 200"


def test_what_is_older_than_tls_1_2_is_refused(server):
    old = subprocess.run(
        ["openssl", "s_client", "-connect", server.host, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert old.returncode != 0 and "BEGIN CERTIFICATE" not in old.stdout, old


def test_plain_http_is_told_to_use_tls(server, dvcr, images):
    for request in [b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", b"PUT /v2/a/manifests/b HTTP/1.1\r\n" + b"x" * 20_000]:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(request)
            answer = connection.makefile("rb").read()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), answer
        assert "TLS" in json.loads(body)["errors"][0]["message"]
    # By its own client too, which takes loopback for plain.
    error = dvcr.refuses("import", images.image("qcow2"), f"{server.host}/disks/a:v1", code=FAILED)
    assert "TLS" in error


def test_the_commands_trust_what_they_are_told_to(server, certified, dvcr, images, tmp_path):
    reference, tls = f"{server.host}/disks/noble:v1", ["--tls", server.host]
    authority = certified.authority.certificate
    dvcr.imports(images.image("qcow2"), reference, *tls, "--ca-file", authority)
    dvcr.pulls(reference, tmp_path / "a", *tls, environment={"SSL_CERT_FILE": str(authority)})
    assert (tmp_path / "a").read_bytes() == images.image("qcow2").read_bytes()
    error = dvcr.refuses("inspect", *tls, reference, code=FAILED)
    assert "certificate" in error.lower(), error


@pytest.fixture
def trust(certified, tmp_path):
    """A folder with the authority, as clients want it."""
    folder = tmp_path / "trust"
    folder.mkdir()
    shutil.copyfile(certified.authority.certificate, folder / "ca.crt")
    return folder


@contextlib.contextmanager
def trusted_by_docker(server, trust):
    """docker has the authority of a server in its folder.

    127.0.0.0/8 is trusted without TLS, and tried with it first, which must work: nothing is asked in plain.
    """
    folder = pathlib.Path("/etc/docker/certs.d") / server.host
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(trust, folder)
    try:
        yield
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_docker_pushes_and_pulls_with_the_authority_in_its_folder(docker, server, trust, tmp_path):
    with trusted_by_docker(server, trust):
        reference = f"{server.host}/disks/docker:v1"
        build_disk_image(docker, tmp_path / "build", reference, 20)
        docker.run("push", reference)
        docker.run("image", "rm", reference)
        docker.run("pull", reference)
        docker.run("image", "rm", reference)


def test_skopeo_copies_there_and_back(server, certified, trust, dvcr, images, tmp_path):
    reference = f"{server.host}/disks/a:v1"
    certificates = ["--tls", server.host, "--ca-file", certified.authority.certificate]
    dvcr.imports(images.image("qcow2"), reference, *certificates)
    here = tmp_path / "layout"
    for arguments in [
        ["--src-cert-dir", trust, f"docker://{reference}", f"oci:{here}:v1"],
        ["--dest-cert-dir", trust, f"oci:{here}:v1", f"docker://{server.host}/disks/b:v1"],
    ]:
        command = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
    looked = dvcr.inspects(f"{server.host}/disks/b:v1", *certificates)
    assert looked["digest"] == dvcr.inspects(reference, *certificates)["digest"]


def test_crane_copies(server, certified, dvcr, images, cache):
    reference = f"{server.host}/disks/a:v1"
    trust = ["--tls", server.host, "--ca-file", certified.authority.certificate]
    made = dvcr.imports(images.image("qcow2"), reference, *trust)
    environment = {"SSL_CERT_FILE": str(certified.authority.certificate), "PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
    printed = []
    for arguments in [["copy", reference, f"{server.host}/disks/b:v1"], ["digest", f"{server.host}/disks/b:v1"]]:
        command = [cache / "bin/crane", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
        printed.append(done.stdout.strip())
    assert printed[1] == made["digest"]


@pytest.mark.parametrize("rule", ["required", "optional"])
def test_clients_show_certificates_of_the_right_authority(start, certified, clients, authority, rule):
    settings = {"DVCR_TLS_CLIENT_CA": str(clients.certificate), "DVCR_TLS_CLIENT_CERTIFICATES": rule}
    server = start("filesystem", **certified.settings, **settings)
    known, key = client_certificate(clients, "known")
    assert curl(server, certified, "--cert", known, "--key", key) == "2 200"
    stranger, key = client_certificate(authority, "stranger")
    assert curl(server, certified, "--cert", stranger, "--key", key, check=False) == "0 000"
    assert curl(server, certified, check=False) == ("2 200" if rule == "optional" else "0 000")


def test_a_virtual_image_is_made_by_a_server_that_wants_certificates(start, certified, clients, cache, web, images, tmp_path):
    settings = {"DVCR_TLS_CLIENT_CA": str(clients.certificate)}
    server = start("filesystem", **certified.settings, **settings)
    known, key = client_certificate(clients, "known")
    context = trusting(certified)
    context.load_cert_chain(known, key)

    world = Embedded(server, cache, tmp_path / "kubectl")
    arguments = [
        f"--server=https://{server.host}", f"--certificate-authority={certified.authority.certificate}",
        f"--client-certificate={known}", f"--client-key={key}",
    ]  # fmt: skip
    world.kubectl = Kubectl(cache / "bin/kubectl", arguments, tmp_path / "home")
    world.api.client = TlsClient(server.host, context)
    url = web.add("/disk.img", images.image("qcow2").read_bytes())
    image = world.ready(virtual_image("noble", from_web(url)))
    assert image["status"]["target"]["registryURL"].startswith(server.host)
    certified.renew(certified.authority)
    time.sleep(6)
    world.ready(virtual_image("after", from_object("VirtualImage", "noble")))
    uploaded = world.waiting_for_upload(virtual_image("mine", from_user()))
    assert uploaded["status"]["imageUploadURLs"]["external"].startswith("https://")


class TlsClient:
    """What tests ask over TLS."""

    def __init__(self, host, context):
        self.host, self.context = host, context

    def send(self, method, path, body=None, headers=None):
        with contextlib.closing(http.client.HTTPSConnection(self.host, timeout=60, context=self.context)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response, response.read())


def test_a_new_certificate_is_shown_while_a_push_goes_on(server, certified, authority):
    context = trusting(certified)
    client = TlsClient(server.host, context)
    before = shown(server)
    data = os.urandom(8 * MIB)
    location = client.send("POST", "/v2/disks/long/blobs/uploads/").headers["Location"]

    push = http.client.HTTPSConnection(server.host, timeout=120, context=context)
    push.putrequest("PUT", f"{location}?digest={digest_of(data)}")
    push.putheader("Content-Length", str(len(data)))
    push.endheaders()
    push.send(data[:MIB])
    new = certified.renew(authority)
    assert new != before
    eventually(lambda: shown(server) == new, RELOAD)
    # The connection of the push is what it was.
    push.send(data[MIB:])
    assert push.getresponse().status == 201
    assert client.send("GET", f"/v2/disks/long/blobs/{digest_of(data)}").body == data


def test_monitoring_sees_when_the_certificate_expires_that_is_shown(start, certified, authority):
    beside = f"127.0.0.1:{free_port()}"
    server = start("filesystem", DVCR_METRICS_LISTEN=beside, **certified.settings)

    def told():
        # It listens there a moment later.
        with contextlib.suppress(OSError):
            return scraped(beside)["dvcr_tls_certificate_expiry_timestamp_seconds"]

    def end():
        done = ["openssl", "x509", "-in", certified.certificate, "-noout", "-enddate"]
        found = subprocess.run(done, check=True, capture_output=True, text=True).stdout
        return ssl.cert_time_to_seconds(found.strip().removeprefix("notAfter="))

    first = end()
    assert eventually(told) == first
    new = certified.renew(authority, days=90)
    assert end() > first
    eventually(lambda: shown(server) == new, RELOAD)
    assert told() == end()
    # One that cannot be used is not shown, and so it is not told of.
    renewed = end()
    made, _ = authority.certify("127.0.0.1", days=5)
    shutil.copyfile(made, certified.certificate)
    eventually(lambda: "goes on with the certificate" in server.log.read_text(), RELOAD)
    assert shown(server) == new
    assert told() == renewed


def test_links_that_kubernetes_moves_are_followed(start, tmp_path, authority):
    volume = tmp_path / "volume"
    volume.mkdir()

    def put(name):
        made, key = authority.certify("127.0.0.1")
        folder = volume / name
        folder.mkdir()
        shutil.copyfile(made, folder / "tls.crt")
        shutil.copyfile(key, folder / "tls.key")
        (volume / "..data_tmp").symlink_to(name)
        (volume / "..data_tmp").rename(volume / "..data")
        return fingerprint(made.read_text())

    first = put("..2026_1")
    for file in ["tls.crt", "tls.key"]:
        (volume / file).symlink_to(f"..data/{file}")
    server = start("filesystem", DVCR_TLS_CERTIFICATE=str(volume / "tls.crt"), DVCR_TLS_KEY=str(volume / "tls.key"))
    assert shown(server) == first
    second = put("..2026_2")
    shutil.rmtree(volume / "..2026_1")
    eventually(lambda: shown(server) == second, RELOAD)


def test_a_broken_pair_is_a_warning_and_the_old_one_stays(server, certified, authority):
    before = shown(server)
    other, _ = authority.certify("localhost")
    certified.certificate.write_bytes(other.read_bytes())
    line = eventually(
        lambda: [line for line in server.log.read_text().splitlines() if "goes on with the certificate" in line], RELOAD
    )[0]
    assert str(certified.certificate) in line and str(certified.key) in line
    assert shown(server) == before
    new = certified.renew(authority)
    eventually(lambda: shown(server) == new, RELOAD)


def test_a_pair_that_cannot_be_used_is_an_error_at_the_start(certified, tmp_path):
    certified.key.write_text("nothing")
    command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")]
    done = subprocess.run(command, env={**os.environ, **certified.settings}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert str(certified.key) in done.stderr and "no private key" in done.stderr, done.stderr


def test_those_who_say_nothing_keep_nobody_out(start, certified):
    server = start("filesystem", **certified.settings, DVCR_HEADER_TIMEOUT="3")
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(300)]
    try:
        # Some stop in the middle of what they say.
        for connection in silent[::3]:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert curl(server, certified) == "2 200"
        # And they are not waited for either.
        for connection in silent:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()


def test_stopping_does_not_wait_for_those_who_say_nothing(start, certified):
    server = start("filesystem", **certified.settings, DVCR_HEADER_TIMEOUT="600")
    with socket.create_connection(("127.0.0.1", server.port)):
        time.sleep(0.5)
        assert Dvcr.stop(server) == 0


@pytest.mark.parametrize("wants_certificates", [False, True])
def test_the_health_check_speaks_tls(start, certified, clients, wants_certificates):
    more = {"DVCR_TLS_CLIENT_CA": str(clients.certificate)} if wants_certificates else {}
    server = start("filesystem", **certified.settings, **more)
    environment = {**os.environ, **certified.settings, **more}
    command = [BINARY, "healthcheck", "--listen", server.host]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    server.stop()
    assert subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 1
