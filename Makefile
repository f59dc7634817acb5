# Every target is what CI runs; there is no other way to build or test.

CARGO ?= cargo
export CARGO_TERM_PROGRESS_WHEN ?= never

.PHONY: help check advisories test unit conformance soak-collect soak-clients soak-kills soak-power bench bench-import bench-series bench-cutters bench-fill bench-floors bench-loops build clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## The binary, target/release/dvcr
	$(CARGO) build --release --locked

check: ## Format, lints, documentation, licences
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked --quiet
	conformance/deny

advisories: ## Dependencies that are known to be vulnerable, by RustSec's database (from github.com)
	conformance/deny advisories

unit: ## Unit and engine tests, and the contract on every backend (starts an S3 server)
	conformance/with-s3 $(CARGO) test --workspace --all-features --locked

conformance: build ## The built binary against real clients, real servers and the official suite
	conformance/with-s3 conformance/pytest

test: check unit conformance ## Everything, from a fresh machine

soak-collect: build ## A hundred thousand events, real programs among them, against collection; CONFORMANCE_SEED and CONFORMANCE_EVENTS (on each backend)
	CONFORMANCE_EVENTS=$${CONFORMANCE_EVENTS:-50000} conformance/with-s3 conformance/pytest -s conformance/tests/test_soak.py -k everybody

soak-clients: build ## 64 clients for ten minutes while one of two replicas is killed; CONFORMANCE_SEED and CONFORMANCE_SECONDS
	CONFORMANCE_SECONDS=$${CONFORMANCE_SECONDS:-600} conformance/with-s3 conformance/pytest -s conformance/tests/test_soak.py -k replicas

soak-kills: build ## Kill servers two thousand times; CONFORMANCE_SEED and CONFORMANCE_KILLS (of each backend) choose another run
	CONFORMANCE_KILLS=$${CONFORMANCE_KILLS:-1000} conformance/with-s3 conformance/pytest -s conformance/tests/test_kills.py

soak-power: build ## Cut the power a thousand times; CONFORMANCE_SEED, CONFORMANCE_SECONDS (recorded) and CONFORMANCE_CUTS choose another run
	CONFORMANCE_SECONDS=$${CONFORMANCE_SECONDS:-20} CONFORMANCE_CUTS=$${CONFORMANCE_CUTS:-1000} \
	  conformance/with-s3 conformance/pytest -s conformance/tests/test_power_cuts.py

bench: build ## Speed beside the peers, hours; BENCH=push,pull chooses rows (BENCH=list names them), BENCH_SIZE the MiB of a blob
	conformance/bench/run

bench-import: build ## dvcr import and pull beside sha256 and the decompressors alone
	conformance/setup >/dev/null
	python3 conformance/bench_import.py

bench-series: build ## What ten versions of a Debian disk cost to store, beside Debian's docker-registry; takes root
	conformance/setup >/dev/null
	python3 conformance/bench_series.py

bench-cutters: ## New bytes of versions of a disk for several ways to cut it into chunks; takes root
	$(CARGO) build --release --locked --example compare_cutters
	conformance/setup >/dev/null
	python3 conformance/bench_cutters.py

bench-fill: build ## A VMDisk filled from DVCR by our Job, and by CDI's importer from its registry and http sources; takes root
	conformance/setup >/dev/null
	python3 conformance/bench_fill.py

bench-loops: ## The loops through which every byte goes, each alone, beside the last run here; a few minutes
	$(CARGO) bench --locked --bench inner_loops

bench-floors: build ## CPU and time of push and pull beside sha256, blake3, zstd and writing alone, and docker-registry
	$(CARGO) build --release --locked --example floors
	conformance/setup >/dev/null
	python3 conformance/bench_floors.py

clean: ## Build results and test reports; the tools in the cache stay
	$(CARGO) clean
	rm -rf conformance/results
