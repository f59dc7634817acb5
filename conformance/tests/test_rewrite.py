"""dvcr rewrite: blobs that are there are stored in chunks, or whole again, and no reader sees anything of it."""

import contextlib
import functools
import http.client
import json
import os
import pathlib
import random
import signal
import threading
import time

import pytest

from command import ASKED_WRONGLY, DONE, FAILED, finished, kept
from disk import MIB
from dvcr import Dvcr
from layers import Image, push_disk, tar
from test_metrics import scraped
from wire import Client, at_once, digest_of, eventually

NAME, PATH = "disks/noble", "/v2/_dvcr/storage/rewrite"
INTERRUPTED = 130

formerly = functools.partial(dict, DVCR_CHUNKING="false")


@pytest.fixture(scope="session")
def versions():
    """Two versions of a disk, of which 200 KiB are other bytes."""
    dice = random.Random("versions for test_rewrite")
    old = dice.randbytes(7 * MIB) + bytes(2 * MIB) + dice.randbytes(777)
    return old, old[: 5 * MIB] + dice.randbytes(200 << 10) + old[5 * MIB + (200 << 10) :]


@pytest.fixture
def unchunked(start, backend):
    """A registry over each backend in turn that stores no chunks yet."""
    return start(backend, **formerly())


@pytest.fixture
def unchunked_folder(start):
    """The same over a directory alone."""
    return start("filesystem", **formerly())


def upgraded(server):
    """The server again, and now it stores in chunks."""
    del server.environment["DVCR_CHUNKING"]
    return server.restart()


def push(server, tag, data, compression="none", name=NAME):
    """Pushes an image of a disk as docker does, and gives the digest of its layer."""
    push_disk(server.host, name, tag, [tar(("disk/disk.raw", data))], compression)
    return layer_of(server, tag, name)["digest"]


def push_many(server, count, mib):
    """Disks that have nothing in common."""
    return {tag: push(server, tag, os.urandom(mib * MIB)) for tag in map("v{}".format, range(count))}


def layer_of(server, tag, name=NAME):
    (layer,) = Image(server.host, name, tag).manifest["layers"]
    return layer


