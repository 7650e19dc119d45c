# The project's commands. Everything is built by one profile and as one workspace, so that RocksDB
# is compiled once whatever you run first.

CARGO_TARGET_DIR ?= $(HOME)/.cache/meridian/target
export CARGO_TARGET_DIR

# Flags of every cargo command. Never -p: a single package unifies features differently.
BUILD := --release --workspace --locked
BIN := $(CARGO_TARGET_DIR)/release

# Passed on: `make demo ARGS=--no-delay`, `make bench ARGS=--quick`, `make simulate SEEDS=100000`.
ARGS ?=
SEEDS ?= 1000

MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help demo up test simulate bench lint docs build setup clean

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: ## the whole main job on this machine: three regions, Postgres, cuts, a region that dies
	@scripts/demo $(ARGS)

up: build ## three regions that keep running, with the addresses to talk to them
	@$(BIN)/meridian up $(ARGS)

test: setup ## every test, the same way as CI
	@cargo test $(BUILD)

simulate: build ## many seeds of simulated clusters: SEEDS=100000; one of them again: SEED=42
	@$(BIN)/meridian-simulate $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

bench: build ## side by side with redis-server: throughput, CPU, bytes on the wire, lag
	@$(BIN)/meridian-bench $(ARGS)

lint: setup ## formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy $(BUILD) --all-targets -- -D warnings

docs: setup ## API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc $(BUILD) --no-deps

build: setup ## all binaries
	@cargo build $(BUILD)

setup: ## install what is missing (make setup is part of every command)
	@scripts/setup

clean: ## remove everything that was built
	cargo clean
