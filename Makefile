# make demo | test | e2e | lint | docs | install. Needs python3 (3.11 or newer), make, git; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DELETE_ON_ERROR:
.PHONY: demo test e2e lint docs install format system clean help

help:
	@echo "make demo     train a federated model on synthetic lesions and write a report"
	@echo "make test     run the tests, with one whole deployed federation"
	@echo "make e2e      the tests with whole processes: a federation that is killed, cut off, filled up, attacked; and the longest"
	@echo "make lint     ruff, mypy"
	@echo "make docs     the documentation as a site, in site/"
	@echo "make install  set up $(VENV) only"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "melfed needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing melfed and what it needs into $(VENV) (several GB of PyTorch; some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/melfed-sim run simulations/studies/demo.yaml

# The report's page is tested in a real browser, and the federation behind a real nginx, where they can be installed;
# elsewhere those tests are skipped with a reason.
system:
	@{ command -v chromium && command -v chromedriver && PATH="$$PATH:/usr/sbin" command -v nginx; } >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && { apt-get update -qq; apt-get install -y -qq chromium chromium-driver nginx-light >/dev/null; } \
	  || echo "no chromium, chromedriver or nginx: their tests will be skipped"; }

# One thread each: tests run side by side.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# One federation a file. First those that wait for minutes (a network that is cut off), so that nothing waits for them.
E2E := $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder tests/e2e/test_network.py tests/e2e

# Those that take minutes beside a shorter test of the same.
EXHAUSTIVE := $(PYTEST) -n 2 --dist worksteal -m exhaustive --ignore tests/e2e

# Everything in one process each, and one whole deployed federation against its simulation; `make e2e` breaks them.
test: $(STAMP) system
	$(PYTEST) -n 2 --dist worksteal -m "not exhaustive" --ignore tests/e2e
	$(PYTEST) -n 0 tests/e2e/test_deployment.py

e2e: $(STAMP) system
	$(E2E)
	$(EXHAUSTIVE)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Strict: a link that leads nowhere, or a page that is not in the navigation, is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html; with its search: $(BIN)/python -m http.server --directory site"

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
