"""Rules of retention: tags and images that no rule keeps go, by and by, and everything else stays."""

import functools
import json
import os
import subprocess
import threading

import pytest

from conftest import s3_storage
from disk import MIB
from dvcr import BINARY
from test_collect import PATH, WHILE, collect, data, dry_run, everything, layer_bytes, quick, stored
from test_metrics import audited
from test_skopeo import PLAIN_FROM, PLAIN_TO, blob_bytes, layout, skopeo  # noqa: F401
from wire import IMAGE, INDEX, Client, at_once, descriptor, digest_of, encode, eventually, index

NAME, OTHER = "images/debian", "else/debian"

RULES = """
[[retention]]
repositories = ["images/**"]
keep = ["latest"]
keep_last = 2
untagged_after = 1

[[retention]]
repositories = ["**/vi", "vendor/*"]
keep_within = "52w"
untagged_after = "1s"

[[retention]]
repositories = ["**"]
tags = ["nightly-*"]
keep_last = 1
untagged_after = 1
"""


@pytest.fixture
def governed(start, tmp_path):
    """Starts registries with rules that wait no longer than they must, and collect when they are told to."""

    def governed(backend, rules=RULES, **more):
        file = tmp_path / "dvcr.toml"
        file.write_text(rules)
        return start(backend, **quick(DVCR_CONFIG=str(file), **more))

    return governed


@pytest.fixture
def server(governed, backend):
    return governed(backend)


def tags(server, name=NAME):
    answer = Client(server.host).get(f"/v2/{name}/tags/list")
    return answer.json()["tags"] if answer.status == 200 else []


def manifests(server, name=NAME):
    """The manifests that are stored. To ask for one would spare it."""
    found, folder = stored(server, "repositories"), f"repositories/{name}/_manifests/sha256/"
    return {
        f"sha256:{key.removeprefix(folder)}"
        for key, (size, *_) in found.items()
        if key.startswith(folder) and size > 16
    }


def collect_until(server, check):
    """Collects until something is so, and gives all that went by rules."""
    expired = []

    def again():
        expired.extend(collect(server)["expired"])
        return check()

    eventually(again, seconds=WHILE)
    return expired


def index_of(client, name, tag, size=90_000):
    """An index with an image, to which somebody has signed. Gives their digests."""
    layer = client.image(name, os.urandom(size))
    child = digest_of(encode(layer))
    assert client.put_manifest(name, child, encode(layer)).status == 201
    many = encode(index([(child, len(encode(layer)))]))
    assert client.put_manifest(name, tag, many, INDEX).status == 201
    signature = encode(client.image(name, os.urandom(1000), subject=descriptor(IMAGE, child, len(encode(layer)))))
    assert client.put_manifest(name, digest_of(signature), signature).status == 201
    return {child, digest_of(many), digest_of(signature)}


def test_weekly_images_come_and_go(server, layout, tmp_path):  # noqa: F811
    source, digest = layout
    client = Client(server.host)
    weeks = {}
    for week in range(4):
        weeks[week] = index_of(client, NAME, f"week-{week}")
    # Beside the last two: kept by name, and older than all others when it was pushed.
    reference = f"docker://{server.host}/{NAME}:latest"
    skopeo("copy", "--preserve-digests", PLAIN_TO, f"oci:{source}:v1", reference)
    client.push_image(OTHER, "stays")
    for tag in ["nightly-1", "nightly-2"]:
        client.push_image(OTHER, tag, os.urandom(2 * MIB))
    expired = collect_until(server, lambda: not (manifests(server) & (weeks[0] | weeks[1])))
    assert tags(server) == ["latest", "week-2", "week-3"]
    assert tags(server, OTHER) == ["nightly-2", "stays"]
    assert manifests(server) > weeks[2] | weeks[3]
    eventually(lambda: collect(server) and len(manifests(server, OTHER)) == 2, seconds=WHILE)
    told = {(entry["repository"], entry.get("tag"), entry["rule"]) for entry in expired if "tag" in entry}
    assert told == {(NAME, "week-0", 1), (NAME, "week-1", 1), (OTHER, "nightly-1", 3)}
    assert {entry["digest"] for entry in expired if "tag" not in entry} >= weeks[0] | weeks[1]
    # Then their blobs, and the data.
    collect_until(server, lambda: all(dry_run(server)[kind]["deleted"]["count"] == 0 for kind in ["members", "blobs", "data"]))
    server.restart()
    for week in [2, 3]:
        for part in weeks[week]:
            assert client.get(f"/v2/{NAME}/manifests/{part}").status == 200
    skopeo("copy", "--preserve-digests", PLAIN_FROM, reference, f"oci:{tmp_path / 'back'}:v1")
    assert blob_bytes(tmp_path / "back", digest) == blob_bytes(source, digest)


