"""Images of disks as other tools make and read them."""

import gzip
import io
import json
import subprocess
import tarfile

from wire import CONFIG, IMAGE, LAYER, Client, descriptor, digest_of, encode

DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def tar(*entries, form=tarfile.GNU_FORMAT):
    """A tar of (name, bytes), or of entries as tarfile has them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            name, data = entry
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def special(name, kind, target=""):
    """An entry that is no regular file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def compressed(data, compression):
    """What a layer is stored as."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def push_disk(host, name, tag, tars, compression="none", docker=False, architecture="amd64", labels=None):
    """Pushes an image of some layers as other tools do, and gives the digest and the size of its manifest."""
    client, layers = Client(host), []
    suffix = {"none": "", "gzip": ".gzip" if docker else "+gzip", "zstd": "+zstd"}[compression]
    for data in tars:
        stored = compressed(data, compression)
        kind = (DOCKER_LAYER if docker else LAYER) + suffix
        layers.append(descriptor(kind, client.push_blob(name, stored), len(stored)))
    config = encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": labels} if labels else {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in tars]},
        }
    )
    kind = DOCKER_IMAGE if docker else IMAGE
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": descriptor(DOCKER_CONFIG if docker else CONFIG, client.push_blob(name, config), len(config)),
            "layers": layers,
        }
    )
    answer = client.put_manifest(name, tag or digest_of(manifest), manifest, kind)
    assert answer.status == 201, answer
    return digest_of(manifest), len(manifest)


class Image:
    """An image as it lies in a registry, read without any client of DVCR's."""

    def __init__(self, host, name, reference="v1"):
        client = Client(host)
        answer = client.get(f"/v2/{name}/manifests/{reference}", Accept=f"{IMAGE}, {DOCKER_IMAGE}")
        assert answer.status == 200, answer
        self.digest = digest_of(answer.body)
        assert answer.headers["Docker-Content-Digest"] == self.digest
        self.media_type = answer.headers["Content-Type"]
        self.manifest = json.loads(answer.body)
        config = client.get(f"/v2/{name}/blobs/{self.manifest['config']['digest']}")
        assert digest_of(config.body) == self.manifest["config"]["digest"]
        self.config = config.json()
        self.labels = self.config["config"].get("Labels") or {}
        self.env = self.config["config"].get("Env") or []
        self.annotations = self.manifest.get("annotations") or {}
        self.client, self.name = client, name

    def layer(self):
        """The bytes of its only layer."""
        (layer,) = self.manifest["layers"]
        answer = self.client.get(f"/v2/{self.name}/blobs/{layer['digest']}")
        assert answer.status == 200 and digest_of(answer.body) == layer["digest"]
        assert len(answer.body) == layer["size"]
        return answer.body

    def file(self):
        """The only entry of its layer, and the bytes."""
        data = self.layer()
        assert len(data) % 512 == 0
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            (member,) = archive.getmembers()
            return member, archive.extractfile(member).read()
