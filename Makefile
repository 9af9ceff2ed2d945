# Everything happens in .venv; the first target that needs it makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The extras of pyproject.toml that a target needs, where it is not one called like the target.
EXTRAS_demo := cli,http

.PHONY: demo cluster-demo test test-lowest test-wheel test-aarch64 test-musl torch coverage lint build bench soak wheels site release-check clean

demo: $(VENV)/.demo build
	$(BIN)/foliocache demo

# Test processes side by side: one more than cores, since many tests wait for a process or a server.
JOBS ?= 3

# Three machines that read the same through one Valkey: the origin sends it once.
cluster-demo: $(VENV)/.test build
	$(BIN)/python -m benchmarks.tiers.cluster

# Tests start thousands of processes, which load what the first ones have compiled, also where the environment says that Python
# writes no bytecode.
test: $(VENV)/.test build
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# The build of PyTorch for processors alone. Elsewhere than where pip finds it, there is only one with gigabytes for GPUs.
torch: $(VENV)/.test
	timeout 8m $(BIN)/pip install --quiet --retries 1 --timeout 20 "torch==2.13.0+cpu" torchdata || echo "no small build of PyTorch here: its tests are skipped"

# Lines and branches of the interpreted core and of the Python around it, in this process; the compiled modules are not measured. Left out
# are the tests that set a trace function of their own, and those that do nothing in this process.
UNTRACED = $(shell grep -lE "settrace|from lines|import lines" -r tests --include="*.py") tests/death tests/test_stress.py tests/test_pythons.py

# A traced test takes several times as long, so its limit is longer, too.
coverage: $(VENV)/.coverage build
	$(BIN)/coverage run -m pytest -o timeout=1400 $(UNTRACED:%=--ignore=%)
	$(BIN)/coverage report
	$(BIN)/coverage html -q -d build/coverage

# The compiled modules, which stubtest holds their stubs against.
STUBS = $(subst /,.,$(patsubst src/%.pyi,%,$(shell find src -name "*.pyi")))

lint: $(VENV)/.lint build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint src
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --concise --mypy-config-file pyproject.toml --ignore-unused-allowlist --allowlist tools/stubtest.txt $(STUBS)
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=tools/typings pyright --ignoreexternal --verifytypes foliocache

bench: $(VENV)/.bench build
	$(BIN)/python -m benchmarks

soak: $(VENV)/.recipes build
	FOLIOCACHE_STRESS_SECONDS=600 FOLIOCACHE_FUZZ_MUTANTS=20000 FOLIOCACHE_TIER_CRASHES=10000 FOLIOCACHE_TIER_KILLS=500 $(BIN)/python -m pytest -o faulthandler_timeout=0 -o timeout=3000 tests/test_pythons.py tests/test_stress.py tests/test_async.py tests/test_reentry.py tests/test_creation.py tests/test_lease.py tests/test_fuzz.py tests/death tests/tiers tests/recipes
	FOLIOCACHE_CHECK=whole $(BIN)/python -m pytest -o timeout=3000 tests/check tests/mm/test_reap.py tests/mm/test_cache_machine.py tests/test_slots.py
	$(BIN)/python -m foliocache.check.mutate --jobs 2
	$(BIN)/foliocache verify

# A wheel for each CPython here, in dist/.
wheels: $(VENV)/.wheels
	$(BIN)/python -m tools.wheels

# The tests of a library that was installed from its wheel, where no compiler is found, and with it the example of the README.
test-wheel: wheels
	$(BIN)/python -m tools.trial wheel

# The wheel for 64-bit ARM, cross-built, and the core's tests under emulation.
test-aarch64: $(VENV)/.wheels build
	$(BIN)/python -m tools.aarch64

# The wheel for musl's C library, and the core's tests with a Python that is built for it.
test-musl: $(VENV)/.wheels build
	$(BIN)/python -m tools.musl

# The tests with the oldest versions that pyproject.toml allows.
test-lowest: $(VENV)/.wheels
	$(BIN)/python -m tools.trial lowest

# The documentation as a site, in build/site. A link that leads nowhere fails it.
site: $(VENV)/.site build
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

release-check: lint test test-lowest test-wheel site
	$(BIN)/foliocache verify

# The core, compiled in place. Cheap when nothing has changed.
build: $(VENV)/.demo
	$(BIN)/python tools/generate.py
	$(BIN)/python setup.py --quiet build_ext --inplace

$(VENV)/.demo $(VENV)/.test $(VENV)/.coverage $(VENV)/.bench $(VENV)/.recipes $(VENV)/.lint $(VENV)/.wheels $(VENV)/.site: $(VENV)/.%: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "setuptools>=77" "cython==3.3.1"
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[$(or $(EXTRAS_$*),$*)]"
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
	find src -name "*.so" -delete
