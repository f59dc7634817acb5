"""A registry for each test, on each backend, and what the tests of the commands share."""

import contextlib
import os
import pathlib
import subprocess
import uuid

import pytest

from auth_proxy import AuthProxy
from cluster import Cluster, InCluster
from command import REFUSED, Command, kept, nothing_tagged
from cutting_proxy import CuttingProxy, ForwardProxy
from dockerd import Dockerd
from dvcr import BINARY, Dvcr
from flaky_http import Authority, Web
from images import Images, run
from virtual_images import Embedded
from wire import Client


WORLDS = os.environ.get("CONFORMANCE_WORLDS", "embedded,cluster").split(",")
"""The worlds that are asked for, of those in `virtual_images.py` and `cluster.py`."""


def pytest_collection_modifyitems(config, items):
    """Leaves worlds out that are not asked for. Cheap tests first: a broken build shows within seconds.

    But what takes longest is begun before them all.
    """
    others = [item for item in items if world_of(item) not in (None, *WORLDS)]
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=others)
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: item.path.name != "test_container_image.py")


def world_of(item):
    """The world that a test runs in, if it is one of a list for several."""
    return getattr(item, "callspec", None) and item.callspec.params.get("world_name")


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


@pytest.fixture(scope="session")
def cluster(cache):
    """A real Kubernetes API with everything of deploy/ in it."""
    cluster = Cluster(cache)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(params=["embedded", pytest.param("cluster", marks=pytest.mark.slow)])
def world_name(request):
    """Each world in turn. A test that can be true in one of them alone is parametrised with its name."""
    return request.param


@pytest.fixture
def settings():
    """Environment variables of the servers of `world`."""
    return {}


@pytest.fixture
def world(start_world, settings):
    """A server with the resources."""
    return start_world(**settings)


@pytest.fixture
def start_world(request, world_name, start, cache, tmp_path):
    """Starts a server with the resources. Settings are environment variables.

    `at_a_time` is how many images are made at one time: a cluster has no setting for it, but no room for more Pods.
    """

    def start_embedded(at_a_time=None, **settings):
        limit = {"DVCR_WORKERS": str(at_a_time)} if at_a_time else {}
        return Embedded(start("filesystem", **limit, **settings), cache, tmp_path / "kubectl")

    def start_cluster(at_a_time=None, **settings):
        server = start("filesystem", DVCR_EMBEDDED_API="false", DVCR_UPLOAD_KEY=cluster.key, **settings)
        world = InCluster(cluster, server, tmp_path, settings, at_a_time)
        stack.callback(world.stop)
        return world.start()

    with contextlib.ExitStack() as stack:
        if world_name == "embedded":
            yield start_embedded
        else:
            cluster = request.getfixturevalue("cluster")
            yield start_cluster


@pytest.fixture
def pulled(dvcr, tmp_path):
    """What a machine gets of an image: the bytes behind its registry URL."""

    def pulled(image):
        path = tmp_path / f"pulled-{uuid.uuid4()}"
        dvcr.pulls(image["status"]["target"]["registryURL"], path)
        return path.read_bytes()

    return pulled


@pytest.fixture
def registry(start):
    """A registry over a directory, for commands in which the store has no part."""
    return start("filesystem")


@pytest.fixture
def dvcr(tmp_path):
    """The commands of a client."""
    return Command(tmp_path / "home")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Disk images, each made when it is first asked for."""
    return Images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def opened():
    """Starts what has a `stop`, and stops it after the test."""
    with contextlib.ExitStack() as stack:

        def opened(made):
            stack.callback(made.stop)
            return made

        yield opened


@pytest.fixture
def web(opened):
    """A web server that behaves badly when it is told to."""
    return opened(Web())


@pytest.fixture
def auth_proxy(opened):
    return lambda *arguments, **options: opened(AuthProxy(*arguments, **options))


@pytest.fixture
def cutting_proxy(opened):
    return lambda *arguments, **options: opened(CuttingProxy(*arguments, **options))


@pytest.fixture
def forward_proxy(opened):
    return lambda names: opened(ForwardProxy(names))


@pytest.fixture
def outside():
    """An address of this machine that is no loopback address: of a network that is for documentation."""
    # One for each process that runs tests.
    address = f"198.51.100.{7 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])}"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], capture_output=True, check=False)
    yield address
    run("ip", "address", "delete", f"{address}/32", "dev", "lo")


@pytest.fixture
def refused(dvcr, registry):
    """Imports what must fail, sees that nothing stayed, and gives the line that says why."""

    def refused(source, *arguments, code=REFUSED, **options):
        before = kept(registry)
        done = dvcr.run("import", *arguments, source, f"{registry.host}/disks/bad:v1", code=code, **options)
        assert nothing_tagged(registry, "disks/bad")
        assert kept(registry) == before
        assert done.out == b"", done
        return done.error()

    return refused
