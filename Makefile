# `make demo`: set up and run the main job. `make test`: set up and pass every check. `make quick`: the checks that take
# little time. `make docs`: the documentation, into out/site. Nothing needs to be there but Python 3.11 or newer, its venv
# module and make. `make serve`: set up and open a page to click in.
PYTHON ?= python3
OUT ?= out/demo
CASE ?=
PORT ?= 1527
DEMO := .venv/demo
SERVE := .venv/serve
SERVE_EXTRAS := cpu,serve
DEV := .venv/dev
VIEWERS := .venv/viewers
STUBS := .venv/stubs
SOURCES := $(shell find toolkit calibration export engines training -name '*.py' -o -name '*.toml' -o -name '*.onnx' -o -name '*.json' -o -path '*/page/*') \
	$(shell find cpp -type f -not -name '*.pyc') pyproject.toml constraints.txt
# What building the C++ host takes, as Debian names it.
NATIVE := ccache cmake g++ ninja-build pkg-config nlohmann-json3-dev zlib1g-dev libminizip-dev libssl-dev
# What the tests of the page in the browser, and of servers behind a proxy, take.
NATIVE += chromium chromium-driver nginx-light
# What napari takes on a screen that is not there.
NATIVE += xvfb xauth libgl1 libegl1 libopengl0 libgl1-mesa-dri libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 \
	libxcb-keysyms1 libxcb-shape0 libxcb-xkb1 libxcb-render-util0 libxcb-image0
# Not in every Debian; without it the C++ tests with ONNX Runtime skip.
NATIVE_WHERE_KNOWN := libonnxruntime-dev

.PHONY: demo serve test quick lint types unit native viewers docs format clean

demo: $(DEMO)/.installed
ifeq ($(CASE),)
	$(DEMO)/bin/gstk phantom $(OUT)/phantom.npz --seed 7 --boxes --overwrite
	$(DEMO)/bin/gstk infer $(OUT)/phantom.npz --overlay --overwrite --out $(OUT)/results
else
	$(DEMO)/bin/gstk infer "$(CASE)" --overlay --overwrite --out $(OUT)/results
endif

# CASE=scan.nii.gz opens your own; PORT=0 takes a free one.
serve: $(SERVE)/.installed
ifeq ($(CASE),)
	$(SERVE)/bin/gstk phantom $(OUT)/phantom.npz --seed 7 --overwrite
	$(SERVE)/bin/gstk serve $(OUT)/phantom.npz --port $(PORT) --open
else
	$(SERVE)/bin/gstk serve "$(CASE)" --port $(PORT) --open
endif

test: lint types unit

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/lint-imports --no-logo

# TensorRT cannot be installed everywhere: its stubs of 10.13 stand in, and the same with only what 11.4 has too.
types: $(DEV)/.installed $(STUBS)/.made
	MYPYPATH=$(STUBS) $(DEV)/bin/mypy -p gstk
	MYPYPATH=$(STUBS)-11 $(DEV)/bin/mypy --cache-dir .mypy_cache/11 -p gstk.engines
	$(DEV)/bin/basedpyright

# Threads of torch that wait do not keep a core from the other worker.
unit: $(DEV)/.installed viewers
	OMP_WAIT_POLICY=PASSIVE $(DEV)/bin/pytest -q -n 2 --dist loadfile --durations=10

# Without the tests that build C++, export, train or start a browser: under two minutes on two idle cores.
quick: lint
	OMP_WAIT_POLICY=PASSIVE $(DEV)/bin/pytest -q -n 2 --dist loadfile -m "not slow"

# Installs what is missing where that is possible, and says what to install where it is not: those tests then skip.
native:
	@if dpkg -s $(NATIVE) >/dev/null 2>&1; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "the C++ tests need what Debian calls $(NATIVE); without it they skip"; exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; elif sudo -n true 2>/dev/null; then as_root=sudo; else \
		echo "the C++ tests need: sudo apt-get install $(NATIVE); without it they skip"; exit 0; fi; \
	$$as_root apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq $(NATIVE) >/dev/null || \
		echo "apt-get could not install $(NATIVE); without it the C++ tests skip"; \
	for name in $(NATIVE_WHERE_KNOWN); do \
		if apt-cache show $$name >/dev/null 2>&1; then \
			DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq $$name >/dev/null || true; fi; done

# napari with its nnInteractive plugin, 1.3 GB, in an environment of its own: tests/test_napari.py clicks in it.
viewers: native $(VIEWERS)/.installed

docs: $(DEV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build --strict --quiet
	@echo out/site/index.html

format: $(DEV)/.installed
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

# $(1): folder of the environment; $(2): extras; $(3): -e for an editable install.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gstk needs Python 3.11 or newer; try make PYTHON=python3.12")'
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(3) '.[$(2)]'
	touch $(1)/.installed
endef

# A regular install, as a user gets it.
$(DEMO)/.installed: $(SOURCES)
	$(call install,$(DEMO),cpu)
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .

$(SERVE)/.installed: $(SOURCES)
	$(call install,$(SERVE),$(SERVE_EXTRAS))

$(DEV)/.installed: pyproject.toml constraints.txt
	$(call install,$(DEV),dev,-e)

$(VIEWERS)/.installed: pyproject.toml constraints.txt
	$(call install,$(VIEWERS),viewers,-e)

$(STUBS)/.made: $(DEV)/.installed .ci/tensorrt_stubs.py constraints.txt
	rm -rf $(STUBS) $(STUBS)-11
	$(DEV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target $(STUBS) tensorrt-stubs
	$(DEV)/bin/python .ci/tensorrt_stubs.py $(STUBS) --only tests/data/tensorrt_11_4_names.json --into $(STUBS)-11
	touch $@

clean:
	rm -rf .venv build out gstk.egg-info
