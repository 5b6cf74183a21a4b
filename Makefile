# make demo    a verified chat completion on two hosts without a GPU, on this machine
# make test    lint, unit, contract and Molecule tests
# make test-nvidia  NVIDIA's driver and container toolkit on sandbox hosts, with fakes of GPUs
# make test-fleet   three hosts and two gateways under load: rolling updates, broken releases, faults, in Molecule
# make test-heal    one host broken in forty ways: its cause, and how it comes back, in Molecule
# make demo-finetune  the demo's model learns who it is, and is rolled out to both hosts
# make test-finetune  fine-tuning on a host that serves behind a gateway, in Molecule
# make chat    talk to the model of the demo (HOST=gpuless-b for the second host)
# make clean   remove all that the above left: containers, volumes, the sandbox's engine, caches
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
HOST ?= gpuless-a
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Ansible is started hundreds of times: without bytecode each start would compile all of it.
unexport PYTHONDONTWRITEBYTECODE
REQUIREMENTS := requirements.txt
STAMP := $(VENV)/.installed-$(shell sha256sum $(REQUIREMENTS) | cut -c1-12)
# The engine that runs here, or the sandbox's own.
ENGINE = sandbox/engine.sh up; eval "$$(sandbox/engine.sh env)"

.PHONY: help demo demo-finetune test test-nvidia test-fleet test-heal test-finetune chat clean lint unit molecule venv build

help: ## Show the targets
	@sed -n 's/^# make/  make/p' Makefile

$(STAMP): $(REQUIREMENTS)
	@sandbox/prerequisites.sh $(PYTHON)
	@echo "Installing the Python packages into $(VENV) (1 minute)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@pip install --quiet --no-compile --requirement $(REQUIREMENTS) >$(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log >&2; exit 1; }
	@touch $@

venv: $(STAMP)

demo: venv
	@$(ENGINE); sandbox/demo.sh

demo-finetune: venv
	@$(ENGINE); sandbox/finetune.sh

chat: venv
	@eval "$$(sandbox/engine.sh env)"; sandbox/chat.sh $(HOST)

test: lint unit molecule

lint: venv
	@echo "Lint"
	@ruff check . && ruff format --check .
	@mypy
	@git ls-files -z '*.yml' '*.yaml' | xargs -0 yamllint --strict
	@shellcheck sandbox/*.sh roles/fastchat/files/vicuna-chat roles/fastchat/files/vicuna-call
	@ansible-lint --offline -q
	@antsibull-changelog lint
	@tools/readme_tables.py --check

unit: venv
	@PATH=$$PATH:/usr/sbin sandbox/prerequisites.sh $(PYTHON) git-lfs curl jq haproxy gpg gpg-agent
	@echo "Unit and contract tests"
	@# A test that hangs fails with its stack; the slowest takes half a minute.
	@pytest --quiet --numprocesses=3 --dist=loadfile --timeout=300 --junitxml=reports/junit-unit.xml

molecule: venv
	@echo "Molecule: one scenario, two hosts, the whole path (10 minutes)"
	@$(ENGINE); MOLECULE_GLOB='molecule/*/molecule.yml' molecule test --scenario-name default

test-nvidia: venv
	@echo "Molecule: NVIDIA's driver and container toolkit on two hosts with fakes of GPUs"
	@$(ENGINE); MOLECULE_GLOB='molecule/*/molecule.yml' molecule test --scenario-name nvidia

test-fleet: venv
	@echo "Molecule: three hosts and two gateways under load (20 minutes; figures in reports/load-fleet.json)"
	@$(ENGINE); MOLECULE_GLOB='molecule/*/molecule.yml' molecule test --scenario-name fleet

test-heal: venv
	@echo "Molecule: one host broken in forty ways (15 minutes; figures in reports/heal.json)"
	@$(ENGINE); MOLECULE_GLOB='molecule/*/molecule.yml' molecule test --scenario-name heal

test-finetune: venv
	@# The control node fetches a repository of dialogues.
	@sandbox/prerequisites.sh $(PYTHON) git-lfs
	@echo "Molecule: fine-tuning on one host that serves behind a gateway (10 to 20 minutes)"
	@$(ENGINE); MOLECULE_GLOB='molecule/*/molecule.yml' molecule test --scenario-name finetune

build: venv
	@ansible-galaxy collection build --force

clean:
	@sandbox/clean.sh
	@rm -rf $(VENV) .venv-* .sandbox .cache .ansible .mypy_cache .pytest_cache .ruff_cache .hypothesis reports vicuna-fleet-*.tar.gz
	@rm -rf inventories/sandbox/.secrets molecule/*/inventory/.secrets
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	@echo "Nothing of the sandbox is left."
