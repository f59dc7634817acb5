"""Small requests, 64 connections at once: manifests, blobs, tags, the catalog, referrers; and how lists grow.

Lists are asked for by the page of a hundred, because servers differ in how much they give to those who name no number.
"""

import contextlib
import json

from functools import partial

from bench import load
from bench.client import Refused, connected
from bench.fill import manifest, push_small, put_manifest, referrers, repositories, tags
from bench.race import Scene

from wire import IMAGE, INDEX, digest_of

TITLE = "Small requests"

ANY, PAGE = "*/*", 100
PEERS = ("dvcr", "distribution", "docker-registry", "zot")
ONE = {
    "manifest-get": "GET of a manifest by tag",
    "manifest-get-digest": "GET of a manifest by digest",
    "manifest-head": "HEAD of a manifest by tag (ab)",
    "blob-head": "HEAD of a blob (ab)",
    "blob-get": "GET of a blob of 2 bytes",
}


def hammer(turn, row, server, path, accept=ANY, method="GET", right=lambda answer: True):
    """Measures requests for one path, after a second of them that nobody counts."""
    send = load.head if method == "HEAD" else load.get

    def play():
        load.check(server, method, path, accept, right)
        # Whoever answers nothing within a second may do so later.
        with contextlib.suppress(Refused):
            send(server, path, accept, 1)
        turn.measure(row, server, lambda: send(server, path, accept, turn.settings.seconds))

    turn.attempt(row, play)


def one(turn):
    """One image."""
    server, name, image = turn.server(), "bench/disk", manifest(b"{}")
    with connected(server) as client:
        push_small(client, name, b"{}")
        put_manifest(client, name, "v1", image)
    by_tag, by_digest = f"/v2/{name}/manifests/v1", f"/v2/{name}/manifests/{digest_of(image)}"
    blob = f"/v2/{name}/blobs/{digest_of(b'{}')}"
    hammer(turn, "manifest-get", server, by_tag, IMAGE, right=lambda answer: answer.body == image)
    hammer(turn, "manifest-get-digest", server, by_digest, IMAGE, right=lambda answer: answer.body == image)
    hammer(turn, "manifest-head", server, by_tag, IMAGE, "HEAD")
    hammer(turn, "blob-head", server, blob, ANY, "HEAD")
    hammer(turn, "blob-get", server, blob, right=lambda answer: answer.body == b"{}")


def entries(key, count):
    return lambda answer: len(json.loads(answer.body)[key] or []) == count


def many_tags(count, turn):
    """A repository with many tags: the first page, and one from the middle."""
    server, name = turn.server(), "bench/disk"
    tags(server, name, count)
    path = f"/v2/{name}/tags/list?n={PAGE}"
    full = entries("tags", min(PAGE, count))
    hammer(turn, "first", server, path, right=full)
    hammer(turn, "middle", server, f"{path}&last=v{count // 2 - 1:07}", right=entries("tags", min(PAGE, count - count // 2)))
    hammer(turn, "manifest-get", server, f"/v2/{name}/manifests/v{count // 2:07}", IMAGE)


def many_repositories(count, turn):
    server = turn.server()
    repositories(server, "bench/r", count)
    path = f"/v2/_catalog?n={PAGE}"
    hammer(turn, "first", server, path, right=entries("repositories", min(PAGE, count)))
    last = f"bench/r{count // 2 - 1:07}/disk"
    hammer(turn, "middle", server, f"{path}&last={last}", right=entries("repositories", min(PAGE, count - count // 2)))


def many_referrers(count, turn):
    server, name = turn.server(), "bench/disk"
    digest = referrers(server, name, count)
    hammer(
        turn, "first", server, f"/v2/{name}/referrers/{digest}", INDEX, right=lambda answer: json.loads(answer.body)["manifests"]
    )


def scenes(settings):
    lists = {"first": "the first page of a hundred", "middle": "a page of a hundred from the middle"}
    for store in ("filesystem", "seaweedfs"):
        yield Scene(f"small/{store}/one", one, store, PEERS, tuple(ONE.items()))
        for count in (settings.count // 10, settings.count, settings.count * 10):
            rows = {row: f"{what} of {count} tags" for row, what in lists.items()}
            rows["manifest-get"] = f"GET of a manifest by one of {count} tags"
            yield Scene(f"small/{store}/tags-{count}", partial(many_tags, count), store, PEERS, tuple(rows.items()))
            rows = tuple((row, f"{what} of {count} repositories in the catalog") for row, what in lists.items())
            yield Scene(f"small/{store}/catalog-{count}", partial(many_repositories, count), store, PEERS, rows)
        for count in (settings.count // 100, settings.count // 10, settings.count):
            rows = (("first", f"the list, or its first page, of {count} referrers"),)
            yield Scene(f"small/{store}/referrers-{count}", partial(many_referrers, count), store, PEERS, rows, needs="referrers")
