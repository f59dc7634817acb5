"""The benchmark at its smallest: it runs, and says what was measured, of whom, and what is missing. No figure is judged."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from dvcr import BINARY, ROOT

sys.path.insert(0, str(ROOT / "conformance"))

from bench import goals, table  # noqa: E402

ROWS = [
    *("push/filesystem/random/put", "push/filesystem/random/16times"),
    *("push/filesystem/disk/patch", "pull/filesystem/random/1MiB"),
]


@pytest.fixture
def bench(tmp_path, cache):
    """Runs it with what conformance/setup has installed alone."""
    cores = sorted(os.sched_getaffinity(0))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "conformance"),
        "CONFORMANCE_DVCR": str(BINARY),
        "CONFORMANCE_CACHE": str(cache),
        "BENCH_CORES": f"{cores[0]}/{cores[-1]}",
        "BENCH_FOLDER": str(tmp_path / "work"),
        "BENCH_OUT": str(tmp_path / "out"),
        "BENCH_SIZE": "16",
        "BENCH_ROUNDS": "2",
        "BENCH_ZOT": "/nowhere/zot",
    }

    def run(*arguments, code=0, **settings):
        command = [sys.executable, "-m", "bench", *map(str, arguments)]
        done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_a_small_run_has_every_row_of_every_peer_that_is_there(bench, tmp_path):
    bench(BENCH=",".join([*ROWS, "concurrent/filesystem/mount"]), BENCH_PEERS="dvcr,docker-registry,zot")
    raw = json.loads((tmp_path / "out/raw.json").read_text())
    results = {row: peers for group in raw["groups"].values() for row, peers in group["results"].items()}
    assert sorted(results) == sorted([*ROWS, "concurrent/filesystem/mount"]), raw
    for row, peers in results.items():
        assert {peer: len(turns) for peer, turns in peers.items()} == {"dvcr": 2, "docker-registry": 2}, row
    for turn in results["push/filesystem/random/put"]["docker-registry"]:
        # All of it is stored and written once, by whoever does not compress noise.
        assert turn["payload"] == 16 << 20 and turn["written"] >= turn["payload"] <= turn["stored"]
        assert turn["peak"] > 1 << 20
    assert "BENCH_ZOT" in raw["versions"]["zot"]
    written = (tmp_path / "out/table.md").read_text()
    assert all(f"| {row} | docker-registry |" in written for row in results)
    for plot in ["push-filesystem-speed.svg", "pull-filesystem-cpu.svg"]:
        assert xml.etree.ElementTree.parse(tmp_path / "out/plots" / plot).getroot().tag.endswith("svg")
    assert list((tmp_path / "work").iterdir()) == []
    # The same results, drawn again.
    bench("--draw", tmp_path / "out/raw.json", BENCH_OUT=str(tmp_path / "again"))
    assert (tmp_path / "again/table.md").read_text() == written


def test_runs_of_parts_are_drawn_together():
    small, large = run_of({"dvcr": [1], "distribution": [2]}), run_of({"dvcr": [3], "distribution": [4]})
    large["settings"] = large["settings"] | {"size_mib": 4096}
    written = table.markdown(small, large)
    assert "Large blobs of 1024 MiB on ext4; median of 3 turns; load" in written and "Large blobs of 4096 MiB on" in written
    assert written.count("## Goals") == 1 and written.count("| time of a push, to the best peer |") == 2


def test_a_name_that_nothing_has_is_refused_and_the_names_are_listed(bench):
    assert "nothing is called pusch" in bench(BENCH="pusch", code=1).stderr
    assert "no peer is called nexus" in bench(BENCH_PEERS="nexus", code=1).stderr
    listed = bench(BENCH="list").stdout
    assert all(row in listed for row in ROWS)


def run_of(seconds, reasons=None):
    """Results of one row, as if it had been measured."""
    turns = {peer: [{"seconds": each, "cpu": 1, "payload": 1 << 30} for each in many] for peer, many in seconds.items()}
    group = {"title": "Push", "results": {"push/filesystem/random/put": turns}, "described": {}, "reasons": reasons or {}}
    facts = ["processor", "cores", "memory_gib", "kernel", "file_system", "server_cores", "client_cores", "load_at_start"]
    machine = dict.fromkeys(facts, 1) | {"file_system": "ext4"}
    settings = {"size_mib": 1024, "rounds": 3, "count": 100}
    return {"machine": machine, "settings": settings, "versions": {}, "groups": {"push": group}}


def test_a_cell_is_the_median_with_its_spread_and_a_multiple_of_ours():
    written = table.markdown(run_of({"dvcr": [1, 3, 2], "distribution": [4, 9, 5]}))
    assert "2.00 (1.00 to 3.00)" in written
    assert "5.00 (4.00 to 9.00) ×2.50" in written


def test_a_goal_that_is_missed_is_named_and_so_is_one_without_anything_to_compare_with():
    raw = run_of({"dvcr": [2], "dvcr-whole": [1], "distribution": [2.5], "docker-registry": [5]})
    verdicts = {(goal.metric, goal.to): (ratio, ok) for goal, _, ratio, ok in goals.reached(raw)}
    # To the best of the others, not to ourselves in another setting.
    assert verdicts["seconds", "the best peer"] == (0.8, False) and verdicts["cpu", "the best peer"] == (1.0, False)
    assert verdicts["cpu", "the floor"] == (None, False)
    assert {ratio for _, _, ratio, _ in goals.reached(run_of({"dvcr": [2]}))} == {None}
    assert "| nothing to compare with |" in goals.markdown(run_of({"dvcr": [2]}))
    assert list(goals.reached(run_of({"distribution": [2]}))) == []


def test_who_failed_in_a_turn_is_told_from_who_did_not():
    written = table.markdown(run_of({"dvcr": [1, 3, 2], "distribution": [4, 9]}))
    assert "| distribution (2 turns) |" in written and "| dvcr |" in written


def test_who_cannot_is_in_the_table_with_the_reason():
    written = table.markdown(run_of({"dvcr": [1]}, {"push/filesystem/random": {"nginx": "it takes no pushes"}}))
    assert "nginx has no `push/filesystem/random`: it takes no pushes" in written


def test_a_list_that_costs_more_the_more_there_is_beside_its_page_is_told():
    costs = {100: 2, 10_000: 6}
    rows = {f"small/filesystem/tags-{count}/first": {"dvcr": [{"cpu": cpu, "requests": 1}]} for count, cpu in costs.items()}
    raw = {"settings": {"count": 1000}, "groups": {"small": {"results": rows}}}
    assert list(goals.growth(raw)) == [("small/filesystem/tags-10000/first", "dvcr", 3.0)]