def test_what_went_can_be_pushed_again(server):
    client, layers = Client(server.host), [os.urandom(2 * MIB) for _ in range(3)]
    digests = [client.push_image(NAME, f"v{number}", layer) for number, layer in enumerate(layers)]
    collect_until(server, lambda: manifests(server) == set(digests[1:]))
    assert client.get(f"/v2/{NAME}/manifests/{digests[0]}").status == 404
    assert client.push_image(NAME, "v0", layers[0]) == digests[0]
    collect_until(server, lambda: manifests(server) == {digests[0], digests[2]})
    assert tags(server) == ["v0", "v2"]
    assert layer_bytes(server, "v0", NAME) == layers[0]


def test_a_dry_run_tells_each_tag_and_image_that_would_go(dvcr, server):
    client = Client(server.host)
    digests = [client.push_image(NAME, f"v{number}", os.urandom(MIB + number)) for number in range(4)]
    # What is too young is left alone.
    eventually(lambda: dry_run(server)["manifests"]["deleted"]["count"] == 2, seconds=WHILE)
    eventually(lambda: dry_run(server)["data"]["deleted"]["bytes"] > 0, seconds=WHILE)
    before, promised = everything(server), dry_run(server)
    found = {(entry.get("tag"), entry["digest"]) for entry in promised["expired"]}
    assert found == {("v0", digests[0]), ("v1", digests[1]), (None, digests[0]), (None, digests[1])}
    for entry in promised["expired"]:
        assert entry["repository"] == NAME and entry["rule"] == 1
        if "tag" in entry:
            assert entry["reason"] == "not kept by name, not among the 2 pushed last"
        else:
            assert entry["bytes"] > MIB
    assert promised["tags"]["deleted"]["count"] == promised["manifests"]["deleted"]["count"] == 2
    # And what only they have.
    assert promised["members"]["deleted"]["count"] == 2
    assert dvcr.run("collect", "--dry-run", "--output", "json", server.host).json() == promised
    text = dvcr.run("collect", "--dry-run", server.host).out.decode()
    assert f"{NAME}:v0 " in text and f"{NAME}@{digests[1]} " in text and "not among the 2 pushed last" in text
    assert everything(server) == before
    gone = collect_until(server, lambda: len(manifests(server)) == 2)
    assert sorted(map(json.dumps, gone)) == sorted(map(json.dumps, promised["expired"]))


def test_images_of_resources_are_left_alone_by_the_widest_rule(governed):
    # keep_last = 1 for all tags of all repositories.
    server = governed("filesystem", '[[retention]]\nrepositories = ["**"]\nkeep_last = 1\nuntagged_after = 1\n')
    client, theirs = Client(server.host), ["vi/team/disk", "cvi/disk"]
    for name in [*theirs, NAME]:
        for tag in ["one", "two"]:
            client.push_image(name, tag)
    kept = {name: manifests(server, name) for name in theirs}
    collect_until(server, lambda: len(manifests(server)) == 1)
    assert tags(server) == ["two"]
    for name in theirs:
        assert tags(server, name) == ["one", "two"] and manifests(server, name) == kept[name]


