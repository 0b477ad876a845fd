# A fresh machine needs Python 3.11 or later, pip, git and make; everything else goes into .venv.
PYTHON ?= python3
WORKERS ?= 0
JOBS ?= 2
PORT ?= 5000
BIN := .venv/bin
READY := .venv/ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: reproduce check quick test test-slow lint format docs bench ui system clean

reproduce: $(READY)  ## the whole study: data, training, sampling, evaluation, report
	@git rev-parse --git-dir >/dev/null 2>&1 || grep -qs no_scm .dvc/config .dvc/config.local || \
		{ echo "no git checkout here, which DVC wants: run 'git init', or 'dvc config core.no_scm true'" >&2; exit 2; }
	TRILEMMA_WORKERS=$(WORKERS) trilemma repro --jobs $(JOBS)
	trilemma report

check: $(READY)  ## before a commit: lint, type check, and the tests that start no process
	$(MAKE) --jobs 2 --output-sync lint quick

quick: $(READY)
	pytest -n 2 -m "not slow and not process"

test: $(READY) lint  ## lint, type check, and every test but the slow ones
	pytest -n 2 --dist loadfile --durations=20

test-slow: $(READY)  ## what takes minutes: every kill ten times, statistics over many repetitions
	pytest -m slow

lint: $(READY)
	ruff format --check
	ruff check
	lint-imports
	pyright

format: $(READY)
	ruff format
	ruff check --fix

docs: $(READY)  ## the documentation site in build/docs; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet

bench: $(READY)  ## speed, as ratios within one run
	for file in benchmarks/bench_*.py; do PYTHONPATH=. python $$file || exit 1; done

ui: $(READY)  ## the experiment tracker at http://127.0.0.1:$(PORT)
	trilemma ui --port $(PORT)

system:  ## what a bare Debian lacks (as root)
	apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-pip git make

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf out .trilemma dvc.lock
