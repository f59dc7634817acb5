"""Manifests: kept as they came, checked for what they need, found by those that refer to them."""

import json
import os
from urllib.parse import quote

import pytest

from wire import CONFIG, IMAGE, INDEX, LAYER, descriptor, digest_of, encode, image, index

NAME = "disks/ubuntu"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
LIMIT = 4 << 20
NOWHERE = digest_of(b"nothing has this digest")
PLAIN = encode(index([]))


def put(client, manifest, reference="v1", media_type=None, query="", name=NAME):
    """Pushes a manifest that must be taken, and gives the answer."""
    answer = client.put_manifest(name, reference, manifest, media_type, query)
    assert answer.status == 201, answer
    return answer


def get(client, reference, name=NAME):
    return client.get(f"/v2/{name}/manifests/{reference}")


def refused(answer, status, code):
    assert answer.status == status, answer
    assert set(answer.codes()) == {code}
    return answer.json()["errors"]


def referrer(client, subject, name=NAME, **fields):
    """Pushes an index that refers to `subject`, and gives its digest."""
    fields.setdefault("annotations", {"salt": os.urandom(4).hex()})
    manifest = encode(index([], subject=descriptor(IMAGE, subject, 100), **fields))
    answer = put(client, manifest, digest_of(manifest), name=name)
    assert answer.headers["OCI-Subject"] == subject
    return digest_of(manifest)


def referrers(client, subject, query="", name=NAME):
    answer = client.get(f"/v2/{name}/referrers/{subject}{query}")
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == INDEX
    found = answer.json()
    assert (found["schemaVersion"], found["mediaType"]) == (2, INDEX)
    return found["manifests"]


def digests(descriptors):
    return [found["digest"] for found in descriptors]


def test_a_manifest_comes_back_byte_for_byte_with_its_type(client):
    manifest = client.image(NAME, future={"deep": [1, {"é": None}]}, annotations={"b": "2", "a": "1"})
    data = b" \n\t" + json.dumps(manifest, indent=3).replace("\n", "\r\n").encode() + b"\r\n\n "
    answer = put(client, data, "v1", f"{IMAGE}; charset=utf-8")
    digest = digest_of(data)
    assert answer.headers["Docker-Content-Digest"] == digest
    for reference in ["v1", digest, quote(digest, safe="")]:
        answer = get(client, reference)
        assert answer.status == 200, answer
        assert answer.body == data
        assert answer.headers["Content-Type"] == IMAGE
        assert answer.headers["Content-Length"] == str(len(data))
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["ETag"] == f'"{digest}"'
    assert client.get(put(client, data).headers["Location"]).body == data


@pytest.mark.parametrize("kind", [DOCKER_IMAGE, DOCKER_LIST])
def test_docker_manifests_are_kept_as_docker_manifests(local, kind):
    manifest = local.image(NAME) if kind == DOCKER_IMAGE else index([(NOWHERE, 100)])
    data = json.dumps({**manifest, "mediaType": kind}, indent=3).encode()
    put(local, data)
    answer = get(local, "v1")
    assert answer.body == data
    assert answer.headers["Content-Type"] == kind


@pytest.mark.parametrize("by_tag", [True, False])
def test_head_says_what_get_says(local, by_tag):
    digest = local.push_image(NAME, "v1")
    path = f"/v2/{NAME}/manifests/{'v1' if by_tag else digest}"
    head, get = local.head(path), local.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.lasting() == get.lasting()


def test_a_client_that_has_the_manifest_is_not_sent_it_again(local):
    digest = local.push_image(NAME, "v1")
    for condition in [f'"{digest}"', f'W/"{digest}"', f'"other", "{digest}"', "*"]:
        answer = local.get(f"/v2/{NAME}/manifests/v1", If_None_Match=condition)
        assert (answer.status, answer.body) == (304, b""), condition
        assert answer.headers["ETag"] == f'"{digest}"'
    assert local.get(f"/v2/{NAME}/manifests/v1", If_None_Match=f'"{NOWHERE}"').status == 200
    moved = local.push_image(NAME, "v1")
    answer = local.get(f"/v2/{NAME}/manifests/v1", If_None_Match=f'"{digest}"')
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, moved)


