# make quickstart: environment, the whole comparison on the embedded digits, the table.   make test: the tests.
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.installed
	$(BIN)/ddoq sweep quickstart

test: $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .

# Debian's python3 comes without venv: as root it is installed, otherwise the message says what to do
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; if it has another name, say make PYTHON=..."; exit 1; }
	@test -x $(BIN)/pip || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq python3-venv \
			&& $(PYTHON) -m venv $(VENV); } \
		|| { echo "Python's venv is missing; install it (on Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist
