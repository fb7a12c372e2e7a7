# `make demo`: set up and run the main job. `make test`: set up and pass every check. Nothing needs to be there but
# Python 3.11 or newer, its venv module and make.
PYTHON ?= python3
OUT ?= out/demo
CASE ?=
DEMO := .venv/demo
DEV := .venv/dev
SOURCES := $(shell find toolkit export engines training -name '*.py' -o -name '*.toml' -o -name '*.onnx' -o -name '*.json') pyproject.toml constraints.txt

.PHONY: demo test lint types unit format clean

demo: $(DEMO)/.installed
ifeq ($(CASE),)
	$(DEMO)/bin/gstk phantom $(OUT)/phantom.npz --seed 7
	$(DEMO)/bin/gstk infer $(OUT)/phantom.npz --overlay --out $(OUT)/results
else
	$(DEMO)/bin/gstk infer "$(CASE)" --overlay --out $(OUT)/results
endif

test: lint types unit

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: $(DEV)/.installed
	cd .venv && dev/bin/mypy --config-file ../pyproject.toml -p gstk

unit: $(DEV)/.installed
	$(DEV)/bin/pytest -q

format: $(DEV)/.installed
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

# Each environment holds a regular install: what is checked is what a user gets, and mypy can follow it.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gstk needs Python 3.11 or newer; try make PYTHON=python3.12")'
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	rm -rf build
	$(1)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt '.[$(2)]'
	$(1)/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	touch $(1)/.installed
endef

$(DEMO)/.installed: $(SOURCES)
	$(call install,$(DEMO),cpu)

$(DEV)/.installed: $(SOURCES)
	$(call install,$(DEV),dev)

clean:
	rm -rf .venv build out gstk.egg-info