@pytest.mark.parametrize("accept", [DOCKER_IMAGE, "text/html", "*/*", "nonsense", f"{INDEX};q=0"])
def test_a_manifest_is_served_as_it_is_whatever_accept_says(local, accept):
    put(local, PLAIN)
    answer = local.get(f"/v2/{NAME}/manifests/v1", Accept=accept, Accept_Encoding="gzip, zstd")
    assert (answer.body, answer.headers["Content-Type"]) == (PLAIN, INDEX)
    assert answer.headers["Content-Encoding"] is None


def test_a_manifest_without_a_type_of_its_own_takes_that_of_the_push(local):
    data = encode({"schemaVersion": 2, "manifests": []})
    put(local, data, "v1", INDEX)
    assert get(local, "v1").headers["Content-Type"] == INDEX


def test_a_manifest_is_known_by_the_digest_it_was_pushed_with(local):
    digest = digest_of(PLAIN)
    answer = put(local, PLAIN, digest)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["OCI-Tag"] is None
    assert get(local, digest).body == PLAIN


def test_a_push_by_another_digest_stores_nothing(local):
    put(local, PLAIN, "other")
    data = encode(index([], annotations={"new": "yes"}))
    errors = refused(local.put_manifest(NAME, NOWHERE, data, query="?tag=v1"), 400, "DIGEST_INVALID")
    assert errors[0]["detail"]["digest"] == NOWHERE
    for reference in [NOWHERE, digest_of(data), "v1"]:
        refused(get(local, reference), 404, "MANIFEST_UNKNOWN")
    assert local.get(f"/v2/{NAME}/tags/list").json()["tags"] == ["other"]


def test_every_missing_blob_is_named_once(local):
    here = local.push_blob(NAME, b"here")
    missing = [(digest_of(data), len(data)) for data in [b"config", b"one", b"three"]]
    manifest = image([missing[1], (here, 4), missing[2], missing[2]], missing[0])
    errors = refused(local.put_manifest(NAME, "v1", manifest), 404, "MANIFEST_BLOB_UNKNOWN")
    assert [error["detail"]["digest"] for error in errors] == [digest for digest, _ in missing]
    refused(get(local, "v1"), 404, "MANIFEST_UNKNOWN")


def test_a_blob_of_another_repository_does_not_count_until_it_is_mounted(local):
    manifest = local.image("elsewhere")
    refused(local.put_manifest(NAME, "v1", manifest), 404, "MANIFEST_BLOB_UNKNOWN")
    for part in [manifest["config"], *manifest["layers"]]:
        mounted = local.send("POST", f"/v2/{NAME}/blobs/uploads/?mount={part['digest']}&from=elsewhere")
        assert mounted.status == 201, mounted
    put(local, manifest)


def test_a_manifest_that_is_wrong_about_the_size_of_a_blob_is_refused(local):
    manifest = local.image(NAME)
    manifest["layers"][0]["size"] += 1
    refused(local.put_manifest(NAME, "v1", manifest), 400, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    "layer",
    [
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"},
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
        {"urls": ["https://example.com/layer"]},
    ],
)
def test_a_layer_that_is_fetched_from_elsewhere_may_be_missing(local, layer):
    manifest = local.image(NAME)
    manifest["layers"].append({**descriptor(LAYER, NOWHERE, 5), **layer})
    put(local, manifest)


