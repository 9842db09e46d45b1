# Development tasks; `make` lists them.
#
# Everything stays in this folder: .venv and .venv-engine (Python environments), .build and .syncline (engine and builds).

PYTHON ?= python3
NAME ?=
CRASHES ?= 50
SEED ?=
SEEDS ?= 0 2000
RACES ?= 0 1000
SECONDS ?= 60
MINUTES ?= 60
TARGET ?=
KEY ?=
FILES ?=
ALL ?=
SAMPLE ?=
SAMPLE_SEED ?=

bin := .venv/bin
environments := .venv/installed .venv-engine/requirements.sha256
code := setup.py $(wildcard layers functions scripts tests bench demo)

export PYTHON
export SAM_CLI_TELEMETRY := 0

.DEFAULT_GOAL := help
.PHONY: help run push down test crashes soak sim races conformance canaries fuzz mutate docs links sbom audit release lint format bench sam-local lock clean environments

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

run: environments ## Sync a sample registry to another one on this machine, and verify the copy
	@$(bin)/python -m demo run

push: environments ## Push a new image to the sample; a webhook starts its sync
	@$(bin)/python -m demo push

down: ## Stop what `make run` started; keep its content
	@test ! -x $(bin)/python || $(bin)/python -m demo down

test: environments ## Run the unit and integration tests; missing programs are listed at the end
	@$(bin)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder tests/integration tests/simulation tests/unit

crashes: environments ## Kill the engine fifty times at random moments and check its state; CRASHES=n sets the number
	@CRASHES=$(CRASHES) $(bin)/python -m pytest --timeout 7200 -s -n 0 tests/integration/test_engine_crashes.py

soak: environments ## Run all kinds for MINUTES (default 60) while killing functions, engine and servers; SEED=n
	@PYTHONPATH=layers/syncline:. $(bin)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

sim: environments ## Simulate SEEDS="first last" (default 2,000), or one SEED=n with its trace
	@PYTHONPATH=layers/syncline:. $(bin)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

races: environments ## Race the sync of files with another writer at the target: RACES="first last" (default 1,000 seeds)
	@RACES="$(RACES)" $(bin)/python -m pytest --timeout 3600 -q tests/integration/files/test_races.py

conformance: environments ## Try the S3 client against each server that is here, and write docs/reference/s3-services.md
	@PYTHONPATH=layers/syncline:. $(bin)/python -m tests.conformance

canaries: environments ## Simulate canaries and probes of tokens: SEEDS="first last", or one SEED=n with its trace
	@PYTHONPATH=layers/syncline:. $(bin)/python -m tests.simulation.canaries $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

fuzz: environments .venv-fuzz/requirements.sha256 ## Fuzz all parsers for SECONDS in total (default 60); TARGET=... selects one
	@PYTHONPATH=layers/syncline:.:$$(echo .venv-fuzz/lib/python3*/site-packages) $(bin)/python -m tests.fuzz --seconds $(SECONDS) $(TARGET)

mutate: environments .venv-mutate/requirements.sha256 ## Mutate changed decisions and check that tests fail; FILES="...", ALL=1, SAMPLE=n, SAMPLE_SEED=n
	@PYTHONHASHSEED=0 PYTHONPATH=layers/syncline:.:$$(echo .venv-mutate/lib/python3*/site-packages) nice $(bin)/python -m tests.mutation \
		$(if $(ALL),--all) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SAMPLE_SEED),--sample-seed $(SAMPLE_SEED)) $(if $(ALL)$(FILES),--record) $(FILES)

docs: .venv-docs/requirements.sha256 ## Build the documentation site in .build/site; a broken link, anchor or lost page fails
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build

links: ## Request the external links of the documentation, and print those that are dead
	@$(PYTHON) scripts/links

sbom: ## Write a bill of materials (CycloneDX) of the pinned requirements to .build/sbom.json
	@mkdir -p .build && $(PYTHON) scripts/sbom .build/sbom.json && echo .build/sbom.json

audit: .venv-audit/requirements.sha256 ## Check the pinned requirements for known vulnerabilities
	@$(PYTHON) scripts/audit .venv-audit/bin/python

release: ## Build a signed release of the commit in .build/release; KEY=... is the SSH signing key
	@scripts/release $(KEY)

lint: environments ## Check style, types and unused code
	@$(bin)/ruff check --quiet $(code)
	@$(bin)/ruff format --check --quiet $(code)
	@$(bin)/mypy $(code)
	@$(bin)/vulture

format: environments ## Format the code
	@$(bin)/ruff check --fix $(code)
	@$(bin)/ruff format $(code)

bench: environments ## Run the benchmarks against other tools; NAME=... selects one
	@$(bin)/python -m bench $(NAME)

sam-local: environments ## Invoke every function in the Lambda image, and build and run the container, on Docker
	@$(bin)/python -m pytest tests/sam

lock: ## Pin the newest versions that requirements/*.in allow
	@scripts/lock

clean: ## Remove build output and caches; .syncline and the environments stay
	@rm -rf .build .aws-sam .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# The two are independent, so they are installed in parallel.
environments:
	@$(MAKE) --silent --jobs=2 $(environments)

.venv/installed: .venv/requirements.sha256 pyproject.toml
	$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.venv/requirements.sha256: requirements/tools.txt
	scripts/environment .venv requirements/tools.txt

.venv-engine/requirements.sha256: requirements/engine.txt
	scripts/environment .venv-engine requirements/engine.txt

.venv-fuzz/requirements.sha256: requirements/fuzz.txt
	scripts/environment .venv-fuzz requirements/fuzz.txt

.venv-audit/requirements.sha256: requirements/audit.txt
	scripts/environment .venv-audit requirements/audit.txt

.venv-mutate/requirements.sha256: requirements/mutate.txt
	scripts/environment .venv-mutate requirements/mutate.txt

.venv-docs/requirements.sha256: requirements/docs.txt
	scripts/environment .venv-docs requirements/docs.txt
