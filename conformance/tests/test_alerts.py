"""The alerts and the dashboard, as Prometheus' own program reads them.

`alerts_test.yaml` and `alerts_slow_test.yaml` say for each alert when it fires and when it does not.
"""

import json
import pathlib
import re
import subprocess

import pytest

from dvcr import ROOT

ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
SCENES = [ROOT / "conformance/alerts_test.yaml", ROOT / "conformance/alerts_slow_test.yaml"]
DASHBOARD = ROOT / "deploy/grafana/dvcr.json"

VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "6h", "$job": ".*"}
"""What Grafana puts in place of its variables."""


@pytest.fixture
def promtool(cache):
    def promtool(*arguments):
        command = [pathlib.Path(cache) / "bin/promtool", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return promtool


@pytest.fixture
def checked(promtool, tmp_path):
    """What is said of expressions."""

    def checked(expressions):
        rules = [{"record": f"dvcr:checked:{number}", "expr": text} for number, text in enumerate(expressions)]
        file = tmp_path / "rules.yaml"
        # JSON is YAML.
        file.write_text(json.dumps({"groups": [{"name": "checked", "rules": rules}]}))
        return promtool("check", "rules", file)

    return checked


def named(text, pattern):
    return re.findall(pattern, text, re.MULTILINE)


def panels(parts):
    for panel in parts:
        yield panel
        yield from panels(panel.get("panels", []))


def expressions():
    """Each expression of the dashboard, with the name of its panel."""
    found = []
    for panel in panels(json.loads(DASHBOARD.read_text())["panels"]):
        for target in panel.get("targets", []):
            text = target["expr"]
            for variable, value in VARIABLES.items():
                text = text.replace(variable, value)
            found.append((panel["title"], text))
    return found


def test_prometheus_takes_the_alerts(promtool):
    done = promtool("check", "rules", ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_else_does_not(promtool):
    alerts = named(ALERTS.read_text(), r"^ *- alert: (\w+)$")
    text = "".join(file.read_text() for file in SCENES)
    scenes = named(text, r"^ *- name: (\w+) (fires|does not fire) ")
    # Each has its scenes, and no scene is about one that is not there any more.
    assert len(alerts) > 10 and len(set(alerts)) == len(alerts)
    assert {alert for alert, what in scenes if what == "fires"} == set(alerts)
    assert {alert for alert, what in scenes if what == "does not fire"} == set(alerts)
    fired = set(named(text, r'alertname="(\w+)"'))
    assert fired == set(alerts)
    done = promtool("test", "rules", *SCENES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_asks_what_prometheus_can_answer(checked):
    found = expressions()
    assert len(found) > 20
    assert not [text for _, text in found if "$" in text], "a variable that Grafana does not have, or this test does not"
    done = checked([text for _, text in found])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_typing_error_in_the_dashboard_would_be_found(checked):
    # That the check above checks.
    for broken in ["sum by (le (rate(dvcr_uploads_total[5m]))", "rate(dvcr_uploads_total)", "histogramm_quantile(1, x)"]:
        assert checked([broken]).returncode != 0


def test_no_two_panels_of_the_dashboard_lie_on_each_other():
    taken = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_panels_have_numbers_of_their_own():
    numbers = [panel["id"] for panel in panels(json.loads(DASHBOARD.read_text())["panels"])]
    assert len(set(numbers)) == len(numbers)
