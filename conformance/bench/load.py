"""Many small requests of one kind: wrk for GET, and ab for HEAD, since wrk waits for the body that a HEAD does not have."""

import re
import subprocess

from bench.client import Refused, connected

CONNECTIONS = 64


def run(words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"{words[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def seconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit]


def get(server, path, accept, duration):
    """As many GETs as it takes, for some seconds. Gives how many were answered and within which time 99 of 100 were."""
    said = run(
        ["wrk", "--threads", 1, "--connections", CONNECTIONS, "--duration", f"{duration}s", "--timeout", "600s", "--latency"]
        + ["--header", f"Accept: {accept}", f"{server.url}{path}"]
    )
    if bad := re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", said):
        raise Refused(f"GET {path}: {bad[0]}")
    if (count := int(re.search(r"(\d+) requests in", said)[1])) == 0:
        raise Refused(f"GET {path}: no answer to {CONNECTIONS} requests at once within {duration} s")
    slowest = re.search(r"^\s+99%\s+(\S+)", said, re.MULTILINE)[1]
    return {"requests": count, "p99": seconds(slowest)}


def head(server, path, accept, duration):
    """The same with HEAD. ab ends after so many requests or so many seconds, whichever is first."""
    said = run(
        [
            "ab",
            "-q",
            "-k",
            "-i",
            "-c",
            CONNECTIONS,
            "-t",
            duration,
            "-n",
            10_000_000,
            "-H",
            f"Accept: {accept}",
            f"{server.url}{path}",
        ]
    )
    wrong = [int(count) for count in re.findall(r"(?:Failed requests|Non-2xx responses):\s+(\d+)", said)]
    if any(wrong):
        raise Refused(f"HEAD {path}: {sum(wrong)} requests failed")
    slowest = float(re.search(r"^\s+99%\s+(\d+)", said, re.MULTILINE)[1]) / 1e3
    return {"requests": int(re.search(r"Complete requests:\s+(\d+)", said)[1]), "p99": slowest}


def check(server, method, path, accept, right):
    """That an answer is what is meant to be measured, before it is."""
    with connected(server) as client:
        answer = client.ask(method, path, 200, {"Accept": accept})
        if not right(answer):
            raise Refused(f"{method} {path}: not what was asked for: {answer.body[:200]!r}")
