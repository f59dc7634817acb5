"""Registries with many small things in them, put there by requests as clients send them, eight at a time."""

import json

from concurrent.futures import ThreadPoolExecutor

from bench.client import connected

from wire import CONFIG, IMAGE, digest_of

CLIENTS = 8


def manifest(config, **fields):
    """An image without layers, which is as small as images get."""
    described = {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)}
    return json.dumps({"schemaVersion": 2, "mediaType": IMAGE, "config": described, "layers": [], **fields}).encode()


def push_small(client, name, data):
    """A blob that fits into a request."""
    place = client.upload(name)
    path = f"{place}{'&' if '?' in place else '?'}digest={digest_of(data)}"
    client.ask("PUT", path, 201, {"Content-Type": "application/octet-stream"}, data)


def put_manifest(client, name, reference, data):
    client.ask("PUT", f"/v2/{name}/manifests/{reference}", 201, {"Content-Type": IMAGE}, data)


def in_parallel(server, things, action):
    """Does `action(client, thing)` with all of them, by clients that keep their connections."""
    things = list(things)

    def some(number):
        with connected(server) as client:
            for thing in things[number::CLIENTS]:
                action(client, thing)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(some, number) for number in range(CLIENTS)]:
            done.result()


def tags(server, name, count):
    """A repository with one image and many tags."""
    config = b"{}"
    with connected(server) as client:
        push_small(client, name, config)
    in_parallel(server, range(count), lambda client, n: put_manifest(client, name, f"v{n:07}", manifest(config)))


def repositories(server, prefix, count):
    """Many repositories with an image each."""
    config = b"{}"

    def one(client, number):
        name = f"{prefix}{number:07}/disk"
        push_small(client, name, config)
        put_manifest(client, name, "v1", manifest(config))

    in_parallel(server, range(count), one)


def referrers(server, name, count):
    """An image that many others refer to. Gives its digest."""
    config = b"{}"
    subject = manifest(config)
    digest = digest_of(subject)
    described = {"mediaType": IMAGE, "digest": digest, "size": len(subject)}
    with connected(server) as client:
        push_small(client, name, config)
        put_manifest(client, name, "subject", subject)

    def one(client, number):
        signature = manifest(config, subject=described, artifactType="application/x.bench", annotations={"n": str(number)})
        put_manifest(client, name, digest_of(signature), signature)

    in_parallel(server, range(count), one)
    return digest
