"""The columns of the table: how each comes out of what was measured, in which unit, and which way is better."""

import statistics

from collections.abc import Callable
from dataclasses import dataclass

GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    value: Callable
    """Of a measurement; KeyError where it has none."""
    places: int
    more_is_better: bool = False


METRICS = [
    Metric("speed", "MB/s", lambda m: m["payload"] / m["seconds"] / 1e6, 0, more_is_better=True),
    Metric("requests", "requests/s", lambda m: m["requests"] / m["seconds"], 0, more_is_better=True),
    Metric("p99", "p99 ms", lambda m: m["p99"] * 1e3, 2),
    Metric("seconds", "s", lambda m: m["seconds"], 2),
    Metric("cpu", "server CPU-s/GiB", lambda m: m["cpu"] / (m["payload"] / GIB), 2),
    Metric("cpu_each", "server CPU-µs/request", lambda m: m["cpu"] / m["requests"] * 1e6, 0),
    Metric("cpu_all", "CPU-s", lambda m: m["cpu"] if "payload" not in m and "requests" not in m else m["nothing"], 2),
    Metric("client_cpu", "client CPU-s/GiB", lambda m: m["client_cpu"] / (m["payload"] / GIB), 2),
    Metric("store_cpu", "S3 server CPU-s/GiB", lambda m: m["store_cpu"] / (m["payload"] / GIB), 2),
    Metric("peak", "peak MiB", lambda m: m["peak"] / MIB, 0),
    Metric("written", "written/byte", lambda m: m["written"] / m["payload"], 2),
    Metric("read", "read/byte", lambda m: m["read"] / m["payload"], 2),
    Metric("stored", "stored/byte", lambda m: m["stored"] / m["payload"], 2),
    Metric("rss", "memory then, MiB", lambda m: m["rss"] / MIB, 0),
]
BY_KEY = {metric.key: metric for metric in METRICS}


def shown(metric, value):
    """A value as it stands in tables and plots: with more digits where it is small."""
    return f"{value:.{metric.places + (2 if 0 < abs(value) < 10**-metric.places * 10 else 0)}f}"


@dataclass(frozen=True)
class Figure:
    """Several turns at one row by one peer, in one metric."""

    median: float
    least: float
    most: float


def figure(metric, measurements):
    """None where a row has no such metric, or nobody measured it."""
    try:
        values = [metric.value(one) for one in measurements]
    except (KeyError, ZeroDivisionError):
        return None
    if not values:
        return None
    return Figure(statistics.median(values), min(values), max(values))


def ratio(metric, measurements, ours):
    """A peer's median as a multiple of ours; None where there is nothing to divide by."""
    theirs, base = figure(metric, measurements), figure(metric, ours)
    if theirs is None or base is None or base.median <= 0:
        return None
    return theirs.median / base.median
