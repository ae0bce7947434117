# `make help` lists the targets. Everything runs in .venv, which any target makes when it is missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
# uv is used from the machine when it is there, and otherwise installed into a folder of its own.
UV := $(shell command -v uv || echo .venv-uv/bin/uv)
RUN := .venv/bin/

.venv-uv/bin/uv:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet uv

.venv/.ready: pyproject.toml uv.lock | $(if $(findstring .venv-uv,$(UV)),.venv-uv/bin/uv)
	$(UV) sync --locked --all-extras --quiet
	@touch $@

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

test: .venv/.ready ## All tests
	$(RUN)pytest

unit: .venv/.ready ## The fast tests
	$(RUN)pytest

check: lint imports test ## What CI runs

lint: .venv/.ready ## Style
	$(RUN)ruff check src tests

imports: .venv/.ready ## The layers
	$(RUN)lint-imports

fix: .venv/.ready ## Change what can be changed automatically
	$(RUN)ruff check --fix src tests

.PHONY: help test unit check lint imports fix
