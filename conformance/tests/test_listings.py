"""Lists of tags and of repositories: complete, in byte order, page by page."""

import pytest

from wire import INDEX, digest_of, encode, index

NAME = "disks/ubuntu"
TAGS = sorted("latest Latest LATEST 1 10 2 _a a a-b a.b a0 a_b aB v1 z".split())


def manifest(salt=""):
    return encode(index([], annotations={"salt": salt}))


def push(client, *tags, name=NAME, salt=""):
    """Pushes a manifest that needs nothing, under any number of tags, and gives its digest."""
    data = manifest(salt)
    digest = digest_of(data)
    for first in range(0, max(len(tags), 1), 50):
        query = "&".join(f"tag={tag}" for tag in tags[first : first + 50])
        answer = client.put_manifest(name, digest, data, INDEX, query and f"?{query}")
        assert answer.status == 201, answer
    return digest


def tags(client, query="", name=NAME):
    answer = client.get(f"/v2/{name}/tags/list{query}")
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["name"] == name
    return answer.json()["tags"]


def repositories(client, query=""):
    answer = client.get(f"/v2/_catalog{query}")
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()["repositories"]


def test_a_tag_list_is_in_byte_order(client):
    push(client, *reversed(TAGS))
    assert tags(client) == TAGS


def test_following_links_lists_every_tag_once(client):
    push(client, *TAGS)
    for n in [1, 4, len(TAGS) - 1]:
        pages = [page.json()["tags"] for page in client.pages(f"/v2/{NAME}/tags/list?n={n}")]
        assert [len(page) for page in pages[:-1]] == [n] * (len(pages) - 1)
        assert sum(pages, []) == TAGS


@pytest.mark.parametrize("n", [len(TAGS), len(TAGS) + 1, 1_000_000_000])
def test_a_page_that_holds_all_tags_has_no_link(local, n):
    push(local, *TAGS)
    answer = local.get(f"/v2/{NAME}/tags/list?n={n}")
    assert answer.json()["tags"] == TAGS
    assert answer.headers["Link"] is None


@pytest.mark.parametrize("path", [f"/v2/{NAME}/tags/list", "/v2/_catalog"])
def test_a_page_of_no_entries_is_empty_and_the_last(local, path):
    push(local, "v1")
    answer = local.get(f"{path}?n=0")
    assert answer.status == 200, answer
    assert [] in answer.json().values()
    assert answer.headers["Link"] is None


def test_a_tag_list_goes_on_behind_last_whether_or_not_there_is_such_a_tag(client):
    push(client, *TAGS)
    for query, expected in [
        ("?last=a.b", TAGS[TAGS.index("a.b") + 1 :]),
        ("?last=a.b&n=2", TAGS[TAGS.index("a.b") + 1 :][:2]),
        ("?n=2&last=a.a", ["a.b", "a0"]),
        ("?last=z", []),
        ("?last=zz", []),
        ("?last=0", TAGS),
        ("?last=", TAGS),
    ]:
        assert tags(client, query) == expected, query


@pytest.mark.parametrize("path", [f"/v2/{NAME}/tags/list", "/v2/_catalog"])
@pytest.mark.parametrize(
    "query",
    ["n=x", "n=-1", "n=1.5", "n=", "n=99999999999999999999999", "last=%2e%2e", "last=a%2f%2fb", "last=%00"],
)
def test_a_parameter_that_makes_no_sense_is_refused(local, path, query):
    push(local, "v1")
    answer = local.get(f"{path}?{query}")
    assert answer.status == 400, answer
    assert answer.codes() == ["UNSUPPORTED"]


def test_a_repository_without_tags_has_an_empty_list(client):
    digest = push(client)
    assert tags(client) == []
    push(client, "a", "b")
    assert client.delete(f"/v2/{NAME}/manifests/a").status == 202
    assert tags(client) == ["b"]
    assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 202
    assert tags(client) == []


