# make demo: the main job on embedded data, from nothing to a table and a picture.
# make compare: its competitors on the same data, three seeds each, as a page; minutes more.
# make quick: lint, types and the tests that are not marked slow.
# make test: lint, types and the test suite, from nothing; types are checked while tests run.
# make test-older-kernels: a fit of each kind, training and export again, as on a processor with
#   AVX2 and no AVX-512.
# make package: wheel and sdist, each installed in a fresh environment and used outside the checkout.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process for each core, with one thread each; what shares a fixture stays together till the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

.PHONY: demo compare quick test suite test-older-kernels package lint clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

demo: $(STAMP)
	mkdir -p demo
	cd demo && ../$(BIN)/neumeta fit --recipe digits_lenet --device cpu --run runs/demo --overwrite
	cd demo && ../$(BIN)/neumeta export runs/demo/manifold.safetensors --width 0.5 -o half.pt --overwrite
	cd demo && ../$(BIN)/neumeta eval half.pt --device cpu
	@echo "picture: demo/runs/demo/report/over_gamma.png"

compare: $(STAMP)
	mkdir -p demo
	cd demo && ../$(BIN)/neumeta compare --recipe digits_lenet --methods all --seeds 3 --device cpu
	cd demo && ../$(BIN)/neumeta report runs/digits_lenet/compare

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: MARKED := -m 'not slow'
quick test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs 2 lint suite MARKED="$(MARKED)"

suite: $(STAMP)
	$(PYTEST) $(MARKED)

test-older-kernels: $(STAMP)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -m kernels

package: $(STAMP)
	tests/package.sh $(BIN)

clean:
	rm -rf demo dist .pytest_cache .mypy_cache .ruff_cache