def test_it_happens_by_itself_and_is_counted_and_audited(governed, tmp_path):
    path = tmp_path / "audit.log"
    server = governed("filesystem", DVCR_COLLECT_INTERVAL="1", DVCR_AUDIT_LOG=str(path))
    client = Client(server.host)
    digests = [client.push_image(NAME, f"v{number}") for number in range(3)]
    eventually(lambda: manifests(server) == set(digests[1:]), seconds=WHILE)

    def events():
        return [event for event in audited(path) if event["action"] == "expire"]

    first, second = eventually(lambda: len(found := events()) == 2 and found, seconds=WHILE)
    assert (first["repository"], first["reference"], first["digest"]) == (NAME, "v0", digests[0])
    assert (second["reference"], second["outcome"], second["rule"]) == (digests[0], "done", 1)
    assert not {"user", "client"} & set(first)

    def counted(what):
        line = f'dvcr_collection_objects_total{{what="{what}",step="deleted"}} 1'
        return line in client.get("/metrics").body.decode()

    eventually(lambda: counted("tags") and counted("manifests"), seconds=WHILE)


REFUSED = [
    ('repositories = ["images/**"]', ["retention, number 1", "keep_last, keep_within or keep"]),
    ("keep_last = 1", ["it has no repositories"]),
    ('repositories = ["vi/**"]\nkeep_last = 1', ["vi/**", "VirtualImage resources"]),
    ('repositories = ["a"]\nkeep_last = 0', ["at least 1"]),
    ('repositories = ["a"]\nkeep_last = 1\nuntagged_after = "1h"', ["untagged_after", "the grace, 21600 seconds", "3600"]),
    ('repositories = ["a"]\nkeep_within = "soon"', ["keep_within", "30d"]),
    ('repositories = ["a"]\nkeep = ["a b"]', ["keep", "no pattern of tags"]),
    ('repositories = ["A"]\nkeep_last = 1', ["repositories", "no pattern of repositories"]),
    ('repositories = ["a"]\nkeep_lsat = 1', ["keep_lsat", "keep_last"]),
]


@pytest.mark.parametrize(("rule", "told"), REFUSED)
def test_a_rule_that_cannot_be_meant_is_refused_at_the_start(tmp_path, rule, told):
    file = tmp_path / "dvcr.toml"
    file.write_text(f"[[retention]]\n{rule}\n")
    command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and all(text in done.stderr for text in told), done


def test_what_is_pushed_while_two_replicas_collect_stays(governed):
    rules = '[[retention]]\nrepositories = ["**"]\nkeep = ["keep-*"]\nuntagged_after = 2\n'
    storage = s3_storage()
    # So long that a client brings an image in it, however slow the machine is.
    servers = [governed("s3", rules, arguments=storage, DVCR_GRACE="2") for _ in range(2)]
    layers = [os.urandom(50_000) for _ in range(3)]
    done = threading.Event()

    def collecting(server):
        went = 0
        while not done.is_set():
            answer = Client(server.host).send("POST", PATH)
            assert answer.status == 200, answer
            went += answer.json()["manifests"]["deleted"]["count"]
        return went

    def pushing(number):
        """The same few images come and go under the tags of several clients."""
        client = Client(servers[number % 2].host)
        try:
            for round_number in range(10):
                layer = layers[(number + round_number) % 3]
                digest = client.push_image(NAME, f"drop-{number}", layer)
                eventually(lambda: f"drop-{number}" not in tags(servers[0]), seconds=WHILE)
                assert client.push_image(NAME, f"keep-{number}", layer) == digest
                for server in servers:
                    answer = Client(server.host).get(f"/v2/{NAME}/manifests/keep-{number}")
                    assert answer.status == 200 and digest_of(answer.body) == digest, answer
                if round_number < 9:
                    assert client.delete(f"/v2/{NAME}/manifests/keep-{number}").status == 202
            return 0
        finally:
            pushed.release()

    pushed = threading.Semaphore(0)

    def waiting():
        for _ in range(4):
            pushed.acquire()
        done.set()
        return 0

    calls = [*(functools.partial(collecting, server) for server in servers)]
    at_once([*calls, *(functools.partial(pushing, number) for number in range(4)), waiting])
    expected = {digest_of(layers[number % 3]) for number in range(4)}
    eventually(lambda: collect(servers[0]) and len(manifests(servers[1])) == len(expected), seconds=WHILE)
    assert tags(servers[1]) == [f"keep-{number}" for number in range(4)]
    for number in range(4):
        assert layer_bytes(servers[1], f"keep-{number}", NAME) == layers[number % 3]
    assert data(servers[0])
