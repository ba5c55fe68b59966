# ros: `make run` boots the OS in a virtual machine, `make test` passes the tests. Both set everything up.
# PROFILE=dev builds quickly (default here and in tests); PROFILE=release is what ships (link-time optimisation, smaller).

PROFILE       ?= dev
MEMORY        ?= 512
DISK_SIZE     ?= 4G
CLOUD_CONFIG  ?=
RELEASE       ?= v1.0
FIRMWARE      ?= bios
SSH_PORT      ?= 2222
REGISTRY_PORT ?= 5000
DETACH        ?=
CMD           ?=
CUTS          ?= 500
BOOTS         ?= 50
SEED          ?= 1
SECONDS_EACH  ?= 60
FUZZ          ?=
REPORT        ?=
SHORT         ?=
ALL           ?=
CASES         ?=

TRIPLE   := x86_64-unknown-linux-gnu
TARGET   := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BIN       = $(TARGET)/$(TRIPLE)/$(PROFILE:dev=debug)
IMAGES   := $(CURDIR)/target/images
RELEASES := v1.0 v1.1 v1.2
PLANTED  := v1.3-hang v1.4-panic v1.5-sick v1.6-sickens v1.7-console v1.8-never v1.9-schema v1.9-daemon v1.10-crashes v1.11-forgets v1.12-half v1.13-wrong v1.14-engine v1.15-engine
# An emulator translates a program anew wherever it is loaded: at the same addresses each time, a boot takes two thirds. Without the
# crypto self-tests, the mitigations and the zeroing of memory that is given out, it takes a seventh less again.
# These disks are for virtual machines on this host; what is installed elsewhere is built without.
EMULATED := norandmaps cryptomgr.notests mitigations=off init_on_alloc=0
REGISTRY := 127.0.0.1:$(REGISTRY_PORT)
export PATH := $(HOME)/.cargo/bin:/usr/sbin:/sbin:$(PATH)

.PHONY: help run ssh stop clean-vm setup build images images-for-test registry test test-api scale bench compare fuzz torture pairs space docs figures clean

help:
	@echo 'make run       build everything, boot ros in QEMU on this terminal (DETACH=1: in the background)'
	@echo 'make ssh       a shell inside, or CMD="ros os list"'
	@echo 'make stop      power it off          make clean-vm   forget its disk'
	@echo 'make test      formatting, lints, unit tests; of the VM tests the core and a twentieth of the others (ALL=1: all of them)'
	@echo 'make test-api  the integration tests of bollard and docker-py against the daemon, on this machine'
	@echo 'make scale     a thousand containers, and that nothing is left of them; minutes'
	@echo 'make fuzz      every fuzz target for SECONDS_EACH=60 (FUZZ="yaml cmdline": only these)'
	@echo 'make bench     beside Docker and podman, on this machine (SHORT=1: in some minutes)'
	@echo 'make compare   docker'\''s command line here and with dockerd: where the answers differ (CASES=logs: only these)'
	@echo 'make torture   the power is cut CUTS=500 times (REPORT=docs/reliability.md: the tables go there)'
	@echo 'make pairs     every way between five releases, up and down, in a machine; minutes'
	@echo 'make space     what ten versions take on the disk, and fifty upgrades on the smallest; half an hour'
	@echo 'make docs      docs/docker-api.md from the router'
	@echo 'make figures   sizes, boot times, memory, as SPECIFICATION.md has them'
	@echo 'variables      MEMORY= DISK_SIZE= CLOUD_CONFIG= RELEASE= FIRMWARE=bios|uefi SSH_PORT= PROFILE='

setup:
	@scripts/setup

# In development, what the tests need comes with it, so that nothing is compiled twice for `make run` and `make test`.
PARTS = $(if $(filter dev,$(PROFILE)),--workspace --lib --bins --examples,-p system-docker -p ros -p os-images -p ros-tests)

# BUILT=1: the programs are there.
build: setup
	$(if $(BUILT),,cargo build --profile $(PROFILE) $(PARTS))

# Where a machine in QEMU finds the registry of this checkout: a fragment below the user's own configuration.
$(IMAGES)/registry-$(REGISTRY_PORT).yml:
	@mkdir -p $(IMAGES)
	@printf "#cloud-config\nros:\n  upgrade: {repository: '10.0.2.2:$(REGISTRY_PORT)/os'}\n  registries: {'10.0.2.2:$(REGISTRY_PORT)': {plain_http: true}}\n" > $@

