"""The official OCI conformance suite, at the version in tools/go.mod.

Its exit code is no verdict: skipped tests pass, and a mistake in its settings exits with 0. So the counts are
compared with those of a registry that has every feature.
"""

import os
import pathlib
import re
import subprocess

import pytest

RESULTS = pathlib.Path(os.environ.get("CONFORMANCE_RESULTS", pathlib.Path(__file__).parents[1] / "results"))


@pytest.mark.parametrize(
    ("settings", "sparse", "total"),
    [
        # "Sparse" pushes images whose layers are not there, which a registry may refuse, as ours does unless told.
        pytest.param({"DVCR_MISSING_BLOBS": "accept"}, "true", 1032, id="sparse"),
        pytest.param({}, "false", 986, id="default"),
        # Every blob, the smallest too, in chunks.
        pytest.param({"DVCR_CHUNK_FROM": "0"}, "false", 986, id="in-chunks"),
        pytest.param({"DVCR_CHUNKING": "false"}, "false", 986, id="whole"),
    ],
)
def test_every_check_passes(start, backend, cache, request, settings, sparse, total):
    server = start(backend, **settings)
    results = RESULTS / f"oci-{request.node.callspec.id}"
    results.mkdir(parents=True, exist_ok=True)
    for old in results.iterdir():
        old.unlink()
    environment = {
        **os.environ,
        "OCI_REGISTRY": server.host,
        "OCI_TLS": "disabled",
        "OCI_VERSION": "dev",
        "OCI_DATA_SPARSE": sparse,
        "OCI_RESULTS_DIR": str(results),
    }
    suite = subprocess.run([cache / "bin/conformance"], env=environment, capture_output=True, text=True, timeout=300)
    assert suite.returncode == 0, suite.stdout[-5000:]
    assert {file.name for file in results.iterdir()} == {"junit.xml", "report.html", "results.yaml"}
    assert "OCI Conformance Result: Pass" in suite.stdout, suite.stdout[-5000:]
    counts = {}
    for status in ["Pass", "Skip", "FAIL", "Error", "Disabled", "Total"]:
        found = re.findall(rf"^  {status}\.*:\s+(\d+)$", suite.stdout, re.MULTILINE)
        assert found, f"the summary has no {status}"
        counts[status] = int(found[0])
    assert counts == {"Pass": total, "Skip": 0, "FAIL": 0, "Error": 0, "Disabled": 0, "Total": total}
    print(f"{backend}: {counts}")
