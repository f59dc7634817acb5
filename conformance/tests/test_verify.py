"""dvcr verify: what is damaged or missing is found and told, nobody is given it, and a push heals it."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import random
import shutil
import subprocess
import threading
import time

import pytest

from command import ASKED_WRONGLY, DONE, FAILED
from disk import MIB
from test_collect import collect
from test_metrics import scraped, total
from test_other_registries import other  # noqa: F401
from test_rewrite import NAME, flip, push, versions  # noqa: F401
from test_skopeo import PLAIN_FROM, PLAIN_TO, layout, skopeo  # noqa: F401
from wire import Client, digest_of, eventually

PATH = "/v2/_dvcr/storage/verify"
DAMAGED = 4


def verify(dvcr, server, *arguments, code=DONE):
    return dvcr.run("verify", "--output", "json", *arguments, server.host, code=code).json()


def blob(server, digest, name=NAME):
    return Client(server.host).get(f"/v2/{name}/blobs/{digest}")


def largest(server, *folders):
    """The largest file below some folders of a data directory."""
    root = pathlib.Path(server.storage[1])
    files = [file for folder in folders for file in (root / folder).rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def in_bucket(server, method, key, data=None):
    """Does something with an object of the bucket, behind the server's back. Gives the bytes that come."""
    bucket, prefix = server.storage[1].removeprefix("s3://").split("/", 1)
    login = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "dvcr-test:dvcr-test-secret"]
    url = f"{server.storage[3]}/{bucket}{key.format(prefix=prefix)}"
    # curl signs what it reads from a pipe as if it were nothing.
    body = [] if data is None else ["--data-binary", "@-", "--header", f"x-amz-content-sha256: {hashlib.sha256(data).hexdigest()}"]
    return subprocess.run(["curl", "-sf", *login, "-X", method, *body, url], input=data, stdout=-1, check=True).stdout


def largest_in_bucket(server, folder):
    listed = in_bucket(server, "GET", "?list-type=2&prefix={prefix}%2F" + folder + "%2F").decode()
    entries = [entry.split("</Key>")[0] for entry in listed.split("<Key>")[1:]]
    sizes = [int(entry.split("</Size>")[0]) for entry in listed.split("<Size>")[1:]]
    return "/" + max(zip(sizes, entries, strict=True))[1]


def lose_one(server, folder):
    """Deletes the largest object of a folder, on either backend."""
    if server.storage[0] == "--data":
        largest(server, folder).unlink()
    else:
        in_bucket(server, "DELETE", largest_in_bucket(server, folder))


