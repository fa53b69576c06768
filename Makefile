# make story   a model that generates stories, in minutes, on any machine
# make check   lint, format, types and the quick tests, in less than a minute
# make test    the whole test suite
# make soak    random kills, damage and odd input, for 20 minutes
# make nightly make soak, and what takes too long for the suite

PYTHON ?= python3
RUN = .venv/bin/python
PYTEST = $(RUN) -m pytest --numprocesses=auto --dist=loadscope --no-loadscope-reorder

.PHONY: story check test soak nightly lint install

story: install
	$(RUN) prepare.py --source=storybook --tokenizer=bpe --vocab_size=1024
	$(RUN) train.py config/storybook_1m.py --overwrite=True
	$(RUN) sample.py --out_dir=out/storybook_1m --num_samples=3

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST)

soak: .venv/installed-dev
	$(RUN) tests/soak.py

nightly: soak
	$(RUN) -m pytest tests/nightly.py

lint: .venv/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyrefly check

install: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet -r requirements.txt
	touch .venv/installed

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch .venv/installed-dev
