# Two commands do everything, set-up included: `make demo` and `make test`.

CARGO ?= $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)
export CARGO

.PHONY: help demo test build man setup lint fuzz clean

help:
	@echo "make demo    build, then watch servers move between two hosts while their clients keep talking (root)"
	@echo "make test    build, then all tests, formatting, lints and docs"
	@echo "make build   everything in release: roam, roam-bench, guests, netstack"
	@echo "make man     the manual pages, into target/man"
	@echo "make fuzz    fuzz all that decodes what others say for SECONDS (60) each; needs nightly and cargo-fuzz"
	@echo "make setup   install what is missing (called by the others)"

setup:
	@scripts/setup.sh

build: setup
	$(CARGO) build --release --workspace
	@scripts/build-wasm.sh target/wasm

man: setup
	$(CARGO) build --release -p roam-runtime
	target/release/roam man target/man

demo: setup
	$(CARGO) build --release -p roam-runtime
	target/release/roam demo --picture target/roam-demo.svg

# One profile for all, so that wasmtime is compiled once; clippy and rustdoc need only its metadata.
test: build lint
	$(CARGO) test --release --workspace

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --quiet

SECONDS ?= 60
fuzz: setup
	for target in $$($(CARGO) +nightly fuzz list); do $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(SECONDS) || exit 1; done

clean:
	$(CARGO) clean
