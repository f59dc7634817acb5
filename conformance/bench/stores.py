"""What servers keep their data in: a directory, or a bucket of a real S3 server that is started with it, empty.

S3 servers run on the cores of the clients: what they take is not the registry's, and is told apart.
"""

import contextlib
import json
import shutil
import subprocess

from bench.settings import cache
from bench.servers import Missing, Process, wait_for

from dvcr import free_port

ACCESS, SECRET, BUCKET = "dvcr-bench", "dvcr-bench-secret", "bench"


class Directory:
    name = "filesystem"

    def __init__(self, folder, settings):
        self.folder = folder / "data"
        self.folder.mkdir()

    def pids(self):
        return []

    def stop(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class S3:
    """A bucket of a server of its own."""

    def __init__(self, folder, settings):
        self.work, self.folder, self.port = folder / "s3", folder / "s3/data", free_port()
        self.folder.mkdir(parents=True)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        command, environment = self.command()
        self.process = Process(command, environment, self.work / "log", settings.cores[1])
        try:
            wait_for(self.answers, self.process, seconds=60)
        except BaseException:
            self.stop()
            raise

    def curl(self, path, *arguments):
        sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{ACCESS}:{SECRET}"]
        command = ["curl", "-sf", "-o", "/dev/null", "--noproxy", "*", *sign, *arguments, f"{self.endpoint}/{path}"]
        return subprocess.run(command, check=False).returncode == 0

    def answers(self):
        """Makes the bucket, and writes to it: SeaweedFS lays out its volumes with the first write, which no registry should pay."""
        probe = self.work / "probe"
        probe.write_text("started")
        bucket = self.curl(BUCKET, "-I") or self.curl(BUCKET, "-X", "PUT")
        return bucket and self.curl(f"{BUCKET}/started", "-T", str(probe))

    def pids(self):
        return [self.process.pid]

    def stop(self):
        # Its data goes with it, so there is nothing that it would have to write.
        self.process.kill()
        shutil.rmtree(self.work, ignore_errors=True)


class SeaweedFs(S3):
    name = "seaweedfs"

    @staticmethod
    def missing():
        return None if (cache() / "venv/bin/weed").exists() else "conformance/setup installs it"

    def command(self):
        user = {"name": "bench", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}]}
        user["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
        config = self.work / "s3.json"
        config.write_text(json.dumps({"identities": [user]}))
        ports = {part: free_port() for part in ("master", "volume", "filer")}
        words = [cache() / "venv/bin/weed", "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        for part, port in ports.items():
            words += [f"-{part}.port={port}", f"-{part}.port.grpc={free_port()}"]
        words += ["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=64", "-s3", f"-s3.port={self.port}"]
        words += [f"-s3.port.grpc={free_port()}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"]
        return words, {}


class MinIo(S3):
    name = "minio"

    @staticmethod
    def missing():
        return None if (cache() / "bench/minio").exists() else "bench/setup builds it"

    def command(self):
        words = [cache() / "bench/minio", "server", "--quiet", "--address", f"127.0.0.1:{self.port}", self.folder]
        return words, {"MINIO_ROOT_USER": ACCESS, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}


STORES = {store.name: store for store in (Directory, SeaweedFs, MinIo)}


@contextlib.contextmanager
def store(name, folder, settings):
    """A store that is empty, and goes away."""
    kind = STORES[name]
    if reason := getattr(kind, "missing", lambda: None)():
        raise Missing(f"{name} is not here: {reason}")
    made = kind(folder, settings)
    try:
        yield made
    finally:
        made.stop()
