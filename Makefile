# `make demo` and `make test` do all of their set-up themselves: Python 3.11 or newer, make and pip are enough.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PACKAGES := align converters fixtures models_paddle models_torch

.PHONY: demo test lint types pytest selftest wheel clean

demo: $(READY)
	@rm -rf .demo && mkdir .demo
	@BIN="$(CURDIR)/$(BIN)" sh fixtures/demo.sh

test: lint types pytest selftest wheel

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q --disable-pip-version-check -e '.[torch,paddle,dev]'
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .

# The package's root is the repository's, so mypy gets to see it under its installed name.
types: $(READY)
	@mkdir -p build/types && ln -sfn ../.. build/types/stdc_parity
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -m stdc_parity.cli \
	    $(foreach package,$(PACKAGES),-p stdc_parity.$(package))

pytest: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not slow"

# Every port bug of the corpus, planted: found, named, explained; and no false alarm.
selftest: $(READY)
	$(BIN)/stdc-align selftest

# What users install, in a clean environment without a framework: converts, and asks for the framework it lacks.
wheel: $(READY)
	rm -rf build/lib build/wheel build/clean
	$(BIN)/pip wheel -q --disable-pip-version-check --no-deps -c constraints.txt -w build/wheel .
	$(PYTHON) -m venv build/clean
	build/clean/bin/pip install -q --disable-pip-version-check -c constraints.txt "$$(ls build/wheel/*.whl)[report]"
	BIN="$(CURDIR)/build/clean/bin" sh tests/wheel_smoke.sh

clean:
	rm -rf $(VENV) .demo build *.egg-info
