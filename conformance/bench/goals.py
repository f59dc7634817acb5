"""What is wanted of DVCR, as ratios within one run: who is behind stays in the table, and is named here."""

from dataclasses import dataclass
from fnmatch import fnmatch

from bench.metrics import BY_KEY, figure

OURS = "dvcr"
FLOOR = "push/floor/random/sha256+write"
NOT_PEERS = ("dvcr", "dvcr-whole")


@dataclass(frozen=True)
class Goal:
    what: str
    rows: str
    metric: str
    limit: float
    to: str = "the best peer"
    """What it is a multiple of: a peer's name, `the best peer`, `the floor`, `one`, or `itself once` (the same push of a sixteenth)."""


GOALS = [
    Goal("CPU of a push", "push/filesystem/random/p*", "cpu", 1.6, "the floor"),
    Goal("CPU of a push", "push/filesystem/*", "cpu", 0.5),
    Goal("time of a push", "push/filesystem/*", "seconds", 0.75),
    Goal("time of a push", "push/seaweedfs/*", "seconds", 0.6),
    Goal("time of a push", "push/minio/*", "seconds", 0.6),
    Goal("bytes written for each of noise", "push/seaweedfs/random/*", "written", 1.05, "one"),
    Goal("bytes written for each of noise", "push/minio/random/*", "written", 1.05, "one"),
    Goal("memory of a push", "push/filesystem/*", "peak", 1),
    Goal("memory of a push of 16 times as much", "push/*/16times", "peak", 1.1, "itself once"),
    Goal("memory of a push", "push/seaweedfs/*", "peak", 0.5),
    Goal("memory of a push", "push/minio/*", "peak", 0.5),
    Goal("throughput of a pull", "pull/*", "speed", 1),
    Goal("CPU of a pull", "pull/filesystem/*", "cpu", 1.15, "nginx"),
    Goal("requests a second", "small/*", "requests", 2),
]


def compared(goal, ours, row, peers, results):
    """The multiple that ours is; None where there is nothing to compare with."""
    metric = BY_KEY[goal.metric]
    if goal.to == "one":
        others = [1.0]
    elif goal.to == "itself once":
        once = results.get(row.replace("/16times", "/patch"), {}).get(OURS, [])
        others = [it.median for it in [figure(metric, once)] if it]
    elif goal.to == "the floor":
        others = [it.median for it in [figure(metric, results.get(FLOOR, {}).get("floor", []))] if it]
    else:
        names = [name for name in peers if name not in NOT_PEERS] if goal.to == "the best peer" else [goal.to]
        others = [it.median for name in names if (it := figure(metric, peers.get(name, [])))]
    if not others:
        return None
    best = max(others) if metric.more_is_better else min(others)
    return ours.median / best if best > 0 else None


def reached(raw):
    """Each goal at each row that it is for: the ratio, if there is something to compare with, and whether that is enough."""
    results = {row: peers for group in raw["groups"].values() for row, peers in group["results"].items()}
    for goal in GOALS:
        for row, peers in results.items():
            metric = BY_KEY[goal.metric]
            ours = figure(metric, peers.get(OURS, []))
            if fnmatch(row, goal.rows) and ours is not None:
                ratio = compared(goal, ours, row, peers, results)
                enough = ratio is not None and (ratio >= goal.limit if metric.more_is_better else ratio <= goal.limit)
                yield goal, row, ratio, enough


def growth(raw):
    """What a page costs at ten times the count, as a multiple of what it costs at a tenth: 1 where the rest does not count."""
    results = raw["groups"].get("small", {}).get("results", {})
    count, metric = raw["settings"]["count"], BY_KEY["cpu_each"]
    for row, peers in results.items():
        few = results.get(row.replace(f"-{count * 10}/", f"-{count // 10}/"), {})
        # Pages of a hundred have the same entries only where there are as many.
        if f"-{count * 10}/" not in row or "referrers" in row or not few or count // 10 < 100:
            continue
        for peer, many in peers.items():
            large, little = figure(metric, many), figure(metric, few.get(peer, []))
            if large and little and little.median > 0:
                yield row, peer, large.median / little.median


def markdown(*runs):
    lines = []
    for goal, row, ratio, ok in (verdict for raw in runs for verdict in reached(raw)):
        most = "at least" if BY_KEY[goal.metric].more_is_better else "at most"
        found = ("", "nothing to compare with") if ratio is None else (f"{ratio:.2f}", "ok" if ok else "behind")
        lines.append(f"| {goal.what}, to {goal.to} | {row} | {most} {goal.limit:g} | {found[0]} | {found[1]} |")
    text = ["## Goals", "", "| goal | row | limit | reached | |", "| --- | --- | --: | --: | --- |", *lines, ""] if lines else []
    if grown := [times for raw in runs for times in growth(raw)]:
        text += [
            "## Growth",
            "",
            "CPU of a request at a hundred times as many entries.",
            "",
            "| row | server | times |",
            "| --- | --- | --: |",
        ]
        text += [*(f"| {row} | {peer} | {times:.2f} |" for row, peer, times in grown), ""]
    return "\n".join(text)
