# make demo | make test | make lint | make format
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint format clean

demo: $(STAMP)  ## run the bundles on a head and a simulated angiography, leave pictures and tables in demo/
	$(BIN)/python -m custom_nets.apps.demo --output_dir demo

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest

lint: $(STAMP)  ## what ruff and mypy say
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first, by itself, so that the build for this machine is taken and kept
$(STAMP): requirements.txt pyproject.toml
	@echo "== making .venv with $(PYTHON) and installing (some minutes, once)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --upgrade pip
	$(BIN)/python -m pip install --progress-bar off "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --progress-bar off -r requirements.txt
	@touch $(STAMP)

clean:
	rm -rf .venv demo
