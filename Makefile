# One profile everywhere, release: a clean RocksDB build takes tens of minutes, and no target should start a second one.
# CARGO_TARGET_DIR and LIBCLANG_PATH are respected; ARGS goes to the program of `make demo`.

CARGO ?= cargo
ARGS ?=

export PATH := $(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

# Homebrew on Apple silicon keeps libclang where bindgen does not look. Apple's own tools come first.
ifeq ($(wildcard /Library/Developer/CommandLineTools/usr/lib/libclang.dylib),)
ifneq ($(wildcard /opt/homebrew/opt/llvm/lib/libclang.dylib),)
export LIBCLANG_PATH ?= /opt/homebrew/opt/llvm/lib
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup lint-tools build demo test test-stores soak bench check

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what building takes: a C++20 compiler, make, libclang
	@scripts/setup.sh

lint-tools:
	@scripts/setup.sh --lint

build: setup ## Builds everything (RocksDB first: about 20 minutes on 2 cores, once)
	$(CARGO) build --release --workspace

demo: setup ## Counts words, dies, loses its disk and comes back: eager against lazy
	$(CARGO) run --release --package lazurite-cli -- demo $(ARGS)

test: setup ## Runs all tests that need no server
	$(CARGO) test --release --workspace
	@[ -n "$$LAZURITE_TEST_S3_URI" ] || echo "left out: the S3 tests (make test-stores, or set LAZURITE_TEST_S3_URI)"
	@[ -n "$$LAZURITE_TEST_HDFS_URI" ] || echo "left out: the HDFS tests (make test-stores, or set LAZURITE_TEST_HDFS_URI)"
	@[ -n "$$LAZURITE_TEST_SERVERS" ] || echo "left out: the tests that kill servers (make test-stores)"

# One build for both: with other packages named, other features of dependencies would have everything compiled again.
test-stores: setup ## Installs and starts S3 and HDFS servers (Debian 12), runs the tests of stores, stops them
	$(CARGO) test --release --workspace --test stores --test cli --no-run
	tests/servers/test.sh $(CARGO) test --release --workspace --test stores

soak: setup ## Everything at random for half an hour, against a model (make test does two minutes of it)
	LAZURITE_SOAK_SECONDS=$${LAZURITE_SOAK_SECONDS:-1800} $(CARGO) test --release --workspace --test soak -- --nocapture

bench: setup ## Local reads and writes against plain RocksDB, then the cold start
	$(CARGO) bench --profile release --package lazurite-benches
	$(CARGO) run --release --package lazurite-cli -- bench cold-start --files 200 --state-mib 1024 --latency-ms 10 --bandwidth-mbps 1000
	$(CARGO) run --release --package lazurite-cli -- bench cold-start --files 2000 --state-mib 1024 --latency-ms 10 --bandwidth-mbps 1000

check: lint-tools ## Formatting, clippy and rustdoc; any warning fails
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/servers/delay/Cargo.toml --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --manifest-path tests/servers/delay/Cargo.toml -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck --external-sources scripts/*.sh tests/servers/*.sh .ci/run; fi
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps
