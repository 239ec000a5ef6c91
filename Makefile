# make certify   installs into .venv and certifies test digits with the model that ships
# make test      installs into .venv with the test tools and runs the test suite
# Neither needs the other; what is already installed is not installed again.

PYTHON ?= $(shell command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CERTIFY := certify --model digits --data digits --images 0:50 --sigma 0.25 --out runs/digits
BUILD := pyproject.toml setup.py $(wildcard csrc/*.h csrc/*.cpp csrc/cpu/* csrc/cuda/*)
NATIVE := csrc/*.h csrc/*.cpp csrc/cpu/*.h csrc/cpu/*.cpp csrc/cuda/*.h csrc/cuda/*.cu
# Without a GPU a bare "torch" may bring gigabytes of CUDA libraries; this release is the one that
# the project is tested with.
TORCH_WITHOUT_GPU := torch==2.13.0

.PHONY: certify test lint types format clean

certify: $(VENV)/.installed
	$(BIN)/deqcert $(CERTIFY)
	$(BIN)/deqcert report runs/digits

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

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

clean:
	rm -rf $(VENV) build dist *.egg-info deqcert/_native*.so

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "No python3 found: install Python 3.11 or later." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is too old: install Python 3.11 or later, or name one as make PYTHON=..." >&2; exit 1; }
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
	@touch $@

$(VENV)/.installed-test: $(VENV)/.torch $(BUILD)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ $(VENV)/.installed
