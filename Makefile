# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Neither make nor the first line of a script has a way to quote these characters.
AWKWARD := $(shell pwd -P | LC_ALL=C tr -d 'A-Za-z0-9._/+@,~ \n\200-\377-' | wc -c)
ifneq ($(AWKWARD),0)
$(error the path "$(shell pwd -P)" has a character that scripts would have to quote: \
clone sandlot into one of letters, digits, spaces and ._/+@,~-)
endif

# Ansible reads and writes UTF-8 only, and stops in the locale C.
ifeq ($(filter UTF-8 utf8,$(shell locale charmap 2>/dev/null)),)
export LC_ALL := C.UTF-8
endif

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Integration tests and Molecule need root, which should leave no files of its own in the tree, and
# the system's tools, which are not on the PATH of an ordinary user.
AS_ROOT := $(SUDO) env PATH="$(BIN):$$PATH:/usr/local/sbin:/usr/sbin:/sbin" PYTHONDONTWRITEBYTECODE=1 $(if $(SANDLOT_SHARED_HOST),SANDLOT_SHARED_HOST=1)
# Ansible takes no ansible.cfg of a directory that all may write unless it is named. It has no
# terminal of ours for sudo, so what sudo remembers does not help it.
PLAYBOOK = ANSIBLE_CONFIG="$(CURDIR)/ansible.cfg" "$(BIN)/ansible-playbook" $(if $(SUDO),$$(sudo -kn true 2>/dev/null || echo --ask-become-pass))
# Not from the environment: the target collection empties it.
BUILD := build
STAGE = $(BUILD)/ansible_collections/sandlot/sandlot

TEST_PACKAGES := acl btrfs-progs curl debootstrap e2fsprogs fish groff-base iproute2 mmdebstrap nftables openssh-client openssl python3-pyroute2 shellcheck skopeo strace sudo unzip util-linux zip zsh zstd
# What sandbox_host would install: of two packages that exclude each other, the one that is there stays.
HOST_BUSYBOX = $(if $(wildcard /bin/busybox /usr/bin/busybox),,busybox $(if $(wildcard /bin/ping /usr/bin/ping),,iputils-ping))
SUITES ?= bookworm trixie
# What make integration runs.
TESTS ?= tests/integration
# Processes of pytest, each with a network and mounts of its own.
WORKERS ?= 2
VM_PACKAGES := e2fsprogs mmdebstrap openssh-client qemu-system-x86 qemu-utils
NEWCOMER_PACKAGES := git iproute2 mmdebstrap nftables slirp4netns sudo util-linux

# A checkout that somebody else has made can be deployed from, and neither be changed nor tested.
define ours
for path in . $(VENV); do \
  [[ ! -e $$path || -w $$path ]] || { \
    echo "$$(realpath $$path) belongs to $$(stat -Lc %U $$path):" \
      "run make as $$(stat -Lc %U $$path), or clone sandlot as $$(id -un)" >&2; exit 1; }; \
done
endef

# Installs what is missing of the Debian packages named; says nothing when all are there.
define packages
missing=(); for package in $(1); do \
  [[ "$$(dpkg-query -Wf '$${Status}' "$$package" 2>/dev/null)" == *" ok installed" ]] || missing+=("$$package"); \