images: build $(IMAGES)/registry-$(REGISTRY_PORT).yml
	$(BIN)/os-images --bin-dir $(BIN) --out $(IMAGES) release $(RELEASES)
	$(BIN)/os-images --bin-dir $(BIN) --out $(IMAGES) disk $(RELEASE) --cloud-config $(IMAGES)/registry-$(REGISTRY_PORT).yml --append "$(EMULATED)"

# Every release that the VM tests need, and the disk they start from.
images-for-test: build $(IMAGES)/registry-$(REGISTRY_PORT).yml
	$(BIN)/os-images --bin-dir $(BIN) --out $(IMAGES) release $(RELEASES) $(PLANTED)
	$(BIN)/os-images --bin-dir $(BIN) --out $(IMAGES) disk v1.0 --cloud-config $(IMAGES)/registry-$(REGISTRY_PORT).yml --append "$(EMULATED)"
	@$(BIN)/ros-vm --dir target/test/push push --builder $(BIN)/os-images --registry-port 5099 $(RELEASES) $(PLANTED)
	@$(BIN)/ros-vm --dir target/test/push stop

registry: images
	@$(BIN)/ros-vm --dir target/vm push --builder $(BIN)/os-images --registry-port $(REGISTRY_PORT) $(RELEASES)

run: registry
	@$(BIN)/ros-vm run --memory $(MEMORY) --disk-size $(DISK_SIZE) --release $(RELEASE) --firmware $(FIRMWARE) \
	  --ssh-port $(SSH_PORT) --registry-port $(REGISTRY_PORT) \
	  $(if $(CLOUD_CONFIG),--cloud-config $(CLOUD_CONFIG)) $(if $(DETACH),--detach)

ssh:
	@$(BIN)/ros-vm ssh --port $(SSH_PORT) -- $(if $(CMD),'$(subst ','\'',$(CMD))')

stop:
	@if [ -x $(BIN)/ros-vm ]; then $(BIN)/ros-vm stop; fi

clean-vm:
	@if [ -x $(BIN)/ros-vm ]; then $(BIN)/ros-vm clean; fi

# The figures of SPECIFICATION.md, measured on this machine.
figures: PROFILE = release
figures: images
	@scripts/figures $(BIN)

test: setup
	@ALL=$(ALL) TURN=$(TURN) scripts/test $(PROFILE) $(CASES)

# Pages that are written from the code: a test fails when one is stale.
docs:
	WRITE_DOCS=1 cargo test -q -p system-docker coverage

# Two suites that others wrote for Docker: the score and what fails.
test-api: setup
	@PROFILE=$(PROFILE) scripts/test-api

# Many containers under the daemon on this machine: what it held before, it holds after.
scale: build
	ROS_PROGRAMS=$(BIN) cargo test --workspace --test engine -- --ignored --nocapture a_thousand

# What reads outside text, against what a fuzzer thinks of.
fuzz: setup
	@scripts/fuzz $(SECONDS_EACH) $(FUZZ)

# Beside Debian 13's dockerd + containerd + runc and podman + crun, on this machine's kernel.
bench: PROFILE = release
bench: images
	@PROFILE=$(PROFILE) SHORT=$(SHORT) scripts/bench

# The same words of docker's command line to both daemons: where the answers differ.
compare: setup
	@cargo build --quiet --profile $(PROFILE) -p system-docker
	@PROFILE=$(PROFILE) scripts/compare $(CASES)

# Power cuts during first boot, upgrade, rollback and prune: see docs/reliability.md. Last line: cuts, old, new, lost.
torture: images-for-test
	@$(BIN)/ros-vm --dir target/torture torture --cuts $(CUTS) --boots $(BOOTS) --seed $(SEED) \
	  $(if $(REPORT),--report $(REPORT))

# Every way between five releases, up and down, of every class.
pairs: images-for-test
	ROS_PROGRAMS=$(BIN) cargo test --workspace --test vm -- --ignored --nocapture every_way_between

# Ten versions side by side, then fifty upgrades with a boot set each, on the smallest disk.
space: images-for-test
	ROS_PROGRAMS=$(BIN) cargo test --workspace --test vm -- --ignored --nocapture ten_versions

clean: stop
	rm -rf target
