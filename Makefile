# The companion: `make book` builds it, `make test` tests it, `make help` lists the rest. All else happens in .venv.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
# nproc would take OMP_NUM_THREADS for the number of cores.
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV := .venv
BIN := $(VENV)/bin
ENVIRONMENT := $(VENV)/.ready
# Characters of code that a page shows without scrolling.
COLUMN := 89
CHECK := code/src/companion/build/environment.py
EXECUTED := _build/executed
WARM := _build/.warm
SITE := _build/html/claims.json
SCIENCE := $(shell find code/src/tokenmargin -name '*.py')
RUFF := --config code/ruff.toml
SECONDS := 300
# Longest time of one cell of a notebook, in seconds.
TIMEOUT := 900
export COMPANION_TIMEOUT := $(TIMEOUT)
# Texts are UTF-8 whatever the locale says.
export PYTHONUTF8 := 1
# Each of the many processes would compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE
# The shell sees neither as code.
export NOTEBOOK P

.PHONY: sound book site test fuzz corners faults verify links accessible pdf newest alone run lint format lock lab bench badge badge-check reference licences clean help

sound: $(ENVIRONMENT)
	@$(BIN)/python $(CHECK) check $(ENVIRONMENT) || { rm -rf $(VENV); make --no-print-directory $(ENVIRONMENT); }

book: sound  ## Execute what changed, render, check: the book is _build/html/index.html
	@$(BIN)/python -m companion.build.book --jobs $(JOBS)

# Only a whole file is read: a truncated one would break every target.
ifeq ($(shell tail -n 1 _build/dependencies.mk 2>/dev/null),WHOLE := yes)
include _build/dependencies.mk
endif

site: $(SITE)
	@:

$(SITE): $(addprefix $(EXECUTED)/,$(NOTEBOOKS)) $(PAGES) _build/commit
	@echo "  rendering"
	@$(BIN)/python -m companion.build.render

$(EXECUTED)/%.ipynb: | $(WARM)
	@$(BIN)/python -m companion.build.execute $*.ipynb $@
	@echo $*.ipynb >> _build/executed.log

# By time, not content: numba compares the times of its sources too.
$(WARM): $(SCIENCE) $(ENVIRONMENT)
	@mkdir -p _build
	@$(BIN)/python -m tokenmargin.warmup
	@touch $@

test: sound | $(WARM)  ## Run the tests on all cores, warnings as errors
	@$(BIN)/python -m pytest -c code/pytest.ini -n $(JOBS) --dist worksteal code/tests

fuzz: sound  ## Run the property-based tests with fresh seeds: make fuzz SECONDS=300, or SEED=123 to repeat one
	@$(BIN)/python code/tests/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

corners: sound | $(WARM)  ## Run chapters at the corners of their parameters: make corners NOTEBOOK=model (all: an hour)
	@$(BIN)/python code/tests/corners.py --jobs $(JOBS) $$NOTEBOOK

faults: sound  ## Disturb the build of a small book: signals, full disks, two builds at once (minutes)
	@$(BIN)/python -m pytest -c code/pytest.ini -m faults code/tests/companion/test_faults.py

verify: sound  ## Build twice, in two folders, and compare all bytes (minutes)
	@$(BIN)/python -m companion.build.verify

links: book  ## Ask every address outside that the book names
	@$(BIN)/jupyter-book build . --path-output _build/links --builder linkcheck

accessible: sound  ## Read every page of the built book with axe-core, in both themes and on a phone (minutes; needs Chromium)
	@$(BIN)/python -m companion.build.accessible _build/html

pdf: sound  ## Print the built book as one PDF, _build/companion.pdf (minutes; needs Chromium)
	@$(BIN)/python -m companion.build.pdf

newest:  ## The book and the tests with the newest versions that requirements.in allows, in an environment of their own
	@$(PYTHON) -m venv _build/newest
	@_build/newest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.in -e code
	@_build/newest/bin/python $(CHECK) record _build/newest/.ready
	@$(MAKE) --no-print-directory book test VENV=_build/newest

alone: sound  ## Install the package alone in an empty environment, import all of it, run the README's snippet
	@$(BIN)/python code/tests/alone.py

run: sound  ## Execute one chapter anew: make run NOTEBOOK=model P="-p seed 3"; without P it lists the parameters
	@test -n "$$NOTEBOOK" || { echo 'Say which: make run NOTEBOOK=model P="-p seed 3"' >&2; exit 2; }
	@$(BIN)/python -m companion.build.run "$$NOTEBOOK"

lint: sound  ## Check code, notebooks and workflows
	@$(BIN)/ruff check $(RUFF) code book
	@$(BIN)/ruff format --check $(RUFF) code
	@$(BIN)/ruff format --check $(RUFF) --line-length $(COLUMN) book
	@$(BIN)/python -m companion.build.clean --check
	@$(BIN)/mypy --config-file code/mypy.ini
	@$(BIN)/zizmor --offline --quiet .github/workflows
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

format: sound  ## Format the code and clean the notebooks
	@$(BIN)/ruff check --fix $(RUFF) code book
	@$(BIN)/ruff format $(RUFF) code
	@$(BIN)/ruff format $(RUFF) --line-length $(COLUMN) book
	@$(BIN)/python -m companion.build.clean

badge: sound  ## Write the README's line of claims and its picture from the built book
	@$(BIN)/python -m companion.build.badge

badge-check: sound
	@$(BIN)/python -m companion.build.badge --check
	@$(BIN)/python -m companion.build.reference --check

reference: sound  ## Take the values of the built book's claims as the references (book/reference.json)
	@$(BIN)/python -m companion.build.reference

bench: sound | $(WARM)  ## Time the engine, the token SVM, large problems and a sweep (BENCH=--record keeps it)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python code/benchmarks/bench.py $(BENCH)

licences: sound  ## List the licence of every installed dependency
	@$(BIN)/python -m companion.build.licences

lab: sound  ## Open JupyterLab in the book's environment
	@$(BIN)/jupyter lab book

lock: $(ENVIRONMENT)  ## Compile requirements.in anew (needs uv)
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet \
	  --custom-compile-command "make lock" requirements.in -o requirements.txt

$(ENVIRONMENT): requirements.txt code/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The companion needs Python 3.11 or newer; set one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "  making the environment $(VENV) (about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null; then \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e code; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e code; \
	fi
	@$(BIN)/python $(CHECK) record $@

clean:  ## Remove all that was built (the environment stays)
	@rm -rf _build

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'
