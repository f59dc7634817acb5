"""Who is raced, and how each is set up: as its documentation has it, without authentication, logging errors alone.

distribution keeps descriptors of blobs in memory, as the configuration that comes with it does. What differs from a default is
what makes them do the same: deleting is allowed, and distribution answers for blobs in a bucket itself instead of sending clients
there, as the others do.
"""

import json
import os
import pathlib
import shutil
import subprocess

from bench.settings import CONFORMANCE, cache
from bench.stores import ACCESS, BUCKET, SECRET


class Peer:
    stores = ("filesystem", "seaweedfs", "minio")
    lacks = {}
    """What it does not have, each with the reason."""
    pushes = True
    collects = None
    """How it frees what nothing needs: `online`, beside everything else, or `offline`."""

    def missing(self):
        """Why it cannot be started here."""
        program = self.program()
        return None if program and shutil.which(program) else f"no program {program}"

    def version(self):
        done = subprocess.run([self.program(), "--version"], capture_output=True, text=True, check=False)
        # Some begin with the path that they were started by, which says nothing to who reads the results.
        return (done.stdout + done.stderr).strip().removeprefix(self.program()).strip()


class Dvcr(Peer):
    name = "dvcr"
    collects = "online"

    def program(self):
        return os.environ.get("CONFORMANCE_DVCR", str(CONFORMANCE.parent / "target/release/dvcr"))

    def command(self, server):
        words = [self.program(), "serve", "--listen", server.host]
        environment = {"DVCR_LOG_LEVEL": "error"}
        if server.store.name == "filesystem":
            words += ["--data", server.store.folder]
        else:
            words += ["--storage", f"s3://{BUCKET}/registry", "--s3-endpoint", server.store.endpoint]
            environment |= {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}
        if server.tls:
            words += ["--tls-certificate", server.tls.certificate, "--tls-key", server.tls.key]
        return words, environment


class DvcrWhole(Dvcr):
    """DVCR that keeps blobs whole, as the others do: what cutting and compressing costs."""

    name = "dvcr-whole"

    def command(self, server):
        words, environment = super().command(server)
        return words, environment | {"DVCR_CHUNKING": "false"}


class Distribution(Peer):
    """The CNCF's distribution, version 3."""

    name = "distribution"
    collects = "offline"
    lacks = {"referrers": "it has no referrers API"}

    def program(self):
        return str(cache() / "bench/registry")

    def config(self, server):
        """Its configuration, in JSON, which is YAML."""
        http = {"addr": server.host, "secret": "bench"}
        if server.tls:
            http["tls"] = {"certificate": str(server.tls.certificate), "key": str(server.tls.key)}
        storage = {"delete": {"enabled": True}, "redirect": {"disable": True}, "cache": {"blobdescriptor": "inmemory"}}
        storage |= self.storage(server.store)
        log = {"level": "error", "accesslog": {"disabled": True}}
        return {"version": "0.1", "log": log, "http": http, "storage": storage}

    def storage(self, store):
        if store.name == "filesystem":
            return {"filesystem": {"rootdirectory": str(store.folder)}}
        bucket = {"bucket": BUCKET, "region": "us-east-1", "regionendpoint": store.endpoint, "secure": False}
        bucket |= {"accesskey": ACCESS, "secretkey": SECRET, "forcepathstyle": True, "rootdirectory": "/registry"}
        return {"s3": bucket}

    def command(self, server):
        file = server.folder / "config.yml"
        file.write_text(json.dumps(self.config(server)))
        # Version 3 would look for a collector of traces.
        return [self.program(), "serve", file], {"OTEL_TRACES_EXPORTER": "none"}


class DockerRegistry(Distribution):
    """Debian's docker-registry: distribution, version 2.8."""

    name = "docker-registry"

    def program(self):
        return "docker-registry"


class Zot(Peer):
    """zot, with blobs synced as the others do before they say that they have them. A program that one has built elsewhere:
    BENCH_ZOT says where."""

    name = "zot"
    stores = ("filesystem",)

    def program(self):
        return os.environ.get("BENCH_ZOT", "zot")

    def missing(self):
        return super().missing() and "no program zot: BENCH_ZOT says where one is"

    def command(self, server):
        http = {"address": "127.0.0.1", "port": str(server.port), "compat": ["docker2s2"]}
        if server.tls:
            http["tls"] = {"cert": str(server.tls.certificate), "key": str(server.tls.key)}
        storage = {"rootDirectory": str(server.store.folder), "commit": True, "dedupe": True, "gc": False}
        config = {"distSpecVersion": "1.1.1", "storage": storage, "http": http, "log": {"level": "error"}}
        file = server.folder / "config.json"
        file.write_text(json.dumps(config))
        return [self.program(), "serve", file], {}


class Nginx(Peer):
    """A web server that sends files with sendfile: what a pull can be at best. It takes no pushes; its files are put there."""

    name = "nginx"
    stores = ("filesystem",)
    pushes = False

    def program(self):
        return "/usr/sbin/nginx"

    def version(self):
        return subprocess.run([self.program(), "-v"], capture_output=True, text=True, check=False).stderr.strip()

    def command(self, server):
        address = f"{server.host} ssl" if server.tls else server.host
        tls = f"ssl_certificate {server.tls.certificate}; ssl_certificate_key {server.tls.key};" if server.tls else ""
        places = {name: server.folder / name for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")}
        temporary = " ".join(f"{name}_temp_path {path};" for name, path in places.items())
        file = server.folder / "nginx.conf"
        # One process, which is the one that is measured; it may have been started by root, who reads all files.
        file.write_text(
            f"daemon off; master_process off; pid {server.folder}/nginx.pid; error_log stderr error;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ sendfile on; tcp_nopush on; access_log off; keepalive_requests 1000000; {temporary}\n"
            f"  server {{ listen {address}; {tls} root {server.store.folder}; }} }}\n"
        )
        return [self.program(), "-c", file, "-p", server.folder, "-e", server.folder / "log"], {}

    @staticmethod
    def put(server, repository, blob):
        """Puts a blob where a registry has it."""
        path = pathlib.Path(server.store.folder, f"v2/{repository}/blobs/{blob.digest}")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(blob.path, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())


class Floor(Peer):
    """No server: what nobody can do without, measured alone (floors.py)."""

    name = "floor"
    stores = ("filesystem",)

    def missing(self):
        return None

    def version(self):
        return "no server; sha256 of OpenSSL by Python, and writing, in one thread"


PEERS = {peer.name: peer for peer in (Dvcr(), DvcrWhole(), Distribution(), DockerRegistry(), Zot(), Nginx(), Floor())}
