# Development commands. Each installs its own dependencies; only Python 3.11 or newer is required.

PYTHON ?= python3
VENV   ?= .venv
STUBS  ?= generated/python
CLIENT ?= clients/python
BIN    := $(VENV)/bin
# Each of the many processes of the tests would compile all modules again, where the environment
# turns bytecode off.
PYTEST  = env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX="$(abspath $(VENV))/pycache" \
	$(BIN)/pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal
PROTOC  = PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos

.PHONY: help run test test-databases test-fast bench bench-search chaos siege fuzz check format protos rehome settings-doc lock audit sbom clean

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/run.done ## Run the service on an embedded PostgreSQL, or on PALAVER_DATABASE_URL
	@exec $(BIN)/palaver serve

test: $(VENV)/dev.done ## Run all tests on all cores; ARGS are passed to pytest
	@$(PYTEST) -m "not databases" $(ARGS)

# The whole API runs on Debian's PostgreSQL, as `make test` runs it on the embedded one.
LOCALES = embedded-c,embedded-english,embedded-turkish,debian-c,debian-c-utf8,debian-turkish,debian-icu-english,debian-icu-turkish
CONNECTIONS = pgbouncer-session,pgbouncer-transaction,minimal-grants,standby
SERVICES = $(addprefix tests/api/,memory_service session_service user_service admin_service)
# What depends on the locale: searches, metadata, names and orders.
OF_LOCALES = $(addprefix tests/api/,memory_service session_service/test_session_filter.py test_odd_input.py)
test-databases: $(VENV)/dev.done ## Run tests on other databases; needs the packages that .ci/run installs
	@PALAVER_TEST_DATABASE=debian $(PYTEST) --no-skips $(ARGS) tests/databases/test_setups.py tests/api \
		tests/faults/test_database_encoding.py
	@PALAVER_TEST_DATABASE=$(LOCALES) $(PYTEST) --no-skips -m "not slow" $(ARGS) tests/databases/test_setups.py $(OF_LOCALES)
	@PALAVER_TEST_DATABASE=$(CONNECTIONS) $(PYTEST) --no-skips -m "not slow" $(ARGS) tests/databases/test_setups.py $(SERVICES)
	@PALAVER_TEST_DATABASE=standby $(PYTEST) --no-skips $(ARGS) tests/api/test_memory_races.py
	@$(PYTEST) --no-skips $(ARGS) tests/databases

test-fast: $(VENV)/dev.done ## Run the tests that are not marked slow, in under a minute
	@$(PYTEST) -m "not slow and not databases" $(ARGS)

bench: $(VENV)/dev.done ## Run the benchmarks; ARGS="--scale 1" runs them at full size
	@$(BIN)/python -m bench $(ARGS)

bench-search: $(VENV)/dev.done ## Measure search recall on a sample, or on the conversations in DATA=DIRECTORY
	@$(BIN)/python -m bench.recall $(if $(DATA),--data "$(DATA)") $(ARGS)

chaos: $(VENV)/dev.done ## Kill and freeze processes under load; ARGS="--seconds 60 --seed 1"
	@$(BIN)/python -m chaos $(ARGS)

siege: $(VENV)/dev.done ## Attack a server with one credential; ARGS="--seconds 60 --seed 1"
	@$(BIN)/python -m siege $(ARGS)

fuzz: $(VENV)/dev.done ## Send random requests; ARGS="--cases 1000 --seed 1" repeats a run
	@$(BIN)/python -m fuzz $(ARGS)

