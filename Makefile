# make certify   installs into .venv and certifies test digits with the model that ships
# make serve     installs into .venv and serves the model that ships, until Ctrl-C
# make test      installs into .venv with the test tools and runs the test suite
# make kills     stops trainings at random, fifty times each by kill -9 and by Ctrl-C
# make docs      builds the documentation site into build/site; a broken link is an error
# make trainings MNIST=mnist:DIR CIFAR10=cifar10:DIR   makes the benchmarks' models again
# make fuzz      gives the command line thousands of wrong calls and damaged files
# make sanitize  runs the kernels' tests on a build that checks every address and every overflow
# Neither needs the other; what is already installed is not installed again.

# The first of these that runs and is recent enough.
PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12 python3.13 python3.14,\
  $(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
CERTIFY := certify --model digits --data digits --images 0:50 --sigma 0.25 \
  --batch 500 --out runs/digits
BUILD := pyproject.toml setup.py $(wildcard csrc/*.h csrc/*.cpp csrc/cpu/* csrc/cuda/*)
NATIVE := csrc/*.h csrc/*.cpp csrc/cpu/*.h csrc/cpu/*.cpp csrc/cuda/*.h csrc/cuda/*.cu
# Without a GPU a bare "torch" may bring gigabytes of CUDA libraries; this release is the one that
# the project is tested with.
TORCH_WITHOUT_GPU := torch==2.13.0

SAY_KERNELS = $(BIN)/python -c 'from deqcert.kernels import status; s = status(); \
  print("Kernels:", s.path, s.isa, "with CUDA:" if s.cuda_built else "without CUDA:", s.reason)'

.PHONY: certify serve test fuzz kills sanitize lint types format docs trainings clean

certify: $(VENV)/.installed
	$(BIN)/deqcert $(CERTIFY)
	$(BIN)/deqcert report runs/digits

serve: $(VENV)/.installed-serve
	$(BIN)/deqcert serve digits

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# -s shows the figures.
kills: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 DEQCERT_KILLS=50 $(BIN)/python -m pytest -q -s -m kills

# FUZZ times what the test suite makes of them.
FUZZ := 20
fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 DEQCERT_FUZZ=$(FUZZ) $(BIN)/python -m pytest -m fuzz --numprocesses auto

# The extension is built beside the package, and the address sanitizer's runtime is loaded before
# Python. OpenMP and torch keep memory until the process ends, so leaks are not looked for.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
sanitize: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet "setuptools>=77" wheel "nanobind>=2.4"
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r deqcert csrc setup.py pyproject.toml $(SANITIZED)
	rm -f $(SANITIZED)/deqcert/_native*.so
	cd $(SANITIZED) && DEQCERT_CUDA=0 DEQCERT_SANITIZE="$(SANITIZERS)" \
	  $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 DEQCERT_KERNELS=native \
	  PYTHONPATH=$(abspath $(SANITIZED)) $(BIN)/python -P -m pytest -q -p no:cacheprovider \
	  tests/test_kernels_*.py tests/test_solvers.py \
	  -k "not torch and not without and not normals and (test_kernels or known_answer or bad_row)"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

types: $(VENV)/.installed-test
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# CHECKPOINT, the public MDEQ-SMALL, is what one of the starts belongs to.
trainings: $(VENV)/.installed
	$(BIN)/python benchmarks/trainings.py $(if $(MNIST),--mnist $(MNIST)) \
	  $(if $(CIFAR10),--cifar10 $(CIFAR10)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

clean:
	rm -rf $(VENV) build dist *.egg-info deqcert/_native*.so deqcert/_native_missing.txt

$(VENV)/.created:
	@test -n "$(PYTHON)" || { \
	  echo "No Python 3.11 or later found: install one, or name it as make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.created
	@if command -v nvidia-smi >/dev/null || ls /dev/nvidia[0-9]* >/dev/null 2>&1; then \
	  echo "GPU found: torch comes with the package's own range."; \
	else \
	  echo "No GPU found: installing $(TORCH_WITHOUT_GPU) first."; \
	  $(BIN)/python -m pip install --quiet "$(TORCH_WITHOUT_GPU)"; \
	fi
	@touch $@

$(VENV)/.installed: $(VENV)/.torch $(BUILD)
	$(BIN)/python -m pip install --quiet --editable .
	@$(SAY_KERNELS)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.torch $(BUILD)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@$(SAY_KERNELS)
	@touch $@ $(VENV)/.installed

# An extra's requirements alone: the package is there, and its kernels need not be compiled again.
$(VENV)/.installed-docs $(VENV)/.installed-serve: $(VENV)/.installed-%: $(VENV)/.installed pyproject.toml
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["optional-dependencies"]["$*"], sep="\n")' > $@.txt
	$(BIN)/python -m pip install --quiet --requirement $@.txt
	@touch $@
