# Every command here installs what it needs first; a second `make setup` is instant.
PYTHON_ENV := .venv/bin
STAMP := .venv/.setup-stamp
TEST_STAMP := tests/node/node_modules/.setup-stamp

.PHONY: setup demo test test-large lint bench bench-rivals

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup.sh $(wildcard setup.py fs/*.c fs/*.h store/*.c)
	sh scripts/setup.sh .venv
	touch $@

$(TEST_STAMP): tests/node/package.json $(STAMP)
	sh scripts/setup.sh .venv test-servers
	touch $@

demo: $(STAMP)
	PATH="$(CURDIR)/$(PYTHON_ENV):$$PATH" sh demo/demo.sh

test: $(TEST_STAMP)
	$(PYTHON_ENV)/python -m pytest -p tests.plugin_noskip

# Real sizes: files to 8 GiB, a million files. Minutes to hours, tens of GB in $$TMPDIR.
test-large: $(TEST_STAMP)
	$(PYTHON_ENV)/python -m pytest -p tests.plugin_noskip -m large --timeout 7200

lint: $(STAMP)
	$(PYTHON_ENV)/ruff format --check
	$(PYTHON_ENV)/ruff check
	$(PYTHON_ENV)/mypy dvfs tests bench

# GROUP=race measures the rivals too, and installs them into .rivals/ if they are not there. GROUP=growth follows costs
# to versions of ten million entries and lineages of a thousand.
bench: $(STAMP)
	PATH="$(CURDIR)/$(PYTHON_ENV):$$PATH" $(PYTHON_ENV)/python -m bench $(addprefix --only ,$(GROUP))

bench-rivals: $(STAMP)
	$(PYTHON_ENV)/python -m bench.race.installing
