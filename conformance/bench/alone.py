"""One server by itself over a directory, for what is no race: bench_floors.py, bench_series.py."""

import contextlib

from bench.peers import PEERS
from bench.servers import Server
from bench.stores import store


@contextlib.contextmanager
def started(name, folder, settings):
    """A peer with its data in `folder`/data, which goes with it."""
    with store("filesystem", folder, settings) as data, Server(PEERS[name], data, folder, settings) as server:
        yield server
