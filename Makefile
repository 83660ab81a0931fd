# What a developer types. Python 3.11 and Rust are all it needs; dev/bootstrap.py brings the rest into .tools.

TOOLS := .tools/bin
SERVERS := python3 dev/servers.py run --
TARGET = $(shell rustc --print host-tuple)

help: ## this list
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/  make \1\t\2/p' Makefile

demo: ## a real OpenBao and PostgreSQL, two pods, their files, and what errors look like
	python3 dev/demo.py

# Tests of lifetimes mostly wait.
test: ## every test, against real servers; ARGS go to cargo test
	python3 dev/bootstrap.py servers grpc
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} $(SERVERS) cargo test $(ARGS)

prometheus: ## a real Prometheus scrapes, as Debian has it
	python3 dev/bootstrap.py servers prometheus
	$(SERVERS) cargo test --test integration -- --ignored prometheus

lint: ## formatting, clippy, dependencies, Dockerfile
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	python3 dev/bootstrap.py lint
	$(TOOLS)/cargo-deny check licenses bans sources
	@if $(TOOLS)/cargo-deny fetch db 2>/dev/null; then $(TOOLS)/cargo-deny check advisories; \
	else echo "advisories not checked: their database cannot be fetched from here"; fi
	$(TOOLS)/hadolint Dockerfile

# The same build as the Dockerfile's.
image: ## the container image as an OCI archive, without a container engine
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target $(TARGET)
	python3 dev/image.py $${CARGO_TARGET_DIR:-target}/$(TARGET)/release/vaultmount

e2e: image ## real Kubernetes, both drivers, real pods; ARGS go to pytest
	python3 dev/bootstrap.py servers grpc e2e
	python3 tests/e2e/cluster.py run -- $(TOOLS)/python -m pytest tests/e2e $(ARGS)

bench: ## the benchmark, against real servers; ARGS go to it
	$(SERVERS) cargo bench --bench mount -- $(ARGS)

MINUTES := 10

soak: ## the tests that take minutes, then pods that come and go under faults for MINUTES (10)
	python3 dev/bootstrap.py servers
	$(SERVERS) cargo test --test integration -- --ignored --skip prometheus
	$(SERVERS) cargo bench --bench soak -- $(MINUTES)

fleet: ## writes docs/fleet.md: what thousands of nodes ask of Vault and of the API server, in virtual time
	cargo bench --profile fleet --bench fleet

# By way of the build's folder: the page in place is compiled into a test, and a failed run must not empty it.
docs: ## writes docs/errors.md from the table of causes
	cargo run --quiet -- explain --markdown > target/errors.md
	mv target/errors.md docs/errors.md

book: ## builds docs/ as a book, into target/book
	python3 dev/book.py

fmt: ## formats the code
	cargo fmt

clean: ## removes everything built or installed here
	cargo clean
	rm -rf .tools

.PHONY: help demo test prometheus lint image e2e bench soak fleet docs book fmt clean
