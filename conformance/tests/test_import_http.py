"""Downloads over networks as they are: cut, stalled, redirected, behind proxies and passwords."""

import hashlib
import ipaddress
import itertools
import os

import pytest

from command import ASKED_WRONGLY, DONE, FAILED, REFUSED, kept, nothing_tagged
from disk import write_disk
from flaky_http import Resource, Web
from images import MIB, compress
from layers import Image, push_disk, tar

RETRY = ("--retries", "3")
SIZE = 12 * MIB


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A raw disk that does not compress."""
    path = tmp_path_factory.mktemp("http") / "disk.img"
    write_disk(path, SIZE // MIB, b"http")
    return path.read_bytes()


@pytest.fixture
def imports(dvcr, registry):
    """Imports, and gives the result and the bytes that the registry has then."""

    def imports(url, *arguments, **options):
        result = dvcr.imports(url, f"{registry.host}/disks/http:v1", *arguments, **options)
        _, data = Image(registry.host, "disks/http").file()
        return result, data

    return imports


@pytest.fixture
def refuses(dvcr, registry):
    """An import that must end without an image, and why it did."""

    def refuses(url, *arguments, code=FAILED, **options):
        before = kept(registry)
        error = dvcr.refuses("import", *arguments, url, f"{registry.host}/disks/http:v1", code=code, **options)
        assert nothing_tagged(registry, "disks/http")
        if code == REFUSED:
            assert kept(registry) == before
        return error

    return refuses


FRAMINGS = ["length", "chunked", "close"]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_server_may_frame_its_answer_as_it_likes(imports, web, data, framing, ranges, etag):
    url = web.add("/disk.img", data, framing=framing, ranges=ranges, etag=etag)
    result, there = imports(url)
    assert there == data
    assert result["source_size"] == len(data)
    # Some bytes at the end tell what it is; a server without ranges sends more until it is stopped.
    assert len([seen for seen in web.requests() if seen.whole]) == result["passes"]
    if ranges:
        assert web.sent() <= result["passes"] * len(data) + MIB


@pytest.mark.parametrize("compression", ["none", "xz", "gzip", "zstd", "bzip2"])
def test_a_download_goes_on_where_it_was_cut(imports, web, images, compression):
    packed = images.compressed("raw", compression).read_bytes()
    url = web.add("/disk", packed, cut=len(packed) // 3 + 1000)
    result, there = imports(url, *RETRY)
    assert there == images.disk().read_bytes()
    # Each byte was sent once for each time that it was read, and what a reader takes to look at the beginning.
    assert web.sent() <= result["passes"] * (len(packed) + 256 * 1024)
    resumed = [seen for seen in web.requests() if seen.start]
    assert len(resumed) >= 2
    assert {seen.headers.get("if-range") for seen in resumed} == {'"v1"'}
    # It asks for the byte at which it stopped.
    readings = [seen for seen in web.requests() if seen.whole]
    for before, after in itertools.pairwise(readings):
        if after.start:
            assert after.start == (before.start or 0) + before.sent


def test_a_download_that_is_cut_often_gets_there(imports, web, data):
    """More often than --retries: what counts is progress."""
    result, there = imports(web.add("/disk", data, cut=MIB), "--retries", "2")
    assert there == data
    assert len([seen for seen in web.requests() if seen.start]) >= 10
    assert web.sent() <= result["passes"] * (len(data) + 256 * 1024)


def test_a_download_without_a_tag_goes_on_by_its_date(imports, web, data):
    _, there = imports(web.add("/disk", data, cut=5 * MIB, etag=None), *RETRY)
    assert there == data
    resumed = [seen for seen in web.requests() if seen.start]
    assert {seen.headers.get("if-range") for seen in resumed} == {"Sat, 21 Nov 2026 10:00:00 GMT"}


def test_a_weak_tag_is_no_proof_that_the_bytes_are_the_same(imports, web, data):
    """RFC 9110: If-Range takes only a strong one."""
    _, there = imports(web.add("/disk", data, cut=5 * MIB, cuts=1, etag='W/"v1"'), *RETRY)
    assert there == data
    assert not [seen for seen in web.requests() if seen.headers.get("if-range", "").startswith("W/")]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_server_without_ranges_sends_all_of_it_again(imports, web, data, framing):
    if framing == "close":
        # There the end of the connection is the end of the file.
        _, there = imports(web.add("/disk", data, framing=framing, ranges=False), *RETRY)
    else:
        _, there = imports(web.add("/disk", data, framing=framing, ranges=False, cut=7 * MIB, cuts=1), *RETRY)
    assert there == data


def test_a_server_without_ranges_that_always_cuts_is_given_up(refuses, web, data):
    error = refuses(web.add("/disk", data, ranges=False, cut=7 * MIB), "--retries", "2")
    assert "/disk" in error


def test_a_chunked_answer_that_is_cut_is_not_the_whole_file(imports, web, data):
    _, there = imports(web.add("/disk", data, framing="chunked", cut=5 * MIB, cuts=1), *RETRY)
    assert there == data


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_changes_midway_is_read_from_its_beginning(imports, web, data, same_size):
    new = data[:100] + bytes(1000) + data[1100:] + (b"" if same_size else os.urandom(5000))
    url = web.add("/disk", data, cut=5 * MIB, cuts=1, becomes=Resource(new, etag='"v2"'))
    result, there = imports(url, *RETRY)
    assert there == new
    assert result["size"] == len(new)


@pytest.mark.parametrize("compression", ["bzip2", "zstd-unsized", "gzip-members"])
def test_a_file_that_changes_between_two_readings_is_read_again(imports, web, images, compression):
    """What does not tell its size is read twice."""
    old, new = (images.compressed(name, compression).read_bytes() for name in ["qcow2", "vdi"])
    url = web.add("/disk", old, becomes=Resource(new, etag='"v2"', modified="Sat, 21 Nov 2026 11:00:00 GMT"))
    result, there = imports(url, *RETRY)
    # One that read it once has the old one.
    name = "qcow2" if result["passes"] == 1 and len(web.requests()) == 1 else "vdi"
    assert there == images.image(name).read_bytes()
    assert result["format"] == name


@pytest.mark.parametrize("compression", ["bzip2", "zstd-unsized", "gzip-members"])
def test_a_checksum_holds_for_the_bytes_that_are_stored(dvcr, registry, web, tmp_path, compression):
    """The file changes between two readings, keeps its length, and nothing in the headers tells."""
    disk = bytearray(os.urandom(MIB // 4))
    good = compressed(disk, compression, tmp_path)
    evil = disk.copy()
    while len(bad := compressed(evil, compression, tmp_path)) != len(good) or evil == disk:
        evil[1000:1100] = os.urandom(100)
    url = web.add("/disk", good, etag=None, modified=None, becomes=Resource(bad, etag=None, modified=None))
    reference, right = f"{registry.host}/disks/http:v1", hashlib.sha256(good).hexdigest()
    done = dvcr.run("import", "--checksum", f"sha256:{right}", *RETRY, url, reference, code=None)
    if done.code == DONE:
        assert Image(registry.host, "disks/http").file()[1] == disk
    else:
        assert done.code in (FAILED, REFUSED), done
        assert nothing_tagged(registry, "disks/http")


def compressed(data, compression, folder):
    path = folder / "noise"
    path.write_bytes(data)
    return compress(path, compression).read_bytes()


def test_a_silent_server_counts_as_a_cut(imports, web, data):
    _, there = imports(web.add("/disk", data, stall=5 * MIB, stalls=1), "--idle-timeout", "1", *RETRY)
    assert there == data
    assert [seen for seen in web.requests() if seen.start]


def test_a_server_that_is_silent_for_ever_is_given_up(refuses, web, data):
    error = refuses(web.add("/disk", data, stall=0), "--idle-timeout", "1", "--retries", "2")
    assert "/disk" in error or web.host in error
    assert len(web.requests()) >= 2


def test_a_server_that_is_too_busy_is_asked_again_when_it_says(imports, web, data):
    result, there = imports(web.add("/disk", data, unavailable=2, retry_after="1"), *RETRY)
    assert there == data
    assert result["seconds"] >= 2


def test_a_server_that_is_too_busy_for_ever_is_given_up(refuses, web, data):
    assert "503" in refuses(web.add("/disk", data, unavailable=1000, retry_after="0"), "--retries", "2")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_answer_that_says_no_ends_it_at_once(refuses, web, status):
    error = refuses(web.add("/disk", status=status))
    assert str(status) in error
    assert len(web.requests()) <= 2


def test_an_answer_that_is_shorter_than_it_says_is_not_taken(refuses, web, data):
    refuses(web.add("/disk", data[: 5 * MIB], length=len(data), ranges=False), "--retries", "1")


def test_a_name_that_nobody_has_is_named(refuses):
    assert "nowhere.invalid" in refuses("http://nowhere.invalid/disk.img", "--retries", "1")


def test_a_port_where_nobody_listens_is_named(refuses):
    assert "127.0.0.1:1" in refuses("http://127.0.0.1:1/disk.img", "--retries", "1")


# Redirects.


def test_redirects_are_followed(imports, web, data):
    web.add("/disk", data)
    for number in range(5):
        web.add(f"/{number}", location=f"/{number + 1}" if number < 4 else "/disk")
    _, there = imports(f"{web.url}/0")
    assert there == data


@pytest.mark.parametrize("location", ["/loop", "/loop?{n}"])
def test_redirects_without_an_end_are_counted(refuses, web, location):
    error = refuses(web.add("/loop", location=location), *RETRY)
    assert "redirect" in error and any(character.isdigit() for character in error.replace(web.host, "")), error
    assert len(web.requests(method=None)) <= 100


def test_a_redirect_to_another_server_does_not_take_the_secrets_along(imports, web, opened, data):
    other = opened(Web())
    url = web.add("/disk", location=other.add("/disk", data))
    for arguments in [["--user", "someone:hidden"], ["--header", "Authorization: Bearer hidden"]]:
        assert imports(url, *arguments)[1] == data
    assert web.requests()[0].headers["authorization"]
    assert not any("authorization" in seen.headers for seen in other.requests(method=None))


def test_a_download_that_was_redirected_goes_on_after_a_cut(imports, web, data):
    web.add("/disk", data, cut=5 * MIB)
    _, there = imports(web.add("/moved", location="/disk"), *RETRY)
    assert there == data


# Who may read.


def test_a_password_is_given_in_the_address_the_option_or_the_environment(imports, web, data):
    url = web.add("/disk", data, user="someone:p@ss: word")
    with_user = url.replace("http://", "http://someone:p%40ss%3A%20word@")
    assert imports(with_user)[1] == data
    assert imports(url, "--user", "someone:p@ss: word")[1] == data
    assert imports(url, environment={"DVCR_SOURCE_USER": "someone:p@ss: word"})[1] == data


def test_a_wrong_password_is_said_and_not_shown(refuses, web, data):
    url = web.add("/disk", data, user="someone:secret")
    error = refuses(url, "--user", "someone:hidden")
    assert "401" in error and "hidden" not in error


def test_headers_are_sent_as_they_are_given(imports, web, data):
    url = web.add("/disk", data, header=("X-Auth-Token", "a: b=c"))
    assert imports(url, "--header", "X-Auth-Token: a: b=c", "--header", "X-Other: 1")[1] == data
    assert {seen.headers.get("x-other") for seen in web.requests()} == {"1"}


def test_the_bytes_are_asked_for_as_they_are(imports, web, images):
    """No Accept-Encoding that a server could compress for: the checksum is of the file."""
    imports(web.add("/disk", images.image("qcow2").read_bytes()))
    assert {seen.headers.get("accept-encoding", "identity") for seen in web.requests(method=None)} == {"identity"}
    assert all("dvcr/" in seen.headers["user-agent"].lower() for seen in web.requests(method=None))


# TLS.


@pytest.fixture
def secure(opened, authority):
    return opened(Web(tls=authority.certify("127.0.0.1", "localhost")))


def test_a_certificate_of_an_unknown_authority_is_not_accepted(refuses, secure, data):
    error = refuses(secure.add("/disk", data), "--retries", "1")
    assert "certificate" in error
    assert secure.requests() == []


def test_an_authority_of_the_sources_own_is_accepted(imports, secure, authority, data):
    url = secure.add("/disk", data, cut=5 * MIB)
    assert imports(url, "--source-ca-file", authority.certificate, *RETRY)[1] == data
    named = url.replace("127.0.0.1", "localhost")
    assert imports(named, "--source-ca-file", authority.certificate, *RETRY)[1] == data


def test_a_certificate_for_another_name_is_not_accepted(refuses, opened, authority, data):
    other = opened(Web(tls=authority.certify("disks.example.org")))
    error = refuses(other.add("/disk", data), "--source-ca-file", authority.certificate, "--retries", "1")
    assert "certificate" in error


def test_a_file_without_a_certificate_is_named(dvcr, registry, secure, data, tmp_path):
    path = tmp_path / "empty.pem"
    path.write_text("no certificate")
    url, reference = secure.add("/disk", data), f"{registry.host}/disks/http:v1"
    for option in ["--source-ca-file", "--ca-file"]:
        assert str(path) in dvcr.run("import", option, path, url, reference, code=None).error()


# Proxies.


def test_the_proxy_of_the_environment_is_asked(imports, web, forward_proxy, data):
    """The name is one that only the proxy knows. The registry is on this machine, and never behind it."""
    web.add("/disk", data)
    proxy = forward_proxy({"disks.invalid:80": web.host})
    for variable in ["HTTP_PROXY", "http_proxy"]:
        assert imports("http://disks.invalid/disk", environment={variable: proxy.url})[1] == data
    assert {line.split()[1] for line in proxy.asked} == {"disks.invalid"}


def test_the_proxy_passes_tls_through(imports, opened, authority, forward_proxy, data):
    secure = opened(Web(tls=authority.certify("disks.invalid")))
    secure.add("/disk", data)
    proxy = forward_proxy({"disks.invalid:443": secure.host})
    for variable in ["HTTPS_PROXY", "https_proxy"]:
        there = imports(
            "https://disks.invalid/disk", "--source-ca-file", authority.certificate, environment={variable: proxy.url}
        )[1]
        assert there == data
    assert set(proxy.asked) == {"CONNECT disks.invalid:443"}


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("value", ["{}", "example.org,{}", "198.51.100.0/24", "*"])
def test_what_is_excepted_from_the_proxy_is_asked_itself(
    imports, opened, outside, forward_proxy, data, variable, value
):
    web, proxy = opened(Web(outside)), forward_proxy({})
    environment = {"HTTP_PROXY": proxy.url, variable: value.format(outside)}
    assert imports(web.add("/disk", data), environment=environment)[1] == data
    assert proxy.asked == []


def test_a_download_through_a_proxy_goes_on_after_a_cut(imports, web, forward_proxy, data):
    web.add("/disk", data, cut=5 * MIB)
    proxy = forward_proxy({"disks.invalid:80": web.host})
    assert imports("http://disks.invalid/disk", *RETRY, environment={"HTTP_PROXY": proxy.url})[1] == data
    assert [seen for seen in web.requests() if seen.start]


# Addresses of this machine.

DENY = "--deny-local-addresses"


def local(web):
    """Ways to say this machine, which a resolver or the kernel knows."""
    return [
        f"http://{name}:{web.port}/disk"
        for name in ["127.0.0.1", "localhost", "127.9.9.9", "127.1", "0.0.0.0", "0x7f000001", "2130706433",
                     "[::1]", "[::]", "[::ffff:127.0.0.1]", "169.254.169.254", "[fe80::1]"]
    ]  # fmt: skip


def test_addresses_of_this_machine_are_refused_when_that_is_wanted(refuses, web, data):
    web.add("/disk", data)
    for url in local(web):
        error = refuses(url, DENY, "--retries", "1", code=REFUSED)
        assert "local" in error or "loopback" in error, (url, error)
    refuses(f"{web.url}/disk", code=REFUSED, environment={"DVCR_DENY_LOCAL_ADDRESSES": "true"})
    assert web.requests(method=None) == []


def test_an_address_elsewhere_is_none_of_this_machine(imports, opened, outside, data):
    assert imports(opened(Web(outside)).add("/disk", data), DENY)[1] == data


def test_redirects_to_this_machine_are_refused(refuses, opened, outside, web, data):
    away = opened(Web(outside))
    web.add("/disk", data)
    for number, location in enumerate(local(web)):
        url = away.add(f"/{number}", location=location)
        error = refuses(url, DENY, "--retries", "1", code=REFUSED)
        assert "local" in error or "loopback" in error, (location, error)
    assert web.requests(method=None) == []


def test_networks_that_are_denied_are_refused(dvcr, refuses, imports, opened, outside, web, data):
    away = opened(Web(outside))
    disk, redirected = away.add("/disk", data), web.add("/away", location=f"{away.url}/disk")
    network = str(ipaddress.ip_network(f"{outside}/24", strict=False))
    for url in [disk, redirected]:
        error = refuses(url, "--deny-networks", f"192.0.2.0/24,{network}", "--retries", "1", code=REFUSED)
        assert outside in error and network in error, (url, error)
    refuses(disk, "--retries", "1", code=REFUSED, environment={"DVCR_DENY_NETWORKS": f"192.0.2.0/24, {outside},"})
    wrong = dvcr.run("import", "--deny-networks", "everywhere", disk, "127.0.0.1:1/a:v1", code=ASKED_WRONGLY)
    assert "10.0.0.0/8" in wrong.errors
    assert away.requests(method=None) == []
    assert imports(disk, "--deny-networks", "192.0.2.0/24")[1] == data
    assert imports(disk, environment={"DVCR_DENY_NETWORKS": ""})[1] == data


def test_a_proxy_may_be_where_sources_may_not(refuses, imports, opened, outside, forward_proxy, data):
    away = opened(Web(outside))
    disk, proxy = away.add("/disk", data), forward_proxy({away.host: away.host})
    named = proxy.url.replace("127.0.0.1", "localhost")
    refuses(f"{named}/disk", DENY, "--retries", "1", code=REFUSED, environment={"HTTP_PROXY": named})
    assert proxy.asked == []
    assert imports(disk, DENY, environment={"HTTP_PROXY": named})[1] == data
    assert proxy.asked


def test_a_registry_on_this_machine_is_refused_as_a_source_only(dvcr, registry, refuses, start, images):
    other = start("filesystem")
    push_disk(other.host, "a/disk", "v1", [tar(("disk/disk.img", images.disk().read_bytes()))])
    refuses(f"docker://{other.host}/a/disk:v1", DENY, "--retries", "1", code=REFUSED)
    dvcr.imports(images.image("qcow2"), f"{registry.host}/disks/a:v1", DENY)


def test_addresses_of_this_machine_are_fine_otherwise(imports, web, opened, data):
    assert imports(web.add("/disk", data))[1] == data
    v6 = opened(Web("::1"))
    assert imports(v6.add("/disk", data))[1] == data