check: $(VENV)/dev.done ## Check format, lint, types, layers, and that generated files are up to date
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/buf format --diff --exit-code
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against protos/released.binpb && echo "the contract only grew since the last release"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT \
		&& $(MAKE) --no-print-directory protos STUBS="$$fresh" CLIENT="$$fresh" \
		&& diff --recursive --exclude=__pycache__ $(STUBS)/palaver/v1 "$$fresh/palaver/v1" \
		&& for file in "$$fresh"/palaver/client/*; do diff $(CLIENT)/palaver/client/ "$$file" || exit 1; done \
		&& echo "the stubs are up to date"
	@$(BIN)/python -m docs.settings_page | diff docs/settings.md - \
		&& echo "docs/settings.md is up to date" \
		|| { echo "docs/settings.md is out of date: run make settings-doc" >&2; exit 1; }

format: $(VENV)/dev.done ## Fix formatting, and lint errors where ruff can
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix
	@$(BIN)/buf format --write

protos: $(VENV)/dev.done ## Compile the stubs and the calls of the clients from the .proto files
	@rm -rf $(STUBS)/palaver/v1 && mkdir -p $(STUBS)
	@$(PROTOC) --python_out=$(STUBS) --mypy_out=quiet:$(STUBS) protos/palaver/v1/*.proto
	@$(PROTOC) --grpc_python_out=$(STUBS) --mypy_grpc_out=quiet:$(STUBS) \
		protos/palaver/v1/*_service.proto
	@touch $(STUBS)/palaver/v1/py.typed
	@mkdir -p $(CLIENT)/palaver/client && cp clients/service_config.json $(CLIENT)/palaver/client/
	@described=$$(mktemp) && trap 'rm -f "$$described"' EXIT \
		&& $(PROTOC) --include_source_info --descriptor_set_out="$$described" protos/palaver/v1/*.proto \
		&& $(BIN)/python clients/python/generate_calls.py "$$described" $(CLIENT)/palaver/client

rehome: $(VENV)/dev.done ## Set the module of the Go and Java stubs, as in MODULE=github.com/you/palaver
	@$(BIN)/python -m protos.rehome "$(MODULE)"
	@$(MAKE) --no-print-directory protos

settings-doc: $(VENV)/dev.done ## Write docs/settings.md from the settings model
	@$(BIN)/python -m docs.settings_page > docs/settings.md

# pyproject.toml has version ranges; the lock files pin exact versions.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version=3.11 --generate-hashes \
	--no-annotate --no-emit-package=palaver-client --custom-compile-command="make lock" pyproject.toml
RUN_EXTRAS = --extra=build --extra=embedded --extra=wordllama
DEV_EXTRAS = $(RUN_EXTRAS) --extra=tracing --extra=dev
UPGRADE ?= --upgrade
lock: $(VENV)/tools.done ## Pin the newest versions of all dependencies; UPGRADE= keeps pins that still fit
	@$(LOCK) $(UPGRADE) $(DEV_EXTRAS) --output-file=requirements/dev.txt
	@$(LOCK) $(UPGRADE) $(RUN_EXTRAS) --constraint=requirements/dev.txt --output-file=requirements/run.txt
	@$(LOCK) $(UPGRADE) $(DEV_EXTRAS) --resolution=lowest-direct --output-file=requirements/lowest.txt
	@$(LOCK) $(UPGRADE) --extra=build --extra=tools --constraint=requirements/dev.txt --output-file=requirements/tools.txt

# The versions of the lock files are audited, whatever is installed.
OSV = https://api.osv.dev
audit: $(VENV)/tools.done ## Look up the locked versions in the database of known vulnerabilities
	@$(BIN)/python -c 'import urllib.request as u; u.urlopen("$(OSV)/v1/vulns/PYSEC-2021-19", timeout=10)' \
		2>/dev/null || { echo "audit skipped: cannot reach the vulnerability database $(OSV)" >&2; exit 0; }; \
	$(BIN)/pip-audit --vulnerability-service=osv --disable-pip --require-hashes --progress-spinner=off \
		$(patsubst %,--requirement=requirements/%.txt,run dev tools)

sbom: $(VENV)/tools.done ## Write the software bill of materials of an installation, CycloneDX JSON, to SBOM=sbom.json
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file "$(or $(SBOM),sbom.json)" requirements/run.txt
	@echo "wrote $(or $(SBOM),sbom.json)"

clean: ## Remove virtual environments and caches; keeps the data of make run
	@rm -rf .venv* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make run` installs only the service's dependencies, other commands the development ones too.
$(VENV)/%.done: requirements/%.txt pyproject.toml clients/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"Palaver needs Python 3.11 or newer, but this is " + sys.version.split()[0] \
		+ "; name another, as in make PYTHON=python3.11 run")'
	@echo "Installing Palaver's dependencies into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--editable clients/python --editable .
	@touch $@
