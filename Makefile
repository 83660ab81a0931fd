# Commands for development. They need only Python 3.11 and Rust. dev/bootstrap.py installs the rest into .tools.

TOOLS := .tools/bin
SERVERS := python3 dev/servers.py run --
TARGET = $(shell rustc --print host-tuple)

help: ## lists the targets
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/  make \1\t\2/p' Makefile

demo: ## runs a real OpenBao and PostgreSQL, mounts for two pods, and shows their files and typical errors
	python3 dev/demo.py

# Tests of lifetimes mostly wait, so 6 tests run in parallel by default, on any number of cores.
test: ## runs every test against real servers, passes ARGS to cargo test
	python3 dev/bootstrap.py servers grpc
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} $(SERVERS) cargo test $(ARGS)

prometheus: ## lets a real Prometheus (Debian's package) scrape vaultmount
	python3 dev/bootstrap.py servers prometheus
	$(SERVERS) cargo test --test integration -- --ignored prometheus

lint: ## checks formatting, clippy, Python, dependencies and the Dockerfile
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	python3 dev/bootstrap.py lint
	$(TOOLS)/ruff check --no-cache
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links -A rustdoc::private_intra_doc_links" cargo doc --quiet --no-deps --document-private-items
	$(TOOLS)/cargo-deny check licenses bans sources
	@if $(TOOLS)/cargo-deny fetch db 2>/dev/null; then $(TOOLS)/cargo-deny check advisories; \
	else echo "advisories not checked: the advisory database cannot be fetched"; fi
	$(TOOLS)/hadolint Dockerfile

# The build flags are those of the Dockerfile.
image: ## builds the container image as an OCI archive, without a container engine
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target $(TARGET)
	python3 dev/image.py $${CARGO_TARGET_DIR:-target}/$(TARGET)/release/vaultmount

e2e: image ## runs a real Kubernetes with both drivers and real pods, passes ARGS to pytest
	python3 dev/bootstrap.py servers grpc e2e
	python3 tests/e2e/cluster.py run -- $(TOOLS)/python -m pytest tests/e2e $(ARGS)

bench: ## runs the benchmark against real servers, passes ARGS to it
	$(SERVERS) cargo bench --bench mount -- $(ARGS)

MINUTES := 10

soak: ## runs the tests that take minutes, then starts and stops pods under faults for MINUTES (10)
	python3 dev/bootstrap.py servers
	$(SERVERS) cargo test --test integration -- --ignored --skip prometheus
	$(SERVERS) cargo bench --bench soak -- $(MINUTES)

fleet: ## writes docs/fleet.md: simulates the load of thousands of nodes on Vault and the API server in virtual time
	cargo bench --profile fleet --bench fleet

# The output goes to target/ first: docs/errors.md is compiled into a test, and a failed run must not truncate it.
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
