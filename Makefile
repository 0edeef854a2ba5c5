# make quickstart: environment, the whole comparison on the embedded digits, the table.   make test: the tests.
VENV ?= .venv
BIN := $(VENV)/bin
# the extra `ddranking` needs other versions of a few packages (NumPy below 2): a second environment over the first
HOST := $(VENV)/ddranking
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# NumPy below 2 has wheels up to Python 3.12; beyond that the tests of DD-Ranking itself are left out
HOST_FITS := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info < (3, 13) else "")'))

.PHONY: quickstart test test-main test-ddranking lint campaign clean

quickstart: $(VENV)/.installed
	$(BIN)/ddoq sweep quickstart

test: test-main test-ddranking

test-main: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

ifeq ($(HOST_FITS),yes)
test-ddranking: $(HOST)/.installed
	$(HOST)/bin/python -m pytest tests/hosts
else
test-ddranking:
	@echo "left out: the tests of DD-Ranking itself, which needs NumPy below 2 and so Python 3.11 or 3.12"
endif

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports
	$(BIN)/mypy

# kills, damage, full disks and bad inputs, for some minutes; see benchmarks/campaign.py
campaign: $(VENV)/.installed
	$(BIN)/python benchmarks/campaign.py

# Debian's python3 comes without venv: as root it is installed, otherwise the message says what to do
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; if it has another name, say make PYTHON=..."; exit 1; }
	@test -x $(BIN)/pip || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq python3-venv \
			&& $(PYTHON) -m venv $(VENV); } \
		|| { echo "Python's venv is missing; install it (on Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What the first environment has (torch: gigabytes) is found through a .pth file, after the second's own packages; pip
# sees both and installs only what must differ.
$(HOST)/.installed: $(VENV)/.installed constraints-ddranking.txt
	@test -x $(HOST)/bin/pip || $(BIN)/python -m venv $(HOST)
	@lower=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sep="\n")'); \
		echo "$$lower" > $$($(HOST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first_environment.pth
	$(HOST)/bin/pip install --quiet --constraint constraints-ddranking.txt --editable '.[ddranking]'
	@touch $@

clean:
	rm -rf $(VENV) build dist