done; \
if (($${#missing[@]})); then \
  echo "Installing $${missing[*]}"; \
  $(SUDO) apt-get update -q; \
  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$${missing[@]}"; \
fi
endef

.PHONY: help deploy teardown test lint unit integration molecule test-vm newcomer pythons controllers targets bench sweep collection clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

deploy: $(VENV)/.runtime ## Set up all that is needed and start the demo on this machine
	@$(PLAYBOOK) deploy-sandbox.yml

teardown: $(VENV)/.runtime ## Remove the demo and the runtime from this machine
	@$(PLAYBOOK) playbooks/teardown_sandbox.yml

# One pytest run at the end, so that its summary is the last line.
test: TESTS := tests/unit tests/integration
test: lint molecule integration ## Lint, Molecule, unit and integration tests

lint: test-packages $(VENV)/.dev ## Check style, types, playbooks and shell scripts
	@$(ours)
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/mypy"
	@"$(BIN)/yamllint" --strict .
	@PATH="$(BIN):$$PATH" "$(BIN)/ansible-lint" --strict -q
	@shellcheck .ci/run .ci/user
	@$(MAKE) --no-print-directory collection
	@"$(BIN)/python" tests/sanity.py build/*.tar.gz

unit: $(VENV)/.test ## Tests that need no root
	@$(ours)
	@"$(BIN)/pytest" tests/unit

integration: test-packages $(VENV)/.test ## Tests that make real sandboxes
	@$(AS_ROOT) "$(BIN)/pytest" -p no:cacheprovider -n $(WORKERS) --dist loadfile $(TESTS)

molecule: test-packages newcomer-packages $(VENV)/.dev ## Deploy, crash, repair and remove, as a user would
	@$(AS_ROOT) MOLECULE_GLOB='molecule/*/molecule.yml' "$(BIN)/molecule" reset --all
	@$(AS_ROOT) MOLECULE_GLOB='molecule/*/molecule.yml' "$(BIN)/molecule" test --all

# Emulated unless KVM=1 is given: some machines have a /dev/kvm on which guests hang.
# All releases at a time, unless GUESTS is the number of them.
test-vm: vm-packages $(VENV)/.test ## Deploy, reboot and cut the power of Debian hosts in QEMU
	@$(AS_ROOT) SANDLOT_VM_KVM=$(KVM) SANDLOT_VM_SUITES="$(SUITES)" "$(BIN)/pytest" -p no:cacheprovider -n $(or $(GUESTS),$(words $(SUITES))) tests/vm

# Each newcomer has a process, as they wait for downloads most of the time.
newcomer: newcomer-packages $(VENV)/.test ## Type what README and tutorial say on pristine Debian 12, 13 and sid
	@$(AS_ROOT) "$(BIN)/pytest" -p no:cacheprovider -n 4 tests/newcomer

pythons: test-packages $(VENV)/.test ## Each module on hosts with Python 3.9 to 3.14
	@$(AS_ROOT) "$(BIN)/pytest" -p no:cacheprovider -rs tests/pythons

# One Debian after the other: each takes a minute to make, and each ansible-core one on it.
controllers: test-packages $(VENV)/.test ## The collection from each ansible-core on Python 3.11 to 3.14
	@$(AS_ROOT) SANDLOT_CONTROLLERS=1 "$(BIN)/pytest" -p no:cacheprovider -rs tests/integration/test_controllers.py

# All parts, or those of PARTS; SMALL=1 tries the bench itself.
bench: test-packages $(VENV)/.bench ## Measure, and compare with public tools
	@mkdir -p build
	@$(AS_ROOT) "$(BIN)/python" bench/run.py $(if $(SMALL),--small) $(PARTS)

# Half an hour on two processors; the results of each step are in build/sweep.jsonl while it runs.
targets: test-packages $(VENV)/.test ## Ansible's own tests of modules, through the connection plugin
	@$(AS_ROOT) SANDLOT_TARGETS=1 "$(BIN)/pytest" -p no:cacheprovider tests/integration/test_connection_targets.py

sweep: test-packages $(VENV)/.test ## Each fault at each system call of a run, and the tables of it
	@mkdir -p build && rm -f build/sweep.jsonl
	@$(AS_ROOT) "$(BIN)/python" tests/sweep/run.py --append build/sweep.jsonl || failed=$$?; \
	  $(AS_ROOT) "$(BIN)/python" tests/sweep/run.py --summary build/sweep.jsonl; exit $${failed:-0}

collection: $(VENV)/.runtime ## Build the tree as a collection, into build/
	@$(ours)
	@rm -rf "$(BUILD)"
	@mkdir -p "$(STAGE)"
	@cp -rL CONTRIBUTING.md LICENSE README.md changelogs docs galaxy.yml meta playbooks plugins roles "$(STAGE)"
	@mkdir "$(STAGE)/tests" && cp tests/config.yml "$(STAGE)/tests"
	@find "$(STAGE)" -name __pycache__ -prune -exec rm -r {} +
	@"$(BIN)/ansible-galaxy" collection build --force --output-path "$(BUILD)" "$(STAGE)"

clean: ## Remove the virtual environment and all caches
	@rm -rf $(VENV) build .ansible .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -r {} +

.PHONY: install test-packages vm-packages newcomer-packages
install: test-packages vm-packages newcomer-packages $(VENV)/.dev

test-packages: $(VENV)/bin/docker-registry $(VENV)/bin/promtool $(VENV)/share/lxcfs/usr/bin/lxcfs $(VENV)/share/busybox/busybox $(VENV)/share/openssh/usr/sbin/sshd
	@$(call packages,$(TEST_PACKAGES) $(HOST_BUSYBOX))

vm-packages:
	@$(call packages,$(VM_PACKAGES))

newcomer-packages:
	@$(call packages,$(NEWCOMER_PACKAGES))

# Debian's python3 can't make a virtual environment until python3-venv brings ensurepip.
$(VENV)/.python:
	@$(ours)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call packages,python3-venv); }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "The controller needs Python 3.11 or later; name one with make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The program alone: its package starts a registry on all addresses, now and at each boot.
$(VENV)/bin/docker-registry: | $(VENV)/.python
	@$(ours)
	@rm -rf build/registry && mkdir -p build/registry
	@cd build/registry; apt-get -q -o APT::Sandbox::User=root download docker-registry || \
	  { $(SUDO) apt-get update -q && apt-get -q download docker-registry; }
	@dpkg-deb --extract build/registry/*.deb build/registry
	@mv build/registry/usr/bin/docker-registry $@
	@rm -r build/registry

# The program alone: its package starts Prometheus, now and at each boot.
$(VENV)/bin/promtool: | $(VENV)/.python
	@$(ours)
	@rm -rf build/prometheus && mkdir -p build/prometheus
	@cd build/prometheus; apt-get -q -o APT::Sandbox::User=root download prometheus || \
	  { $(SUDO) apt-get update -q && apt-get -q download prometheus; }
	@dpkg-deb --extract build/prometheus/*.deb build/prometheus
	@mv build/prometheus/usr/bin/promtool $@
	@rm -r build/prometheus

# Not installed: its package starts lxcfs, now and at each boot.
$(VENV)/share/lxcfs/usr/bin/lxcfs: | $(VENV)/.python
	@$(ours)
	@rm -rf build/lxcfs && mkdir -p build/lxcfs $(VENV)/share/lxcfs
	@cd build/lxcfs; download() { \
	    apt-get -q -o APT::Sandbox::User=root download lxcfs \
	      $$(apt-cache depends lxcfs | sed -n 's/.* \(libfuse[^ ]*\)$$/\1/p'); }; \
	  download || { $(SUDO) apt-get update -q && download; }
	@for package in build/lxcfs/*.deb; do dpkg-deb --extract $$package $(VENV)/share/lxcfs; done
	@rm -r build/lxcfs

# Not installed: its package starts sshd, now and at each boot. The client's package has its other libraries.
$(VENV)/share/openssh/usr/sbin/sshd: | $(VENV)/.python
	@$(ours)
	@rm -rf build/openssh && mkdir -p build/openssh $(VENV)/share/openssh
	@cd build/openssh; download() { \
	    apt-get -q -o APT::Sandbox::User=root download openssh-server \
	      $$(apt-cache depends openssh-server | sed -n 's/.* \(libw[^ ]*\)$$/\1/p'); }; \
	  download || { $(SUDO) apt-get update -q && download; }
	@for package in build/openssh/*.deb; do dpkg-deb --extract $$package $(VENV)/share/openssh; done
	@rm -r build/openssh

# Not installed: its package takes away the package busybox, which make deploy installs.
$(VENV)/share/busybox/busybox: | $(VENV)/.python
	@$(ours)
	@rm -rf build/busybox && mkdir -p build/busybox $(@D)
	@cd build/busybox; apt-get -q -o APT::Sandbox::User=root download busybox-static || \
	  { $(SUDO) apt-get update -q && apt-get -q download busybox-static; }
	@dpkg-deb --extract build/busybox/*.deb build/busybox
	@mv "$$(find build/busybox -type f -path '*/bin/busybox')" $@
	@rm -r build/busybox

$(VENV)/.runtime: requirements.txt $(VENV)/.python
	@$(ours)
	@echo "Installing what requirements.txt lists into $(VENV)"
	@"$(BIN)/python" -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.runtime
	@$(ours)
	@echo "Installing what requirements-test.txt lists into $(VENV)"
	@"$(BIN)/python" -m pip install --quiet -r requirements-test.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.test
	@$(ours)
	@echo "Installing what requirements-dev.txt lists into $(VENV)"
	@"$(BIN)/python" -m pip install --quiet -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.runtime
	@$(ours)
	@echo "Installing what requirements-bench.txt lists into $(VENV)"
	@"$(BIN)/python" -m pip install --quiet -r requirements-bench.txt
	@touch $@