@pytest.mark.parametrize("query", ["", "?n=0", "?n=1", "?last=a"])
def test_the_tags_of_an_unknown_repository_are_not_found(local, query):
    push(local, "v1", name=f"{NAME}/below")
    answer = local.get(f"/v2/{NAME}/tags/list{query}")
    assert answer.status == 404, answer
    assert answer.codes() == ["NAME_UNKNOWN"]


def test_fifteen_hundred_tags_are_complete(client):
    expected = [f"v{number:04}" for number in range(1500)]
    push(client, *expected)
    assert tags(client) == expected
    pages = [page.json()["tags"] for page in client.pages(f"/v2/{NAME}/tags/list?n=700")]
    assert [len(page) for page in pages] == [700, 700, 100]
    assert sum(pages, []) == expected


def test_a_tag_that_is_moved_stays_one_entry(local):
    push(local, "latest", "v1", salt="old")
    new = push(local, "latest", salt="new")
    assert tags(local) == ["latest", "v1"]
    assert local.head(f"/v2/{NAME}/manifests/latest").headers["Docker-Content-Digest"] == new


def test_deleting_a_manifest_deletes_its_tags_but_none_that_has_moved_on(client):
    old = push(client, "a", "b", "moved", salt="old")
    new = push(client, "moved", "other", salt="new")
    assert client.delete(f"/v2/{NAME}/manifests/{old}").status == 202
    assert tags(client) == ["moved", "other"]
    for reference in ["a", "b", old]:
        answer = client.get(f"/v2/{NAME}/manifests/{reference}")
        assert answer.status == 404, answer
        assert answer.codes() == ["MANIFEST_UNKNOWN"]
    assert client.head(f"/v2/{NAME}/manifests/moved").headers["Docker-Content-Digest"] == new


def test_a_tag_may_come_back_after_its_manifest_was_deleted(client):
    """Deleted tags may leave something behind in the store; pages must not count it."""
    push(client, "a", "b", "c", salt="other")
    for _ in range(2):
        digest = push(client, "b", "d")
        assert tags(client) == ["a", "b", "c", "d"]
        assert client.delete(f"/v2/{NAME}/manifests/{digest}").status == 202
        assert [page.json()["tags"] for page in client.pages(f"/v2/{NAME}/tags/list?n=1")] == [["a"], ["c"]]


def test_deleting_a_tag_leaves_its_manifest_and_the_other_tags(local):
    digest = push(local, "a", "b")
    assert local.delete(f"/v2/{NAME}/manifests/a").status == 202
    assert tags(local) == ["b"]
    assert local.get(f"/v2/{NAME}/manifests/a").status == 404
    for reference in ["b", digest]:
        assert local.get(f"/v2/{NAME}/manifests/{reference}").body == manifest()


@pytest.mark.parametrize("reference", ["v1", digest_of(b"missing")])
def test_what_is_not_there_cannot_be_deleted(local, reference):
    push(local, "other")
    answer = local.delete(f"/v2/{NAME}/manifests/{reference}")
    assert answer.status == 404, answer
    assert answer.codes() == ["MANIFEST_UNKNOWN"]


def test_the_catalog_is_in_byte_order_however_deep_the_names(client):
    names = "0 a a-b a--b a-b/c a.b a/b a/b/c a/b-c a/b.c a0 a_b a__b ab b".split()
    for name in names:
        push(client, "v1", name=name)
    assert repositories(client) == sorted(names)
    pages = [page.json()["repositories"] for page in client.pages("/v2/_catalog?n=4")]
    assert [len(page) for page in pages] == [4, 4, 4, 3]
    assert sum(pages, []) == sorted(names)
    assert repositories(client, "?last=a/b") == [name for name in sorted(names) if name > "a/b"]
    assert repositories(client, "?n=1&last=a/a") == ["a/b"]


def test_the_catalog_of_an_empty_registry_is_empty(local):
    assert repositories(local) == []


def test_repositories_do_not_see_the_tags_of_their_neighbours(local):
    for name in ["a", "a/b", "a-b"]:
        push(local, f"of-{name.replace('/', '_')}", name=name)
    assert [tags(local, name=name) for name in ["a", "a/b", "a-b"]] == [["of-a"], ["of-a_b"], ["of-a-b"]]