def test_the_manifests_of_an_index_and_the_subject_may_be_missing(local):
    put(local, index([(NOWHERE, 5)], subject=descriptor(IMAGE, NOWHERE, 5)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        PLAIN + b"}",
        PLAIN + PLAIN,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        PLAIN.replace(b"schemaVersion", b"version"),
        PLAIN.replace(b": 2", b": 1"),
        PLAIN.replace(b": 2", b': "2"'),
        PLAIN.replace(b"manifests", b"things"),
        PLAIN.replace(b"[]", b"{}"),
        PLAIN.replace(b"[]", b"[1]"),
        PLAIN.replace(b"[]", b'[], "layers": []'),
        PLAIN.replace(b"[]", b'[], "subject": 1'),
        PLAIN.replace(b"[]", b'[], "annotations": {"a": 1}'),
        encode(index([("sha256:short", 5)])),
        encode(index([(NOWHERE, -1)])),
        encode(index([(f"md5:{'0' * 32}", 5)])),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_no_manifest_is_refused(local, data):
    refused(local.put_manifest(NAME, "v1", data, INDEX), 400, "MANIFEST_INVALID")
    refused(get(local, "v1"), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    ("pushed", "own"),
    [
        (IMAGE, INDEX),
        (DOCKER_LIST, INDEX),
        ("application/json", None),
        ("text/html", "text/html"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", None),
        ("nonsense", INDEX),
    ],
)
def test_a_type_that_is_unknown_or_contradicts_the_manifest_is_refused(local, pushed, own):
    manifest = index([], mediaType=own) if own else {"schemaVersion": 2, "manifests": []}
    refused(local.put_manifest(NAME, "v1", manifest, pushed), 400, "MANIFEST_INVALID")


def padded(size):
    """A manifest of exactly so many bytes."""
    return PLAIN + b" " * (size - len(PLAIN))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_manifest_may_be_as_large_as_the_limit(local, chunked):
    data = padded(LIMIT)
    body = iter([data]) if chunked else data
    path = f"/v2/{NAME}/manifests/v1"
    answer = local.send("PUT", path, body, {"Content-Type": INDEX}, chunked=chunked)
    assert answer.status == 201, answer
    assert digest_of(get(local, "v1").body) == digest_of(data)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT])
def test_a_manifest_over_the_limit_is_too_large(local, size, chunked):
    """The answer must reach a client that is still sending."""
    data = padded(size)
    body = iter([data[:size // 2], data[size // 2 :]]) if chunked else data
    path = f"/v2/{NAME}/manifests/v1"
    answer = local.send("PUT", path, body, {"Content-Type": INDEX}, chunked=chunked)
    refused(answer, 413, "MANIFEST_INVALID")
    assert get(local, "v1").status == 404


def accepted_tags(answer):
    """RFC 9110, 5.3: one list, in however many headers it comes."""
    return [tag.strip() for value in answer.headers.get_all("OCI-Tag") for tag in value.split(",")]


def test_a_push_by_digest_may_name_tags(client):
    for algorithm in ["sha256", "sha512"]:
        digest = digest_of(PLAIN, algorithm)
        answer = put(client, PLAIN, digest, query="?tag=1.2.3&tag=1.2&tag=1&tag=latest")
        assert sorted(accepted_tags(answer)) == ["1", "1.2", "1.2.3", "latest"]
        for tag in accepted_tags(answer):
            assert client.head(f"/v2/{NAME}/manifests/{tag}").headers["Docker-Content-Digest"] == digest


def test_a_push_of_a_hundred_tags_is_answered_in_few_headers(local):
    """Many clients read no more than a hundred headers."""
    tags = [f"v{number}" for number in range(100)]
    answer = put(local, PLAIN, digest_of(PLAIN), query="?" + "&".join(f"tag={tag}" for tag in tags))
    assert sorted(accepted_tags(answer)) == sorted(tags)


@pytest.mark.parametrize(
    ("reference", "query", "status", "code"),
    [
        (digest_of(PLAIN), "?" + "&".join(f"tag=v{number}" for number in range(101)), 414, "UNSUPPORTED"),
        (digest_of(PLAIN), "?tag=good&tag=b%2Fad", 400, "MANIFEST_INVALID"),
        (digest_of(PLAIN), "?tag=", 400, "MANIFEST_INVALID"),
        ("v1", "?tag=v2", 400, "UNSUPPORTED"),
    ],
)
def test_a_push_with_tags_that_cannot_be_is_refused_as_a_whole(local, reference, query, status, code):
    put(local, PLAIN, "other")
    refused(local.put_manifest(NAME, reference, encode(index([])), query=query), status, code)
    assert local.get(f"/v2/{NAME}/tags/list").json()["tags"] == ["other"]


def test_a_manifest_lives_by_its_sha512_digest(client):
    digest = digest_of(PLAIN, "sha512")
    answer = put(client, PLAIN, digest, query="?tag=v1")
    assert answer.headers["Docker-Content-Digest"] == digest
    assert digest in answer.headers["Location"]
    for reference in [digest, "v1"]:
        answer = get(client, reference)
        assert (answer.body, answer.headers["Docker-Content-Digest"]) == (PLAIN, digest)
    refused(get(client, digest_of(PLAIN)), 404, "MANIFEST_UNKNOWN")
    assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 202
    for reference in [digest, "v1"]:
        refused(get(client, reference), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("query", ["", "?artifactType=application/x", "?n=5"])
def test_nothing_refers_to_what_is_not_there(local, query):
    assert referrers(local, NOWHERE, query) == []
    assert referrers(local, NOWHERE, query, name="unknown/repository") == []


@pytest.mark.parametrize(
    "subject", ["v1", "sha256:", "sha256:short", f"md5:{'0' * 32}", NOWHERE.upper(), NOWHERE + "0"]
)
def test_referrers_of_what_is_no_digest_are_refused(local, subject):
    refused(local.get(f"/v2/{NAME}/referrers/{subject}"), 400, "DIGEST_INVALID")


@pytest.mark.parametrize("query", ["n=x", "n=-1", "last=v1"])
def test_a_page_of_referrers_that_makes_no_sense_is_refused(local, query):
    assert local.get(f"/v2/{NAME}/referrers/{NOWHERE}?{query}").status == 400


def test_a_referrer_is_described_in_full(local):
    subject = local.push_image(NAME, "v1")
    annotations = {"org.example.b": "2", "org.example.a": "é"}
    fields = {"artifactType": "application/x.sbom", "annotations": annotations}
    data = encode(local.image(NAME, subject=descriptor(IMAGE, subject, 1), **fields))
    answer = put(local, data, "sbom")
    assert answer.headers["OCI-Subject"] == subject
    assert referrers(local, subject) == [{**descriptor(IMAGE, digest_of(data), len(data)), **fields}]
    assert referrers(local, subject, name="elsewhere") == []


def test_a_push_without_a_subject_is_answered_without_one(local):
    assert put(local, PLAIN).headers["OCI-Subject"] is None


@pytest.mark.parametrize("own", [{}, {"artifactType": ""}])
def test_the_artifact_type_of_an_image_is_that_of_its_config_unless_it_says(local, own):
    put(local, local.image(NAME, subject=descriptor(IMAGE, NOWHERE, 1), **own))
    assert [found["artifactType"] for found in referrers(local, NOWHERE)] == [CONFIG]


@pytest.mark.parametrize("own", [{}, {"artifactType": ""}])
def test_an_index_that_does_not_say_has_no_artifact_type(local, own):
    referrer(local, NOWHERE, **own)
    assert ["artifactType" in found for found in referrers(local, NOWHERE)] == [False]


def test_referrers_are_filtered_by_artifact_type(local):
    sboms = [referrer(local, NOWHERE, artifactType="application/x.sbom+json") for _ in range(3)]
    referrer(local, NOWHERE, artifactType="application/x.signature")
    referrer(local, NOWHERE)
    path = f"/v2/{NAME}/referrers/{NOWHERE}"
    everything = local.get(path)
    assert len(everything.json()["manifests"]) == 5
    assert everything.headers["OCI-Filters-Applied"] is None
    filtered = local.get(f"{path}?artifactType={quote('application/x.sbom+json', safe='')}")
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert sorted(digests(filtered.json()["manifests"])) == sorted(sboms)
    nothing = local.get(f"{path}?artifactType=application/x.other")
    assert nothing.headers["OCI-Filters-Applied"] == "artifactType"
    assert nothing.json()["manifests"] == []


def test_following_links_lists_every_referrer_once(client):
    sboms = [referrer(client, NOWHERE, artifactType="application/x.sbom+json") for _ in range(5)]
    others = [referrer(client, NOWHERE, artifactType="application/x.other") for _ in range(4)]
    path = f"/v2/{NAME}/referrers/{NOWHERE}?n=2"
    for query, expected, filters in [
        ("", sboms + others, None),
        ("&artifactType=application%2Fx.sbom%2Bjson", sboms, "artifactType"),
    ]:
        pages = list(client.pages(path + query))
        assert sorted(digests(sum((page.json()["manifests"] for page in pages), []))) == sorted(expected)
        assert len(pages) == (len(expected) + 1) // 2
        for page in pages:
            assert len(page.json()["manifests"]) <= 2
            assert page.headers["Content-Type"] == INDEX
            assert page.headers["OCI-Filters-Applied"] == filters


def test_a_deleted_referrer_vanishes_and_the_others_stay(client):
    first, second = referrer(client, NOWHERE), referrer(client, NOWHERE)
    assert client.delete(f"/v2/{NAME}/manifests/{first}").status == 202
    assert digests(referrers(client, NOWHERE)) == [second]


def test_untagging_a_referrer_does_not_delete_it(local):
    digest = referrer(local, NOWHERE)
    put(local, get(local, digest).body, "sbom")
    assert local.delete(f"/v2/{NAME}/manifests/sbom").status == 202
    assert digests(referrers(local, NOWHERE)) == [digest]


def test_the_referrers_of_a_deleted_subject_stay(local):
    subject = local.push_image(NAME, "v1")
    digest = referrer(local, subject)
    assert local.delete(f"/v2/{NAME}/manifests/{subject}").status == 202
    assert digests(referrers(local, subject)) == [digest]
    assert get(local, digest).status == 200


def test_a_referrer_may_come_before_its_subject(local):
    data = encode(local.image(NAME))
    digest = referrer(local, digest_of(data))
    put(local, data)
    assert digests(referrers(local, digest_of(data))) == [digest]


def test_a_sha512_subject_and_a_sha512_referrer_find_each_other(local):
    subject = digest_of(PLAIN, "sha512")
    put(local, PLAIN, subject)
    data = encode(index([], subject=descriptor(INDEX, subject, len(PLAIN))))
    put(local, data, digest_of(data, "sha512"))
    assert digests(referrers(local, subject)) == [digest_of(data, "sha512")]


def test_the_list_in_a_fallback_tag_and_the_api_are_one(client):
    """Clients without the referrers API keep the list of referrers in a tag, and it may be pushed here."""
    subject = client.push_image(NAME, "v1")
    inside, outside = referrer(client, subject), referrer(client, subject)
    put(client, PLAIN, digest_of(PLAIN))
    other = referrer(client, NOWHERE)
    fallback = encode(index([(child, 1) for child in [inside, digest_of(PLAIN), other, NOWHERE, inside]]))
    tag = subject.replace(":", "-")
    put(client, fallback, tag)
    assert sorted(digests(referrers(client, subject))) == sorted([inside, outside])
    assert digests(referrers(client, NOWHERE)) == [other]
    assert get(client, tag).body == fallback


def test_a_fallback_tag_is_moved_and_deleted_like_any_other(local):
    subject = local.push_image(NAME, "v1")
    digest = referrer(local, subject)
    for tag in [subject.replace(":", "-"), f"sha512-{'a' * 64}"]:
        put(local, index([(digest, 1)]), tag)
        put(local, PLAIN, tag)
        assert get(local, tag).body == PLAIN
        assert tag in local.get(f"/v2/{NAME}/tags/list").json()["tags"]
        assert local.delete(f"/v2/{NAME}/manifests/{tag}").status == 202
        refused(get(local, tag), 404, "MANIFEST_UNKNOWN")
    assert digests(referrers(local, subject)) == [digest]
