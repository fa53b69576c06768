# make story   a model that tells stories, in minutes, on any machine
# make test    the whole test suite

PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: story test install

story: install
	$(RUN) prepare.py --source=storybook --tokenizer=bpe --vocab_size=1024
	$(RUN) train.py config/storybook_1m.py --overwrite=True
	$(RUN) sample.py --out_dir=out/storybook_1m --num_samples=3

test: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest --numprocesses=auto --dist=loadscope --no-loadscope-reorder

install: .venv/installed

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet -r requirements.txt
	touch .venv/installed
