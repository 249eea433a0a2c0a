# One command sets up everything and runs the main job:      make
# One command sets up everything and passes all tests:       make test
# The README has the plain commands for those without make.
#
# Where things are installed
#   An active virtualenv or conda environment (other than conda's `base`) is used as it is. Otherwise `.venv` is made
#   here from PYTHON; where that Python already has torch, `.venv` sees and keeps it (--system-site-packages).
#   `make VIRTUAL_ENV= CONDA_DEFAULT_ENV=` makes a `.venv` all the same.
# What is installed
#   pyproject.toml says it: what the course and its tests need and, where a chromium is installed, what the tests in a
#   browser need. Only torch is looked at first: where none can be imported, TORCH is installed by itself,
#   so that the version is one that was tested. On Linux this brings CUDA along; without a GPU spare the gigabytes by
#       make TORCH='torch --index-url https://download.pytorch.org/whl/cpu'
# When
#   Once. The stamp in the environment holds a checksum of pyproject.toml, of this folder's name and of the extras;
#   while it matches, set-up does nothing.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
EXTRAS := test$(shell { command -v chromium || command -v chromium-browser; } >/dev/null 2>&1 && echo ,browser)

ifneq ($(VIRTUAL_ENV),)
ENV := $(VIRTUAL_ENV)
else ifneq ($(filter-out base,$(CONDA_DEFAULT_ENV)),)
ENV := $(CONDA_PREFIX)
else
ENV := .venv
endif

# Quoted wherever it is used: the folder's name may have spaces in it.
PY    := "$(ENV)/bin/python"
STAMP := "$(ENV)/.rg-minimal-stamp"

# Tests and notebooks run in two processes side by side, with one thread each; `make test JOBS=4` where there are more cores
# and memory (each takes up to 2 GB).
JOBS   ?= 2
SPREAD  = -n $(JOBS) --dist worksteal
test device check notebooks: export OMP_NUM_THREADS = 1
test device check notebooks: export MKL_NUM_THREADS = 1

# Nothing that is tested or shown first may ask a hub for anything.
start test device check notebooks: export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

NOTEBOOKS = notebooks/*.ipynb $(wildcard notebooks/solutions/*.ipynb)

.PHONY: start setup test device check lab notebooks book container-check clean help
.DEFAULT_GOAL := start

start: setup  ## set up, run notebooks/00_start_here.ipynb and say where the result is (default)
	@mkdir -p out
	@rm -f out/00_start_here.png
	$(PY) -m papermill notebooks/00_start_here.ipynb out/00_start_here.ipynb \
	    --cwd notebooks --kernel python3 --no-log-output -r picture "$(CURDIR)/out/00_start_here.png"
	@test -s out/00_start_here.png || { echo "The notebook ran but wrote no picture to out/00_start_here.png."; exit 1; }
	@echo
	@echo "Executed notebook:  $(CURDIR)/out/00_start_here.ipynb"
	@echo "Picture:            $(CURDIR)/out/00_start_here.png"

setup:  ## set up only: make .venv where no environment is active, install what pyproject.toml lists
	@set -e; \
	stamp="$$({ cat pyproject.toml; pwd; echo $(EXTRAS); } | cksum)"; \
	if [ "$$(cat $(STAMP) 2>/dev/null)" = "$$stamp" ]; then exit 0; fi; \
	if [ ! -x $(PY) ]; then \
	    if [ "$(ENV)" != .venv ]; then echo "The active environment $(ENV) has no bin/python: leave it and try again."; exit 1; fi; \
	    minor="$$(sed -n 's/^requires-python = ">=3\.\([0-9]*\)"$$/\1/p' pyproject.toml)"; \
	    "$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, $$minor))" || { \
	        echo "Python 3.$$minor or newer is needed; $(PYTHON) is not. Name another: make PYTHON=python3.12"; exit 1; }; \
	    site=; if "$(PYTHON)" -c 'import torch' 2>/dev/null; then site=--system-site-packages; fi; \
	    echo "Making .venv with $(PYTHON) $$site"; \
	    "$(PYTHON)" -m venv $$site .venv || { rm -rf .venv; \
	        echo "No virtual environment could be made; on Debian and Ubuntu the package python3-venv may be missing."; exit 1; }; \
	fi; \
	echo "Installing into $(ENV)"; \
	if ! $(PY) -c 'import torch' 2>/dev/null; then $(PY) -m pip install $(TORCH); fi; \
	$(PY) -m pip install --editable '.[$(EXTRAS)]'; \
	if [ "$(ENV)" = .venv ]; then $(PY) -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (ipykernel)" >/dev/null; fi; \
	echo "$$stamp" > $(STAMP)

# nbval runs every cell and compares the outputs of those marked NBVAL_CHECK_OUTPUT; other cells print measured numbers,
# whose last digits differ between processors.
test: setup  ## set up and pass all tests: pytest, then the notebooks by nbval
	$(PY) -m pytest $(SPREAD) tests --ignore tests/device/test_device.py
	$(PY) -m pytest $(SPREAD) --dist loadfile --nbval-lax notebooks --nbval-current-env --nbval-cell-timeout 300 \
	    --nbval-sanitize-with tests/nbval_sanitize.cfg

device: setup  ## set up and run everything where tensors live on a GPU, or on a CPU that plays one: notebooks, solutions, library
	$(PY) -m pytest $(SPREAD) tests/device tests/test_notebooks.py

check: setup  ## set up and pass the quick tests, in a minute and a half: no notebook, no browser, no training
	$(PY) -m pytest -q $(SPREAD) tests -m "not slow"

lab: setup  ## set up and open the course in JupyterLab
	$(PY) -m jupyterlab notebooks/00_start_here.ipynb

notebooks: setup  ## set up, run all notebooks again in place, two at a time, and write them clean
	printf '%s\0' $(NOTEBOOKS) | xargs -0 -n 1 -P $(JOBS) $(PY) -m nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.timeout=600 \
	    --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False
	$(PY) -m pytest -q tests/test_house.py -k notebook

# Nothing is run: the pages show the notebooks as they were executed and committed. ENV is where `setup` installs.
book: setup  ## set up and make a site of the executed notebooks in out/book/html
	@$(PY) -c 'import furo, myst_nb, sphinx' 2>/dev/null || $(PY) -m pip install --editable '.[book]'
	$(PY) -m sphinx -b html -c book -d out/book/doctrees -W --keep-going -q . out/book/html
	@echo "The site:  $(CURDIR)/out/book/html/index.html"

# By hand, for it downloads PyTorch once more; `make container-check TORCH_FROM=https://...` takes it from elsewhere.
container-check:  ## do what the Containerfile says in a fresh environment, and run the first notebook there
	"$(PYTHON)" tests/container.py $(if $(TORCH_FROM),--torch-from "$(TORCH_FROM)")

clean:  ## remove what runs left behind (not .venv, not training runs)
	rm -rf out .pytest_cache build rg_minimal.egg-info
	find rg_minimal notebooks tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile
