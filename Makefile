# Two commands for a fresh machine with Python 3.10 or newer:
#   make demo   trains a small detector on the built-in data, scores it and shows it on pictures
#   make test   checks style and types and runs all tests
#   make dist   builds what is published, sdist and wheel, in dist/ and checks it
#   make fuzz   half an hour of hostile input and of runs that are killed
#   make test-runtimes   the tests that need executorch and mediapipe, in .venv-runtimes: 1.2 GB more, so not part of make test
# All make the environment in .venv first, if it is not there.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
RUNTIMES_VENV ?= .venv-runtimes
BIN := $(VENV)/bin
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test test-runtimes fuzz dist install lint clean

demo: install
	$(BIN)/ssdlite train --anchors fit --eval-interval 5 --output $(RUN)
	$(BIN)/ssdlite eval $(RUN)/best.pt --data data/shapes --split val --output $(RUN)/eval
	$(BIN)/ssdlite predict data/shapes/val --weights $(RUN)/best.pt --output $(RUN)/predictions
	@echo
	@echo "Ground truth and detections side by side:  $(RUN)/samples.jpg"
	@echo "Every validation picture with its boxes:   $(RUN)/predictions/"
	@echo "Loss and AP curves:                        $(RUN)/curves.png"
	@echo "The detector, for ssdlite.load_detector(): $(RUN)/best.pt"

test: install lint
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --max-worker-restart 0 --dist loadfile

test-runtimes: # in an environment of its own: mediapipe brings another OpenCV
	$(MAKE) install VENV=$(RUNTIMES_VENV) EXTRAS=dev,executorch,mediapipe
	$(RUNTIMES_VENV)/bin/python -c 'import executorch, mediapipe'
	$(RUNTIMES_VENV)/bin/pytest tests/export/test_executorch.py tests/export/test_litert.py

fuzz: install
	$(BIN)/python -m tests.fuzz
	$(BIN)/python -m tests.fuzz --kills 1

dist: install
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) $(RUNTIMES_VENV) .editable build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
