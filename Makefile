# The verbs of the kit. Each makes the virtual environment .venv on first use.
#   make run                 the whole main job on the planted pair (demo preset)
#   make run DATA=cloth_sport PROTOCOL=strict PRESET=paper SEED=0 EPOCHS=20 OUT=runs/a
#   make test                lint, types, unit and contract tests, every notebook once; CI adds make test-slow
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

# Which torch: the CPU build by default. For a GPU: make setup TORCH_INDEX=https://download.pytorch.org/whl/cu128
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)

DATA ?=
PROTOCOL ?=
PRESET ?= demo
SEED ?=
EPOCHS ?=
OUT ?=
RUN ?=
STUDY ?=
PAIR ?= cloth_sport
WORKERS ?= 2

.PHONY: setup run test test-slow test-release lint types unit notebook-tests notebooks results release docs lab explore bench measure format clean
.DEFAULT_GOAL := run

setup: $(STAMP)

# before a command: a line every 8 seconds while it works
still = from=$$(date +%s); (while sleep 8; do echo "[$$(($$(date +%s) - from)) s] still: $(1)"; done) & \
	trap "kill $$!" EXIT;

$(STAMP): pyproject.toml constraints.txt tools/install_torch.py
	@echo "setting up $(VENV), once: PyTorch and what the kit needs, about 1 GB; minutes, as fast as the network"
	$(PYTHON) -m venv $(VENV)
	@$(call still,installing torch) $(BIN)/python tools/install_torch.py "$(TORCH)" "$(TORCH_INDEX)"
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(call still,installing the kit and what it needs) \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	touch $(STAMP)

run: $(STAMP)
	$(BIN)/i2vae run --preset $(PRESET) $(if $(DATA),--data $(DATA)) $(if $(PROTOCOL),--protocol $(PROTOCOL)) \
	    $(if $(SEED),--seed $(SEED)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(OUT),--out $(OUT))

# two cores, setup done: at most 8 minutes, and 12 for test-slow
test: lint types unit notebook-tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# one thread a worker: two processes that each spin on two threads take ten times as long on two cores
QUIET := OMP_NUM_THREADS=1 TQDM_DISABLE=1

unit: $(STAMP)
	$(QUIET) $(BIN)/pytest -n $(WORKERS) --dist loadscope --durations 25 -m "not slow"

# strict nbval over the committed notebooks, in a runs folder of their own
notebook-tests: $(STAMP)
	runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && \
	$(QUIET) I2VAE_RUNS_DIR=$$runs PLOTLY_RENDERER=plotly_mimetype $(BIN)/python -m pytest \
	    -p tests.kernels_over_files -n $(WORKERS) --dist loadscope --durations 10 --nbval --nbval-current-env --nbval-cell-timeout 300 \
	    --nbval-kernel-startup-timeout 60 --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

# papermill with other parameters, JupyterLab and the served page in a real Chromium (screenshots: build/screenshots),
# kills, clusters, hostile input, the wheel in an empty folder
test-slow: $(STAMP)
	$(QUIET) $(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations 25 -m slow

# before a release, by hand: the lowest versions of pyproject.toml, then the newest under every Python that is found
test-release:
	$(PYTHON) tools/check_wheel.py --release $(if $(CUDA),--cuda)

# executes the committed notebooks at the smoke preset and stores their outputs (PNGs need Chromium)
notebooks: $(STAMP)
	$(QUIET) $(BIN)/python tools/execute_notebooks.py

# the documentation as a site in build/site, without a network; a warning is an error.
docs: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees -c docs . build/site
	@grep -rhoE '\]\(https?://[^)]+' README.md CONTRIBUTING.md docs/*.md | cut -c3- | sort -u > build/external_links.txt
	@echo "site: build/site/docs/index.html; addresses outside: build/external_links.txt"

# the kept tables (or STUDY=one of them) anew, at full size: days; it goes on where it was stopped
results: $(STAMP)
	$(BIN)/python tools/make_results.py $(STUDY)

# trained weights to hand out, with nobody's id or history: films, whose licence allows it (needs I2VAE_DATA_DIR)
release: $(STAMP)
	$(BIN)/i2vae run --data params/pairs/films.yaml --protocol chronological --preset tuned --no-notebooks --out runs/release-films
	$(BIN)/i2vae export runs/release-films --out build/release/films --licence "MovieTweetings, MIT"

lab: $(STAMP)
	$(BIN)/jupyter lab --ip 127.0.0.1 notebooks

# explorers of finished or running runs as a page on the loopback, without Jupyter: make explore RUN="runs/a runs/b"
explore: $(STAMP)
	$(BIN)/i2vae explore $(or $(RUN),$(error which run? make explore RUN=runs/NAME))

# lines of code without blanks, comments and docstrings, and what is over the limits
measure: $(STAMP)
	$(BIN)/python tools/measure.py

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py --data $(PAIR)
	$(BIN)/python benchmarks/bench_logs.py
	$(BIN)/python benchmarks/bench_systems.py --data $(PAIR)
	$(BIN)/python benchmarks/bench_sweep.py
	$(BIN)/python benchmarks/bench_explorer.py --data $(PAIR)
	$(BIN)/python benchmarks/bench_page.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
