# The user's interface. `make help` lists what there is; every target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PAPERS   ?=
PROFILE  ?= laptop
JOBS     ?=
EXECUTOR ?= local
SEED     ?= 0
SEEDS    ?=
FORCE    ?=
PYTHON   ?= python3

# A prepared interpreter (conda, a GPU box with its own torch) is used as it is when SHEAF_PYTHON names it.
ifdef SHEAF_PYTHON
PY := $(SHEAF_PYTHON)
READY :=
else
PY := .venv/bin/python
READY := .venv/.sheaf-$(shell cat pyproject.toml constraints.txt requirements.lock | sha256sum | cut -c1-16)
endif
# Ctrl-C is held back while Python starts, which would answer with a traceback; `python -m sheaf` lets it through
HOLD := $(shell env --block-signal=INT true 2>/dev/null && echo env --block-signal=INT)
export PYTHONPATH := $(CURDIR)/lib:$(CURDIR)/kernels
export SHEAF_SEEDS := $(SEEDS)

.PHONY: help reproduce test lab report bench kernels data lint lock clean store why status setup system unit slow notebooks-check prove

help: ## this page
	@printf '\n  Sheaf: machine-learning papers, bound as software.\n\n'
	@printf '  Two commands do everything, set-up included:\n'
	@printf '    make reproduce       run the notebooks, judge the claims, build results/index.html\n'
	@printf '    make test            lint, unit tests, real browser, every notebook against its stored outputs\n\n'
	@printf '  All targets:\n'
	@sed -nE 's/^([a-z-]+):.*## (.*)/    make \1\t\2/p' Makefile | expand -t 25
	@printf '\n  Variables (make reproduce PAPERS=decentralized PROFILE=smoke):\n'
	@printf '    PAPERS    which papers, space or comma between them     (all)\n'
	@printf '    PROFILE   smoke, laptop, gpu or paper                   (laptop)\n'
	@printf '    JOBS      notebooks at the same time                    (number of cores)\n'
	@printf '    EXECUTOR  local or slurm                                (local)\n'
	@printf '    SEED      base seed of every random draw                (0)\n'
	@printf '    SEEDS     how many seeds, for narrower intervals        (as in paper.toml)\n'
	@printf '    FORCE     1 runs again what is already up to date\n'
	@printf '    SHEAF_DATA     folder of data that is not ours to ship  (data/external)\n'
	@printf '    SHEAF_PYTHON   a prepared interpreter instead of .venv\n\n'

reproduce: $(READY) ## run what is out of date, judge, build the report
	@$(HOLD) $(PY) -m sheaf reproduce --papers "$(PAPERS)" --profile "$(PROFILE)" --jobs "$(JOBS)" --executor "$(EXECUTOR)" --seed "$(SEED)" $(if $(filter-out 0,$(FORCE)),--force)

test: $(READY) system kernels lint unit slow notebooks-check ## everything CI runs
	@$(PY) -m sheaf check
	@printf '\nmake test: all passed\n'

# one thread a test: two processes of two threads each would wait for one another on two cores
ONE_THREAD := env OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

unit: $(READY)
	@printf '\n== unit tests, kernels and browser\n'
	@$(ONE_THREAD) $(PY) -m pytest tests -q -n 2 -m 'not slow' --dist loadscope

slow: $(READY)
	@printf '\n== promises: kill, resume, refuse, recover\n'
	@$(ONE_THREAD) $(PY) -m pytest tests -q -n 2 -m slow --dist loadfile --no-loadscope-reorder

notebooks-check: $(READY)
	@printf '\n== notebooks against their stored outputs\n'
	@env -u SHEAF_DATA $(PY) -m pytest -q -p sheaf.artifact.nbval_plugin --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg \
	  --nbval-cell-timeout 300 -n 2 --dist loadscope notebooks

prove: $(READY) system kernels ## every promise at full size; writes results/promises/record.json
	@code=0; SHEAF_PROVE=1 $(PY) -m pytest tests/promises -q -n 2 --dist load --maxschedchunk 1 --timeout 3600 || code=$$?; \
	  $(PY) -m sheaf report; exit $$code

lab: $(READY) kernels ## explore the notebooks in JupyterLab
	@$(PY) -m sheaf data >/dev/null
	@$(PY) -m jupyterlab notebooks/start_here.ipynb

report: $(READY) ## rebuild results/index.html and the README's score board from the records
	@$(PY) -m sheaf report

bench: $(READY) kernels ## kernels and papers against their best baselines, and the cost of the foundation itself
	@$(PY) -m sheaf bench

kernels: $(READY) system ## compile the kernels once
	@basename -a $$(dirname kernels/sheaf_kernels/*/cpu.cpp) | xargs -P "$$(nproc)" -I{} sh -c 'said=$$($(PY) -m sheaf_kernels.build {}); code=$$?; echo "$$said"; exit $$code'

data: $(READY) ## check shipped data and say which external data is present
	@$(PY) -m sheaf data

lint: $(READY) ## ruff and mypy
	@printf '\n== lint and types\n'
	@$(PY) -m ruff check lib kernels tests
	@$(PY) -m mypy

store: $(READY) kernels ## run notebooks at smoke size and store their outputs
	@$(PY) -m sheaf store $(PAPERS)

why: $(READY) ## what would run again, and why
	@$(PY) -m sheaf why --profile "$(PROFILE)" $(PAPERS)

status: $(READY) ## what is done, stale, failed or never run
	@$(PY) -m sheaf status --profile "$(PROFILE)" $(PAPERS)

clean: ## remove what a run leaves behind, keep results and the virtual environment
	rm -rf .sheaf .snakemake build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lib kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(READY) # constraints.txt from what is installed, requirements.lock from it; run the tests before committing them
	@{ head -1 constraints.txt; .venv/bin/pip freeze --all --exclude-editable --exclude pip | sed -E 's/\+cpu$$//' | sort -f; } > constraints.new
	@mv constraints.new constraints.txt
	@{ grep '^#' requirements.lock; grep -v '^torch==' constraints.txt | $(PY) -m uv pip compile - --no-deps --generate-hashes --no-header --no-annotate --quiet; } > requirements.new
	@mv requirements.new requirements.lock

setup: $(READY) system ## the virtual environment, system packages and nothing else

.venv/.sheaf-%:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "sheaf: error: Python 3.11 or newer is needed; install it or name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@bash lib/sheaf/artifact/setup.sh "$(PYTHON)" .venv
	@rm -f .venv/.sheaf-* && touch $@

system:
	@bash lib/sheaf/artifact/setup.sh --system
