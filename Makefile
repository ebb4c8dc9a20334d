# SPDX-License-Identifier: Apache-2.0
# Every target does its own set-up (scripts/setup.sh, skipped in a fraction of a second when nothing changed).
# PRESET=tiny, OUT=folder and ARGS='...' reach the instinfer command of `demo`, `rtl` and `bench`; ARGS also reaches
# pytest, which runs WORKERS test files at once. BENCHES='latency sparf' chooses what `bench` runs, SUITES='tests/hw/axi'
# what `coverage` runs, and BLOCKS='axi stream' the blocks that it judges (all).

SHELL := bash
.DEFAULT_GOAL := help
PRESET ?= product
OUT ?= hw/rtl/generated/$(PRESET)
ARGS ?=
WORKERS ?= 2
BENCHES ?= dense sketch
SUITES ?= tests/hw $(addprefix tests/system/test_,$(addsuffix .py,\
	engine_under_cocotb driver_over_rtl int8_over_rtl sketch_over_rtl sparf_over_rtl protection))
BLOCKS ?=
# One BLAS thread: the products here are small, and the simulator wants the other core.
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" OPENBLAS_NUM_THREADS=1

.PHONY: help setup demo test soak formal coverage lint rtl bench report cost boards clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## system packages, .venv, Verilator, model file
	@scripts/setup.sh

demo: ## SmolLM2-135M decodes text, attention computed by the RTL out of simulated flash
	@scripts/setup.sh --quiet
	@echo "demo: instinfer demo $(ARGS)"
	@$(RUN) instinfer demo $(ARGS)

test: lint ## style, types and every test but the long ones
	@echo "test: pytest (long runs are left to make soak)"
	@$(RUN) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

soak: ## the long tests
	@scripts/setup.sh --quiet
	@echo "soak: pytest -m soak"
	@$(RUN) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m soak $(ARGS)

formal: ## proofs of the small parts, broken controls included
	@scripts/setup.sh --quiet
	@echo "formal: pytest -m 'formal or not formal' tests/formal"
	@$(RUN) pytest -n $(WORKERS) -m "formal or not formal" tests/formal $(ARGS)

coverage: ## lines, toggles, commands and faults that the suites reach, into build/coverage; fails below 95 % of a block's lines
	@scripts/setup.sh --quiet
	@rm -rf build/coverage
	@echo "coverage: pytest $(SUITES)"
	@$(RUN) INSTINFER_COVERAGE="$(CURDIR)/build/coverage" pytest -n $(WORKERS) --dist loadfile -o timeout=3600 $(SUITES) $(ARGS)
	@$(RUN) python -m instinfer.cosim.coverage build/coverage --exceptions tests/coverage.toml $(if $(BLOCKS),--blocks $(BLOCKS))

lint: ## ruff and mypy
	@scripts/setup.sh --quiet
	@echo "lint: ruff check, mypy"
	@$(RUN) ruff check
	@$(RUN) mypy

rtl: ## the engine's Verilog and manifest.json, into hw/rtl/generated/PRESET
	@scripts/setup.sh --quiet
	@echo "rtl: instinfer generate --preset $(PRESET) -o $(OUT) $(ARGS)"
	@$(RUN) instinfer generate --preset $(PRESET) -o $(OUT) $(ARGS)

bench: ## cycles of dense attention and of a sketch policy against the bounds, measured on the RTL
	@scripts/setup.sh --quiet
	@set -e; for each in $(BENCHES); do \
		echo "bench: instinfer bench $$each --preset $(PRESET) $(ARGS)"; \
		$(RUN) instinfer bench $$each --preset $(PRESET) $(ARGS); \
	done

report: ## the performance model's page, pictures and tables, into reports/perf
	@scripts/setup.sh --quiet
	@echo "report: instinfer perf report -o reports/perf $(ARGS)"
	@$(RUN) instinfer perf report -o reports/perf $(ARGS)

cost: ## resources of the presets in hw/rtl/cost: fails when a block grew by 10 % without being committed
	@scripts/setup.sh --quiet
	@set -e; for table in hw/rtl/cost/*.json; do \
		[ -e "$$table" ] || { echo "cost: no table is committed: instinfer synth --preset PRESET --update"; exit 1; }; \
		preset=$$(basename $$table .json); \
		echo "cost: instinfer synth --preset $$preset --check $(ARGS)"; \
		$(RUN) instinfer synth --preset $$preset --check $(ARGS); \
	done

boards: ## files for every FPGA board into build/boards, checked with open tools
	@scripts/setup.sh --quiet
	@echo "boards: instinfer boards all -o build/boards $(ARGS)"
	@$(RUN) instinfer boards all -o build/boards $(ARGS)

clean: ## remove builds, runs, reports, generated Verilog and test caches (.venv and the model file stay)
	@echo "clean: removing builds, runs, reports, generated Verilog and test caches"
	@rm -rf .cache/build .cache/synth .cache/runs .cache/ccache build reports hw/rtl/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find cosim hw sw tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
