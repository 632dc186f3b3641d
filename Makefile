# `make` lists what there is. Every target does its own set-up, and is quick when there is nothing to do.

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
GET := ./tests/tools/get.sh
# cargo-nextest where it is installed, cargo's own runner elsewhere.
TEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test)
# What the program is built with beside what it has anyway: FEATURES=otlp.
WITH = $(if $(FEATURES),--features $(FEATURES))
# The binary under test can do things that tests need and no other binary must.
TESTING := --features forebay/testing,forebay/otlp

.DEFAULT_GOAL := help
.PHONY: help build demo test lint bench soak test-tools advisories released dist deb

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## target/release/forebay, and a nats-server for it where the machine has none; FEATURES=otlp for OpenTelemetry
	@$(GET) nats
	cargo build --release --package forebay $(WITH)

demo: build ## a real Celery app beside Forebay: what became of each job; stays up until Ctrl-C
	@$(GET) redis celery
	@"$(TARGET)/venv/bin/python" tests/demo/demo.py --forebay "$(TARGET)/release/forebay"

test: test-tools ## every test, with real servers, a real broker and real workers
	cargo build --workspace --all-targets $(TESTING)
	FOREBAY_BIN="$(TARGET)/debug/forebay" cargo $(TEST) --workspace --all-targets $(TESTING)
	cargo test --workspace --doc --quiet $(TESTING)

lint: ## format, clippy, and licences and sources of dependencies where cargo-deny is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(TESTING) -- -D warnings
# What is shipped is without OpenTelemetry.
	cargo clippy --package forebay --all-targets --features testing -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check licenses bans sources; \
	else echo 'cargo-deny is not installed: licences, bans and sources of dependencies were not checked'; fi

advisories: ## known security holes in dependencies; needs cargo-deny and the network
	cargo deny --all-features check advisories

# What a release is made for: this machine, or a target that rustup has (`rustup target add x86_64-unknown-linux-musl`).
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
FOR := $(HOST)
NATS = $(or $(wildcard $(TARGET)/release/nats-server),$(shell command -v nats-server))
ifeq ($(FOR),$(HOST))
RELEASED := $(TARGET)/release/forebay
else
RELEASED := $(TARGET)/$(FOR)/release/forebay
endif
MADE_OF = --binary "$(RELEASED)" --nats "$(NATS)" --target $(FOR) --out "$(TARGET)/dist" $(WITH)

released:
	@$(GET) nats
	cargo build --release --locked --package forebay $(WITH) $(if $(filter-out $(HOST),$(FOR)),--target $(FOR))

dist: released ## target/dist: the archive of a release, its SBOM and checksums; FOR=x86_64-unknown-linux-musl for another target
	@crates/forebay/packaging/dist.py archive $(MADE_OF)

deb: released ## target/dist: the Debian package, on Debian or Ubuntu
	@crates/forebay/packaging/dist.py deb $(MADE_OF)

bench: build ## the speed figures, beside Flower's, as a table; BENCH='--json' for JSON, BENCH='--quick' for a short run
	@$(GET) redis rabbitmq flower
	FOREBAY_BIN="$(TARGET)/release/forebay" cargo run --release --package forebay-tests --bin bench -- $(BENCH)

# With the checks of a debug build: a number that overflows is what hostile bytes are after.
FUZZ = PROPTEST_CASES=$(or $(PROPTEST_CASES),20000) cargo test --profile fuzz
# How long each of them takes, and by which variables it is made shorter, is in crates/README.md.
SOAK = FOREBAY_BIN="$(TARGET)/release/forebay" cargo test --release --package forebay-tests --test e2e -- \
	--include-ignored --nocapture --test-threads 1

soak: build test-tools ## the long proofs, some three hours: more cases of every property, faults by the hundred, floods with outages, a large spool, downtime, half an hour with readers, every version of Celery with every pool
	$(FUZZ) --package proto-events --package projection
	$(FUZZ) --package sources --lib --test hostile --test corpus --test spec --test bounded
	$(FUZZ) --package event-log --package views --package api --package forebay --lib --bins --test it --test log -- whatever_ whichever_ damaged_
	OUTAGE_RATE=$(or $(OUTAGE_RATE),20000) OUTAGE_SECONDS=$(or $(OUTAGE_SECONDS),30) \
		$(SOAK) crashes::outages rabbitmq::nothing_that
	SOAK_ROUNDS=$(or $(SOAK_ROUNDS),200) SOAK_SEED=$(or $(SOAK_SEED),1) $(SOAK) crashes::faults
	$(SOAK) crashes::spool::a_large crashes::spool::a_full
	TORN_WAYS=$(or $(TORN_WAYS),5) $(SOAK) torn::
	$(SOAK) lost::after_five
	$(SOAK) soak::
	$(SOAK) dashboard::with_a_million
	$(SOAK) matrix::every_version

test-tools: ## what the tests need beside the toolchain: nats-server, Redis, RabbitMQ, Prometheus, Celery, Flower, schemathesis, a provider of OpenID Connect, a receiver of OpenTelemetry, Helm, a proxy, a browser
	@$(GET) nats nats-old redis rabbitmq prometheus flower celery celery-5.4 celery-5.5 celery-5.6 celery-5.7 schemathesis oidc otlp helm nginx browser
