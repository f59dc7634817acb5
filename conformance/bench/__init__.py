"""Speed, measured beside the peers: each registry in turns, on one machine, in one run.

    make bench                          everything; hours
    make bench BENCH=push,pull          some of it, by the names of rows or how they begin
    make bench BENCH=small BENCH_PEERS=dvcr,distribution BENCH_ROUNDS=5

`settings.py` has every setting. Tables, plots and raw results go to conformance/results/bench.

Modules, each with one idea: `inputs` (what is pushed), `peers` (who is raced, and how they are set up), `stores` (directories and
S3 servers), `servers` (a process of theirs), `measure` (what it took), `client` (pushes and pulls that cost next to nothing),
`load` (many small requests), `fill` (registries with many small things), `race` (whose turn it is), `floors` (what nobody can do
without), `metrics`, `table`, `plots` and `goals` (what it comes to). What is done is in `groups/`, a file for each part of the table.
"""

import pathlib
import sys

# The docker daemon and other things of the tests.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