def seen(server, compressed=False):
    """What clients see of every image: its manifest, its blobs whole and in ranges, and the bare disk."""
    client, found = Client(server.host), {}

    def look(path, **headers):
        answer = client.get(path, **headers)
        assert answer.status in (200, 206), answer
        found[path, *answer.lasting().items()] = digest_of(answer.body)
        return digest_of(answer.body)

    for tag in client.get(f"/v2/{NAME}/tags/list").json()["tags"]:
        image = Image(server.host, NAME, tag)
        look(f"/v2/{NAME}/manifests/{tag}", Accept=image.media_type)
        for blob in [*image.manifest["layers"], image.manifest["config"]]:
            path, size = f"/v2/{NAME}/blobs/{blob['digest']}", blob["size"]
            assert look(path) == blob["digest"]
            for first, last in [(0, 0), (size // 3, size // 2), (size - 1, size - 1)]:
                look(path, Range=f"bytes={first}-{last}")
        if not compressed:
            look(f"/disks/{NAME}/{tag}")
            look(f"/disks/{NAME}/{tag}", Range=f"bytes={2 * MIB - 5}-{3 * MIB + 5}")
    return found


def rewrites(dvcr, server, *arguments, code=DONE):
    return dvcr.run("rewrite", "--output", "json", *arguments, server.host, code=code).json()


def stats(dvcr, server):
    return dvcr.run("stats", "--output", "json", server.host).json()


def nothing_to_do(dvcr, server, *arguments):
    assert rewrites(dvcr, server, *arguments) == {"rewritten": 0, "bytes": 0, "unchanged": 0, "failed": []}


@contextlib.contextmanager
def rewriting(server):
    """A rewrite as it goes on: its lines."""
    connection = http.client.HTTPConnection(server.host, timeout=60)
    try:
        connection.request("POST", f"{PATH}?to=chunks")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        lines = map(json.loads, iter(response.readline, b""))
        # On a busy machine it may take a second to find out what is to be done.
        yield (line for line in lines if "looked" not in line)
    finally:
        connection.close()


@contextlib.contextmanager
def beside(work):
    """Does something again and again, at least once, beside what is done meanwhile."""
    done, failures = threading.Event(), []

    def run():
        try:
            work()
            while not done.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]


def data_files(server):
    """The files that hold bytes of blobs, and their sizes."""
    found = (pathlib.Path(server.storage[1]) / "data").rglob("*")
    return {path: path.stat().st_size for path in found if path.is_file()}


def data_file(server, size):
    """The file of a blob that is stored whole."""
    (path,) = [path for path, length in data_files(server).items() if length == size]
    return path


def flip(path, at):
    """Damages a byte of a file, or heals it."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


class Gate:
    """Makes whoever opens a file wait, and fail when the gate is opened. Then the file is there again."""

    def __init__(self, path, folder):
        self.path, self.aside, self.pipe = path, folder / "aside", folder / "gate"
        os.mkfifo(self.pipe)
        path.rename(self.aside)
        os.link(self.pipe, path)

    def open(self):
        self.aside.rename(self.path)

        def let_in():
            # Only when somebody waits.
            with contextlib.suppress(OSError):
                return os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK)

        os.close(eventually(let_in, seconds=60))


# What it does.


def test_versions_that_were_stored_whole_cost_little_more_than_one_in_chunks(dvcr, unchunked, versions):
    server, size = unchunked, 0
    for number, data in enumerate(versions):
        push(server, f"v{number}", data)
        size += layer_of(server, f"v{number}")["size"]
    before, shown = stats(dvcr, server), seen(server)
    assert before["stored_bytes"] > size and before["unreferenced_bytes"] == 0
    upgraded(server)
    assert stats(dvcr, server) == before, "nothing happens by itself"
    assert rewrites(dvcr, server) == {"rewritten": 2, "bytes": size, "unchanged": 0, "failed": []}
    after = stats(dvcr, server)
    # Zeros are not stored, and noise does not compress.
    assert after["stored_bytes"] < 8 * MIB < 18 * MIB < before["stored_bytes"]
    # For whoever is reading, for an hour.
    assert after["unreferenced_bytes"] == size
    assert after["logical_bytes"] == before["logical_bytes"]
    assert seen(server) == shown
    nothing_to_do(dvcr, server)
    assert stats(dvcr, server) == after
    server.restart()
    assert seen(server) == shown
    nothing_to_do(dvcr, server)


def test_it_goes_back_to_whole_blobs(dvcr, unchunked, versions):
    server = unchunked
    for number, data in enumerate(versions):
        push(server, f"v{number}", data)
    before, shown = stats(dvcr, server), seen(server)
    nothing_to_do(dvcr, server, "--to", "whole")
    for _ in range(2):
        assert rewrites(dvcr, server, "--to", "chunks")["rewritten"] == 2
        nothing_to_do(dvcr, server, "--to", "chunks")
        assert rewrites(dvcr, server, "--to", "whole")["rewritten"] == 2
        nothing_to_do(dvcr, server, "--to", "whole")
        assert seen(server) == shown
    after = stats(dvcr, server)
    for counted in ["blobs", "logical_bytes", "stored_bytes", "repositories"]:
        assert after[counted] == before[counted], counted
    server.restart()
    assert seen(server) == shown


def test_blobs_are_read_and_pushed_while_they_are_rewritten(dvcr, unchunked, versions):
    server, pushed = unchunked, {}
    for number, data in enumerate(versions):
        push(server, f"v{number}", data)
    push_many(server, 3, 4)
    shown = seen(server)
    client = Client(server.host)

    def read():
        assert seen(server).items() == shown.items()

    def write():
        data = os.urandom(2 * MIB)
        pushed[client.push_blob("disks/other", data)] = data

    for form in ["chunks", "whole"]:
        # Both once, and then for as long as it goes on.
        with beside(read), beside(write):
            # Of what is pushed meanwhile some may be listed already.
            assert rewrites(dvcr, server, "--to", form)["rewritten"] >= 5
        read()
    for digest, data in pushed.items():
        assert client.get(f"/v2/disks/other/blobs/{digest}").body == data
    assert rewrites(dvcr, server)["failed"] == []
    for digest, data in pushed.items():
        assert client.get(f"/v2/disks/other/blobs/{digest}").body == data


@pytest.mark.parametrize("restarted", [False, True])
def test_a_version_behind_a_rewrite_costs_what_has_changed(dvcr, unchunked, versions, restarted):
    server, (old, new) = unchunked, versions
    push(server, "v1", old)
    upgraded(server)
    assert rewrites(dvcr, server)["rewritten"] == 1
    one = stats(dvcr, server)["stored_bytes"]
    if restarted:
        server.restart()
    push(server, "v2", new)
    assert stats(dvcr, server)["stored_bytes"] < one + MIB
    assert seen(server)


def test_compressed_layers_stay_as_they_are(dvcr, unchunked):
    server = unchunked
    for compression in ["gzip", "zstd"]:
        push(server, compression, os.urandom(3 * MIB), compression)
    shown, before = seen(server, compressed=True), stats(dvcr, server)
    upgraded(server)
    for _ in range(2):
        result = rewrites(dvcr, server)
        assert (result["rewritten"], result["bytes"], result["failed"]) == (0, 0, [])
        assert result["unchanged"] in (0, 2)
        assert stats(dvcr, server) == before
    assert seen(server, compressed=True) == shown
    nothing_to_do(dvcr, server, "--to", "whole")


def test_small_blobs_stay_as_they_are(dvcr, unchunked_folder):
    server = unchunked_folder
    for size in [0, 1, 16385, MIB]:
        Client(server.host).push_blob(NAME, os.urandom(size))
    before = kept(server)
    upgraded(server)
    nothing_to_do(dvcr, server)
    nothing_to_do(dvcr, server, "--to", "whole")
    assert kept(server) == before


def test_a_disk_of_zeros_alone_is_rewritten_too(dvcr, unchunked_folder):
    push(unchunked_folder, "v1", bytes(8 * MIB))
    shown = seen(unchunked_folder)
    assert rewrites(dvcr, unchunked_folder)["rewritten"] == 1
    assert stats(dvcr, unchunked_folder)["stored_bytes"] < 100_000
    assert seen(unchunked_folder) == shown
    nothing_to_do(dvcr, unchunked_folder)
    rewrites(dvcr, unchunked_folder, "--to", "whole")
    nothing_to_do(dvcr, unchunked_folder, "--to", "whole")
    assert seen(unchunked_folder) == shown


def test_a_blob_that_was_deleted_does_no_harm(dvcr, unchunked):
    server, client = unchunked, Client(unchunked.host)
    digest, other = (push(server, tag, os.urandom(2 * MIB)) for tag in ["gone", "stays"])
    assert client.delete(f"/v2/{NAME}/manifests/gone").status == 202
    assert client.delete(f"/v2/{NAME}/blobs/{digest}").status == 202
    assert rewrites(dvcr, server)["failed"] == []
    assert client.get(f"/v2/{NAME}/blobs/{digest}").status == 404
    assert digest_of(client.get(f"/v2/{NAME}/blobs/{other}").body) == other


def test_a_person_is_told_what_was_done(dvcr, unchunked_folder):
    push_many(unchunked_folder, 3, 2)
    push(unchunked_folder, "gzip", os.urandom(2 * MIB), "gzip")
    done = dvcr.run("rewrite", unchunked_folder.host)
    assert "3 blobs" in done.out.decode() and "1 blob" in done.out.decode(), done


def test_progress_for_programs_is_a_line_of_json_each(dvcr, unchunked_folder):
    push_many(unchunked_folder, 4, 8)
    for line in dvcr.run("rewrite", "--progress", "json", unchunked_folder.host).errors.splitlines():
        told = json.loads(line)
        assert set(told) == {"phase", "done", "total", "rate", "seconds_left"}, told
        assert told["total"] is None or told["done"] <= told["total"], told


def test_what_happens_is_told_as_it_happens(unchunked):
    layers = push_many(unchunked, 3, 2)
    with rewriting(unchunked) as lines:
        first, *others = lines
    sizes = {layer["digest"]: layer["size"] for layer in map(functools.partial(layer_of, unchunked), layers)}
    assert first == {"blobs": 3, "bytes": sum(sizes.values())}
    blobs = [line for line in others if "digest" in line]
    assert {line["digest"]: line["size"] for line in blobs} == sizes
    assert [line["outcome"] for line in blobs] == ["rewritten"] * 3
    assert all(set(line) == {"passed"} for line in others if line not in blobs)


# In the middle.


@pytest.mark.parametrize(
    ("moment", "end"),
    [("blobs", Dvcr.kill), ("outcome", Dvcr.kill), ("outcome", Dvcr.stop)],
    ids=["killed in its first blob", "killed behind its first blob", "stopped"],
)
def test_a_server_that_ends_in_the_middle_has_everything_whole(dvcr, unchunked, moment, end):
    server = unchunked
    push_many(server, 4, 6)
    shown = seen(server)
    upgraded(server)
    with rewriting(server) as lines:
        next(line for line in lines if moment in line)
        if end is Dvcr.kill:
            end(server)
    # When it is told to, it finishes the blob at hand.
    end(server)
    server.start()
    assert seen(server) == shown
    assert rewrites(dvcr, server)["failed"] == []
    nothing_to_do(dvcr, server)
    server.restart()
    assert seen(server) == shown


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_client_that_ends_in_the_middle_leaves_the_rest_for_the_next_one(dvcr, unchunked_folder, tmp_path, end):
    server = unchunked_folder
    push_many(server, 3, 4)
    push(server, "held", os.urandom(5 * MIB))
    shown = seen(server)
    gate = Gate(data_file(server, layer_of(server, "held")["size"]), tmp_path)
    process = dvcr.start("rewrite", "--progress", "json", server.host)
    # It tells how far it is.
    assert json.loads(process.stderr.readline())
    eventually(lambda: Client(server.host).send("POST", f"{PATH}?to=chunks").status == 409)
    process.send_signal(end)
    done = finished(["rewrite"], process, code=None)
    assert done.code == (-end if end is signal.SIGKILL else INTERRUPTED), done
    gate.open()
    # The blob at hand comes to its end first.
    eventually(lambda: dvcr.run("rewrite", server.host, code=None).code == DONE, seconds=60)
    nothing_to_do(dvcr, server)
    assert seen(server) == shown
    assert stats(dvcr, server)["dedup_ratio"] >= 1


# What is refused.


def test_a_second_one_at_the_same_time_is_refused(dvcr, unchunked_folder, tmp_path):
    server = unchunked_folder
    digest = push(server, "held", os.urandom(2 * MIB))
    gate = Gate(data_file(server, layer_of(server, "held")["size"]), tmp_path)
    with rewriting(server) as lines:
        assert next(lines)["blobs"] == 1
        for form in ["chunks", "whole"]:
            answer = Client(server.host).send("POST", f"{PATH}?to={form}")
            assert (answer.status, answer.codes()) == (409, ["DENIED"]), answer
            error = dvcr.refuses("rewrite", "--to", form, server.host, code=FAILED)
            assert "being rewritten already" in error, error
        # All else goes on meanwhile.
        other = push(server, "other", os.urandom(2 * MIB))
        assert digest_of(Client(server.host).get(f"/v2/{NAME}/blobs/{other}").body) == other
        gate.open()
        (blob,) = [line for line in lines if "digest" in line]
    assert (blob["digest"], blob["outcome"]) == (digest, "failed")
    # Nobody is in the way any more.
    assert eventually(lambda: dvcr.run("rewrite", "--output", "json", server.host).json())["rewritten"] == 2


def test_of_many_at_the_same_moment_none_does_harm(dvcr, unchunked):
    push_many(unchunked, 3, 4)
    shown = seen(unchunked)
    done = at_once([lambda: dvcr.run("rewrite", "--output", "json", unchunked.host, code=None)] * 4)
    assert {one.code for one in done} <= {DONE, FAILED} and DONE in {one.code for one in done}, done
    assert sum(one.json()["rewritten"] for one in done if one.code == DONE) == 3
    assert all("already" in one.error() for one in done if one.code == FAILED)
    assert seen(unchunked) == shown


@pytest.mark.parametrize("form", ["other", "", "Chunks", "chunks,whole"])
def test_a_form_that_is_none_is_asked_wrongly(dvcr, local, form):
    dvcr.run("rewrite", "--to", form, local.host, code=ASKED_WRONGLY)
    answer = local.send("POST", f"{PATH}?to={form}")
    assert answer.status == 400 and answer.codes()
    (error,) = answer.json()["errors"]
    assert "chunks, whole or dense" in error["message"]


def test_a_request_without_a_form_is_refused(local):
    answer = local.send("POST", PATH)
    assert answer.status == 400 and answer.codes()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_rewrites(local, method):
    answer = local.send(method, f"{PATH}?to=chunks")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert answer.codes()


def test_a_registry_is_named_without_a_repository(dvcr, local):
    dvcr.run("rewrite", f"{local.host}/{NAME}", code=ASKED_WRONGLY)
    dvcr.run("rewrite", code=ASKED_WRONGLY)


def test_a_registry_that_is_not_there_is_named(dvcr):
    # The port is one that nobody can have.
    assert "127.0.0.1:1" in dvcr.refuses("rewrite", "127.0.0.1:1", code=FAILED)


# Damage.


def test_that_nobody_knows_what_is_to_be_done_is_said(dvcr, unchunked_folder):
    server = unchunked_folder
    push_many(server, 1, 2)
    blobs = pathlib.Path(server.storage[1]) / "blobs"
    blobs.rename(blobs.with_name("aside"))
    blobs.write_bytes(b"")
    for form in ["chunks", "dense"]:
        error = dvcr.refuses("rewrite", "--to", form, server.host, code=FAILED)
        assert server.host in error and "the storage failed" in error, error
    blobs.unlink()
    blobs.with_name("aside").rename(blobs)
    assert rewrites(dvcr, server)["rewritten"] == 1


def test_a_damaged_blob_is_named_and_the_others_are_done(dvcr, unchunked_folder):
    server, client = unchunked_folder, Client(unchunked_folder.host)
    layers = push_many(server, 4, 2)
    bad = push(server, "bad", os.urandom(3 * MIB))
    shown = seen(server)
    upgraded(server)
    path = data_file(server, layer_of(server, "bad")["size"])
    flip(path, 2 * MIB)
    damaged = client.get(f"/v2/{NAME}/blobs/{bad}").body
    for rewritten in [len(layers), 0]:
        done = dvcr.run("rewrite", "--output", "json", server.host, code=FAILED)
        assert bad in done.error() and not any(digest in done.error() for digest in layers.values()), done
        result = done.json()
        assert (result["rewritten"], [blob["digest"] for blob in result["failed"]]) == (rewritten, [bad])
    # It is what it was: nobody says that this has the digest.
    assert client.get(f"/v2/{NAME}/blobs/{bad}").body == damaged
    assert path.stat().st_size == layer_of(server, "bad")["size"]
    assert bad in server.log.read_text(errors="replace")
    for digest in layers.values():
        assert digest_of(client.get(f"/v2/{NAME}/blobs/{digest}").body) == digest
    # Nothing stays of what was given up.
    assert stats(dvcr, server)["unreferenced_bytes"] == sum(layer_of(server, tag)["size"] for tag in layers)
    flip(path, 2 * MIB)
    assert rewrites(dvcr, server)["rewritten"] == 1
    assert seen(server) == shown


def test_a_blob_that_was_cut_is_named(dvcr, unchunked_folder):
    bad, good = (push(unchunked_folder, tag, os.urandom(size * MIB)) for tag, size in [("bad", 3), ("good", 2)])
    path = data_file(unchunked_folder, layer_of(unchunked_folder, "bad")["size"])
    path.chmod(0o644)
    os.truncate(path, 2 * MIB)
    done = dvcr.run("rewrite", "--output", "json", unchunked_folder.host, code=FAILED)
    assert bad in done.error() and good not in done.error(), done
    assert done.json()["rewritten"] == 1


def test_a_damaged_chunk_is_not_made_whole(dvcr, unchunked_folder):
    server, client = unchunked_folder, Client(unchunked_folder.host)
    before = data_files(server)
    upgraded(server)
    bad = push(server, "bad", os.urandom(3 * MIB))
    (pack,) = data_files(server).keys() - before.keys()
    good = push(server, "good", os.urandom(2 * MIB))
    flip(pack, MIB)
    for rewritten in [1, 0]:
        done = dvcr.run("rewrite", "--to", "whole", "--output", "json", server.host, code=FAILED)
        assert bad in done.error() and good not in done.error(), done
        assert (done.json()["rewritten"], len(done.json()["failed"])) == (rewritten, 1)
    assert digest_of(client.get(f"/v2/{NAME}/blobs/{good}").body) == good
    flip(pack, MIB)
    assert rewrites(dvcr, server, "--to", "whole")["rewritten"] == 1
    assert digest_of(client.get(f"/v2/{NAME}/blobs/{bad}").body) == bad


# What is left of versions that went.

SETTINGS = {"DVCR_GRACE": "1", "DVCR_UPLOAD_TIMEOUT": "60", "DVCR_ABANDONED_AFTER": "60"}


def the_same():
    """A version that goes, of which the next one has a fifth."""
    return random.Random("what went, for test_rewrite").randbytes(20 * MIB)


def version_that_went(server):
    """Pushes both, and deletes the first. Gives what clients see of the other."""
    gone = push(server, "gone", the_same())
    push(server, "stays", the_same()[: 4 * MIB] + os.urandom(8 * MIB))
    client = Client(server.host)
    assert client.delete(f"/v2/{NAME}/manifests/{Image(server.host, NAME, 'gone').digest}").status == 202
    assert client.delete(f"/v2/{NAME}/blobs/{gone}").status == 202
    return seen(server)


def collects(dvcr, server):
    dvcr.run("collect", server.host)
    return stats(dvcr, server)


def test_packs_of_which_little_is_needed_go_when_that_was_stored_anew(dvcr, start, backend):
    server = start(backend, DVCR_COLLECT_INTERVAL="0", DVCR_COMPACT_INTERVAL="0", **SETTINGS)
    shown = version_that_went(server)

    def dense():
        collects(dvcr, server)
        result = rewrites(dvcr, server, "--to", "dense")
        assert result["failed"] == []
        return result["rewritten"]

    # The one that went counts until it is collected.
    assert eventually(dense, seconds=60) == 1
    assert seen(server) == shown

    def freed():
        now = collects(dvcr, server)
        return now["unreferenced_bytes"] < MIB and now

    after = eventually(freed, seconds=60)
    assert after["stored_bytes"] < 13 * MIB
    assert seen(server) == shown
    nothing_to_do(dvcr, server, "--to", "dense")
    server.restart()
    assert seen(server) == shown
    # What is pushed next finds what was copied.
    push(server, "again", the_same()[: 4 * MIB])
    assert stats(dvcr, server)["stored_bytes"] < after["stored_bytes"] + MIB


def test_a_server_does_so_by_itself(dvcr, start, backend):
    server = start(backend, DVCR_COLLECT_INTERVAL="1", DVCR_COMPACT_INTERVAL="1", **SETTINGS)
    shown = version_that_went(server)
    eventually(lambda: stats(dvcr, server)["unreferenced_bytes"] < MIB, seconds=120)
    assert seen(server) == shown
    series = Client(server.host).get("/metrics").body.decode()
    (rewritten,) = [line for line in series.splitlines() if line.startswith("dvcr_compaction_rewritten_bytes_total ")]
    assert float(rewritten.split()[1]) > 12 * MIB
    # Also of what was done before it started.
    server.restart()
    last = "dvcr_compaction_last_success_timestamp_seconds"
    assert eventually(lambda: scraped(server.host)[last], seconds=60) > time.time() - 300
