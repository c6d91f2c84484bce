# make demo | make test | make test-fast | make lint | make format | make label STUDIES=... | make test-label
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-fast lint format label test-label clean

demo: $(STAMP)  ## run the bundles on a head and a simulated angiography, leave pictures and tables in demo/
	$(BIN)/python -m custom_nets.apps.demo --output_dir demo

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest

test-fast: $(STAMP)  ## known answers, parity and properties, in minutes: for every edit
	$(BIN)/python -m pytest -m "not slow and not browser"

lint: $(STAMP)  ## what ruff and mypy say
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# ---- MONAI Label: an environment of its own, see docs/monai_label.md ----
LABEL_BIN := .venv-label/bin
LABEL_STAMP := .venv-label/.installed
STUDIES ?= studies

label: $(LABEL_STAMP)  ## serve the bundles to viewers: STUDIES is a folder of images or the URL of DICOMweb
	$(LABEL_BIN)/python -m monailabel_app.serve --studies "$(STUDIES)"

test-label: $(LABEL_STAMP)  ## the tests of the server, in its environment
	$(LABEL_BIN)/python -m pytest tests/label

# torch first: sam2, which MONAI Label asks for, is built against it
$(LABEL_STAMP): monailabel_app/requirements.txt
	@echo "== making .venv-label with $(PYTHON) and installing (several GB, once)"
	$(PYTHON) -m venv .venv-label
	$(LABEL_BIN)/python -m pip install --progress-bar off $$(grep -E '^torch(vision)?==' $<) ninja setuptools wheel
	$(LABEL_BIN)/python -m pip install --progress-bar off --no-build-isolation -r $<
	@touch $(LABEL_STAMP)

# torch first, by itself, so that the build for this machine is taken and kept
$(STAMP): requirements.txt pyproject.toml
	@echo "== making .venv with $(PYTHON) and installing (some minutes, once)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --upgrade pip
	$(BIN)/python -m pip install --progress-bar off "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --progress-bar off -r requirements.txt
	@touch $(STAMP)

clean:
	rm -rf .venv .venv-label demo