def damage_one(server, folder):
    """Changes a byte in the middle of the largest object of a folder, on either backend."""
    if server.storage[0] == "--data":
        file = largest(server, folder)
        flip(file, file.stat().st_size // 2)
        return
    key = largest_in_bucket(server, folder)
    data = bytearray(in_bucket(server, "GET", key))
    data[len(data) // 2] ^= 0x10
    in_bucket(server, "PUT", key, bytes(data))


def copy_one(server, folder):
    """Puts a copy of the largest object of a folder beside it, which nothing refers to."""
    other = lambda name: name[:-1] + ("0" if name[-1] != "0" else "1")  # noqa: E731
    if server.storage[0] == "--data":
        file = largest(server, folder)
        shutil.copy(file, file.with_name(other(file.name)))
    else:
        key = largest_in_bucket(server, folder)
        in_bucket(server, "PUT", other(key), in_bucket(server, "GET", key))


@contextlib.contextmanager
def verifying(server, query=""):
    """A verification as it goes on: its lines. At the end the client goes away."""
    connection = http.client.HTTPConnection(server.host, timeout=60)
    connection.request("POST", PATH + query)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    try:
        yield (json.loads(line) for line in answer)
    finally:
        # Closed at once, with what was not read.
        connection.sock and connection.sock.close()
        answer.close()


def test_of_what_is_right_nothing_is_found_and_what_versions_share_is_read_once(start, backend, dvcr, versions):
    server = start(backend)
    for tag, version in zip(["v1", "v2"], versions, strict=True):
        push(server, tag, version)
    quick, stored, deep = (verify(dvcr, server, *depth) for depth in (["--quick"], [], ["--deep"]))
    for outcome in (quick, stored, deep):
        assert (outcome["found"], outcome["findings"], outcome["manifests"], outcome["tags"]) == ([], 0, 2, 2)
        assert outcome["orphaned"] == {"count": 0, "bytes": 0}
    assert quick["read"] < 64 << 10
    # Seven MiB of bytes that cannot be compressed, and 200 KiB and what surrounds them.
    assert 7 * MIB < stored["read"] < 8.5 * MIB
    assert deep["read"] > sum(map(len, versions))


@pytest.mark.parametrize("chunking", ["true", "false"])
def test_a_damaged_disk_is_found_said_not_to_be_there_and_healed_by_a_push(start, dvcr, versions, chunking):
    server = start("filesystem", DVCR_CHUNKING=chunking)
    old, new = versions
    digests = [push(server, tag, disk) for tag, disk in [("v1", old), ("v2", new)]]
    untouched = push(server, "other", os.urandom(3 * MIB), name="disks/untouched")
    file = largest(server, "data")
    flip(file, file.stat().st_size // 2)
    outcome = verify(dvcr, server, "--dry-run", code=DAMAGED)
    assert outcome["found"] and not any(found["quarantined"] for found in outcome["found"])
    outcome = verify(dvcr, server, code=DAMAGED)
    found = {found["digest"]: found for found in outcome["found"]}
    assert found and set(found) <= set(digests), outcome
    for digest, finding in found.items():
        assert (finding["kind"], finding["repositories"], finding["quarantined"]) == ("blob", [NAME], True)
        assert blob(server, digest).status == 404
        assert Client(server.host).head(f"/v2/{NAME}/blobs/{digest}").status == 404
    # Collections go on, and what is put aside is no hindrance to them.
    assert collect(server)["unreadable"] == 0
    for tag, disk in [("v1", old), ("v2", new)]:
        push(server, tag, disk)
    assert verify(dvcr, server, "--deep")["found"] == []
    for digest in digests:
        assert digest_of(blob(server, digest).body) == digest
    assert digest_of(blob(server, untouched, "disks/untouched").body) == untouched


def test_what_is_damaged_is_found_by_the_server_itself_counted_and_healed_by_an_import(start, backend, dvcr, tmp_path):
    server = start(backend, DVCR_VERIFY_INTERVAL="1", DVCR_COLLECT_INTERVAL="0")
    disk, reference = tmp_path / "disk.img", f"{server.host}/{NAME}:v1"
    disk.write_bytes(os.urandom(3 * MIB))
    dvcr.imports(disk, reference)
    [layer] = Client(server.host).get(f"/v2/{NAME}/manifests/v1").json()["layers"]
    path = f"/v2/{NAME}/blobs/{layer['digest']}"
    assert Client(server.host).head(path).status == 200
    damage_one(server, "data")
    eventually(lambda: Client(server.host).head(path).status == 404, seconds=60)
    eventually(lambda: total(scraped(server.host), "dvcr_verification_findings_total") >= 1)
    dvcr.imports(disk, reference)
    assert digest_of(blob(server, layer["digest"]).body) == layer["digest"]
    assert dvcr.pulls(reference, tmp_path / "back.img") and (tmp_path / "back.img").read_bytes() == disk.read_bytes()


def test_what_nothing_refers_to_is_counted_and_is_no_damage(start, backend, dvcr):
    server = start(backend, DVCR_GRACE="1", DVCR_COLLECT_INTERVAL="0")
    digest = push(server, "v1", os.urandom(3 * MIB))
    copy_one(server, "data")

    def orphaned():
        outcome = verify(dvcr, server)
        assert outcome["findings"] == 0
        return outcome["orphaned"]

    # What was written lately may come to be needed.
    found = eventually(lambda: (found := orphaned())["count"] and found)
    assert found["count"] == 1 and found["bytes"] >= 3 * MIB
    eventually(lambda: collect(server) and orphaned() == {"count": 0, "bytes": 0})
    assert digest_of(blob(server, digest).body) == digest


def test_a_push_to_another_replica_heals_too(start, dvcr, versions):
    first = start("s3", DVCR_GRACE="4")
    second = start("s3", (first.storage, first.environment))
    digests = [push(second, tag, disk) for tag, disk in zip(["v1", "v2"], versions, strict=True)]
    # The second one knows where the chunks were, and is not told otherwise.
    lose_one(first, "data")
    outcome = verify(dvcr, first, code=DAMAGED)
    assert {found["digest"] for found in outcome["found"]} == set(digests)

    def healed():
        # Who has built on what is damaged before this replica heard of it is told to begin again, as clients do.
        with contextlib.suppress(AssertionError):
            for tag, disk in zip(["v1", "v2"], versions, strict=True):
                push(second, tag, disk)
            return dvcr.run("verify", "--quick", first.host, code=None).code == DONE
        return False

    eventually(healed, seconds=60)
    for digest in digests:
        assert digest_of(blob(second, digest).body) == digest
    assert verify(dvcr, second, "--deep")["found"] == []


@pytest.mark.parametrize("folder", ["data", "recipes", "blobs"])
def test_what_is_missing_is_found_without_reading_data(start, backend, dvcr, versions, folder):
    server = start(backend)
    digest = push(server, "v1", versions[0])
    lose_one(server, folder)
    outcome = verify(dvcr, server, "--quick", code=DAMAGED)
    # The largest record is that of the config, which is in it.
    (lost,) = [found["digest"] for found in outcome["found"]]
    assert (lost == digest) == (folder != "blobs")
    assert blob(server, lost).status == 404
    push(server, "v1", versions[0])
    assert verify(dvcr, server)["found"] == []
    assert digest_of(blob(server, digest).body) == digest


@pytest.mark.parametrize(
    "folder",
    ["blobs", f"repositories/{NAME}/_blobs", f"repositories/{NAME}/_manifests", f"repositories/{NAME}/_tags"],
)
@pytest.mark.parametrize("how", ["cut", "garbage"])
def test_a_damaged_record_is_put_aside_and_written_anew(start, dvcr, versions, folder, how):
    server = start("filesystem")
    digest = push(server, "v1", versions[0])
    file = largest(server, folder)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:20] if how == "cut" else b"\0" * 300)
    outcome = verify(dvcr, server, "--quick", code=DAMAGED)
    # A manifest can be pushed over, and that a repository has a blob is written anew.
    quarantined = any(found["quarantined"] for found in outcome["found"])
    assert quarantined == (not folder.endswith(("_manifests", "_blobs"))), outcome
    push(server, "v1", versions[0])
    assert verify(dvcr, server)["found"] == []
    assert collect(server)["unreadable"] == 0
    assert digest_of(blob(server, digest).body) == digest


def test_skopeo_heals_what_was_damaged_with_the_same_copy_again(start, dvcr, layout):
    server = start("filesystem")
    (source, _), target = layout, f"docker://{server.host}/{NAME}:v1"
    skopeo("copy", PLAIN_TO, f"oci:{source}:v1", target)
    file = largest(server, "data", "blobs")
    flip(file, file.stat().st_size // 2)
    outcome = verify(dvcr, server, "--deep", code=DAMAGED)
    assert all(found["quarantined"] for found in outcome["found"])
    skopeo("copy", PLAIN_TO, f"oci:{source}:v1", target)
    assert verify(dvcr, server, "--deep")["found"] == []
    skopeo("copy", PLAIN_FROM, target, f"dir:{dvcr.home}/back")


def test_everything_can_be_pushed_and_pulled_meanwhile(start, backend, dvcr, versions):
    server = start(backend)
    digest = push(server, "v1", versions[0])
    with verifying(server, f"?rate={4 * MIB}") as lines:
        assert "begins" in next(lines)
        push(server, "v2", versions[1])
        assert digest_of(blob(server, digest).body) == digest
        rest = list(lines)
    assert not [line for line in rest if "found" in line]
    assert "ends" in rest[-1]


def test_one_that_is_stopped_goes_on_where_it_was(start, backend):
    server = start(backend, DVCR_CHUNKING="false")
    for number in range(6):
        push(server, f"v{number}", random.Random(number).randbytes(MIB))
    with verifying(server, f"?rate={MIB}") as lines:
        begun, total = time.monotonic(), next(lines)["begins"]["bytes"]
        while next(lines).get("passes", 0) < 3 * MIB:
            pass
        # What is read first comes at once.
        assert time.monotonic() - begun > 1

    def goes_on():
        answer = Client(server.host).send("POST", PATH)
        # The other one may not have noticed yet that nobody listens.
        if answer.status == 409:
            return False
        begins, *_, ends = [json.loads(line) for line in answer.body.splitlines()]
        assert 3 * MIB <= begins["begins"]["passed"] < total, begins
        assert ends["ends"]["blobs"]["bytes"] == total - begins["begins"]["passed"]
        return True

    eventually(goes_on, seconds=60)
    begins = json.loads(Client(server.host).send("POST", PATH).body.splitlines()[0])
    assert begins["begins"]["passed"] == 0


def test_a_server_that_stops_does_not_wait_for_it(start, dvcr):
    server = start("filesystem")
    push(server, "v1", os.urandom(4 * MIB))
    ended = []
    with verifying(server, "?rate=1000") as lines:
        next(lines)
        stopping = threading.Thread(target=lambda: ended.append(server.stop()))
        stopping.start()
        with contextlib.suppress(http.client.HTTPException, ValueError):
            list(lines)
        stopping.join()
    assert ended == [0]
    server.start()
    assert verify(dvcr, server)["found"] == []


@pytest.mark.parametrize("query", ["?depth=all", "?rate=0", "?rate=fast", "?dryRun=perhaps", "?restart=1"])
def test_what_cannot_be_understood_is_refused(start, query):
    answer = Client(start("filesystem").host).send("POST", PATH + query)
    assert answer.status == 400
    name, value = query.removeprefix("?").split("=")
    message = answer.json()["errors"][0]["message"]
    assert name in message and value in message


def test_it_is_asked_for_with_post_and_one_at_a_time(start, dvcr, versions):
    server = start("filesystem")
    push(server, "v1", versions[0])
    assert Client(server.host).get(PATH).status == 405
    with verifying(server, "?rate=1000") as lines:
        next(lines)
        assert Client(server.host).send("POST", PATH).status == 409
        assert "already" in dvcr.run("verify", server.host, code=FAILED).error()


def test_wrong_flags_are_refused_and_other_registries_do_not_verify(dvcr, other):
    dvcr.run("verify", "--quick", "--deep", other, code=ASKED_WRONGLY)
    dvcr.run("verify", "--rate", "fast", other, code=ASKED_WRONGLY)
    assert "does not verify" in dvcr.run("verify", other, code=FAILED).error()


def test_people_read_what_was_found_on_lines_of_its_own(start, dvcr, versions):
    server = start("filesystem")
    digest = push(server, "v1", versions[0])
    file = largest(server, "data")
    flip(file, 1000)
    done = dvcr.run("verify", server.host, code=DAMAGED)
    first = done.out.decode().splitlines()[0]
    assert digest in first and NAME in first and "put aside" in first
    assert server.host in done.error()
