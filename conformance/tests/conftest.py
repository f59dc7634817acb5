"""A registry for each test, on each backend."""

import os
import pathlib
import uuid

import pytest

from dockerd import Dockerd
from dvcr import BINARY, Dvcr
from wire import Client


def pytest_collection_modifyitems(items):
    """Cheap tests first: a broken build shows within seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session", autouse=True)
def binary():
    assert BINARY.exists(), f"{BINARY} is missing: run `cargo build --release`, or `make conformance`"


@pytest.fixture(scope="session")
def cache():
    """The folder with the tools that conformance/setup installs."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "dvcr"
    return pathlib.Path(os.environ.get("CONFORMANCE_CACHE", default))


def s3_storage():
    """Arguments and environment for a prefix of its own in the bucket."""
    endpoint = os.environ.get("CONFORMANCE_S3_ENDPOINT")
    assert endpoint, "no S3 server: run `make conformance`, or pytest through conformance/with-s3"
    arguments = ["--storage", f"s3://{os.environ['CONFORMANCE_S3_BUCKET']}/{uuid.uuid4()}", "--s3-endpoint", endpoint]
    environment = {"AWS_ACCESS_KEY_ID": "dvcr-test", "AWS_SECRET_ACCESS_KEY": "dvcr-test-secret"}
    return arguments, environment


@pytest.fixture
def start(tmp_path):
    """Starts servers, stops them after the test, and fails it when one of them panicked."""
    servers = []

    def start(backend, arguments=None, **environment):
        if arguments is not None:
            storage, more = arguments
        elif backend == "s3":
            storage, more = s3_storage()
        else:
            storage, more = ["--data", str(tmp_path / f"data{len(servers)}")], {}
        server = Dvcr(storage, tmp_path / f"dvcr{len(servers)}.log", {**more, **environment})
        servers.append(server)
        return server.start()

    yield start
    panics = []
    for server in servers:
        server.kill()
        panics += server.panics()
    assert not panics


@pytest.fixture(params=["filesystem", "s3"])
def backend(request):
    return request.param


@pytest.fixture
def server(start, backend):
    """A registry over each backend in turn."""
    return start(backend)


@pytest.fixture
def client(server):
    return Client(server.host)


@pytest.fixture
def local(start):
    """A registry over a directory alone, for rules in which the store has no part."""
    return Client(start("filesystem").host)


@pytest.fixture(scope="session")
def docker():
    """A Docker daemon of the tests' own."""
    daemon = Dockerd()
    try:
        yield daemon.start()
    finally:
        daemon.stop()
