# pptpalg: what there is to make.
#
#   make          bin/pptpalg (TAGS=nocluster,noweb,noreplay for a small router)
#   make demo     the main job on a network of namespaces, with real PPTP programs
#   make demo-ha  two gateways and etcd: one gateway is killed, and no call is lost
#   make test     all tests, as root
#   make check    format, vet, staticcheck, dead code, sizes, import arrows, tidy go.mod, race tests
#                 (two packages at a time)
#   make test-vm  real PPP calls, with MPPE, on Debian's kernel in an emulated machine (SCENES='^fast-' for some)
#   make test-fresh  a new Debian under systemd: install, call, fast path, break, explain, upgrade, restart, purge (SCENES, too)
#   make soak     clients, crashes, floods and flushes for SOAK
#   make chaos     two gateways and etcd, of which parts die, are stopped, cut off and replaced, for CHAOS
#   make kills     the gateway with the addresses is killed KILLS times under load: no established call dies
#   make fuzz     each fuzz target for FUZZTIME
#   make mutants  MUTANTS changes to the editor and the call table, drawn from SEED: 92 of 100 must fail a unit test
#   make deb      bin/pptpalg_VERSION_ARCH.deb; make rpm, apk, ipk, archlinux the same for others (ARCH=arm64 for another machine)
#   make packages bin/packages: deb, rpm, apk and Arch's for MACHINES (amd64,arm64,armv7), and OpenWrt's ipk for these and
#                 mipsle; each is read by its own tool, and its program runs, in an emulator if need be
#   make release  bin/release: the same, signed with KEY of GnuPG, and a repository from which apt installs
#   make image    bin/pptpalg_VERSION_image.tar, a container image for MACHINES, and runs it
#   make ansible  has ansible-lint read the role in deploy/ansible, and sets a Debian up by it
#   make man      bin/man, the manual pages
#   make generate the BPF programs of the fast path, which are committed: the same bytes on each Debian 12
#   make bench    twenty minutes of figures beside the kernel's own helper; REPORT=FILE writes them there
#
# demo, demo-ha, test, test-vm, test-fresh, check, packages, release, image, ansible, generate and bench install the Debian
# packages that they need, and say so.

GO       ?= go
FUZZTIME ?= 10m
SCENES   ?=
SOAK     ?= 5m
CHAOS    ?= 60s
KILLS    ?= 50
MUTANTS  ?= 100
SEED     ?= 1
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
ARCH     ?= $(shell $(GO) env GOARCH)
MACHINES ?= amd64,arm64,armv7
# What the program is built without: docs/SIZE.md.
TAGS     ?=
SMALL    ?= nocluster,noweb,noreplay
ROUTERS  ?= $(MACHINES),mipsle
# What a release is signed with.
KEY      ?=
# The time of every file in the packages.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
SUDO     := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
AS_ROOT  := $(if $(SUDO),$(SUDO) -E env "PATH=$$PATH" "GOPATH=$$($(GO) env GOPATH)" "GOCACHE=$$($(GO) env GOCACHE)")

RUN_PACKAGES  := iptables iproute2 conntrack pptp-linux pptpd
TEST_PACKAGES := $(RUN_PACKAGES) tcpdump procps nftables mmdebstrap rpm chromium etcd-server etcd-client openssl keepalived rsyslog rsyslog-gnutls nfdump zstd pacman-package-manager
HA_PACKAGES   := $(RUN_PACKAGES) etcd-server
RACE_PACKAGES := $(TEST_PACKAGES) gcc libc6-dev
BENCH_PACKAGES := iptables iproute2 nftables etcd-server
VM_PACKAGES    := $(RUN_PACKAGES) nftables ppp iputils-ping kmod qemu-system-x86
FRESH_PACKAGES := mmdebstrap kmod qemu-system-x86
BPF_PACKAGES   := clang-14 llvm-14
PACK_PACKAGES  := iptables iproute2 mmdebstrap rpm pacman-package-manager zstd libarchive-tools lintian qemu-user-static
RELEASE_PACKAGES := iptables iproute2 mmdebstrap apt-utils gpg gpg-agent gpgv
IMAGE_PACKAGES := iptables iproute2 skopeo umoci runc
ANSIBLE_PACKAGES := iptables iproute2 mmdebstrap ansible ansible-lint

# A go that is too old fetches a newer one by itself, unless it must not (GOTOOLCHAIN=local) or
# is older than 1.21: then what it says of our go.mod helps nobody.
GO_WANTED := go$(shell sed -n 's/^go //p' go.mod)
GO_FOUND  := $(filter go%,$(shell $(GO) env GOVERSION 2>/dev/null || { cd / && $(GO) env GOVERSION 2>/dev/null; }))
ifeq ($(shell printf '%s\n' $(GO_WANTED) $(GO_FOUND) | sort -VC && echo $(GO_FOUND)),)
$(error pptpalg is built by $(GO_WANTED) or newer, and $(GO) is $(or $(GO_FOUND),not there): see https://go.dev/dl, and name yours by make GO=/path/to/go)
endif

.PHONY: all build demo demo-ha test testrun test-vm test-fresh check lint race soak chaos kills fuzz mutants bench deb rpm apk ipk archlinux packages release image ansible man generate generated clean packages-demo packages-ha packages-test packages-race packages-bench packages-vm packages-fresh packages-bpf packages-pack packages-release packages-image packages-ansible

all: build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -tags '$(TAGS)' -ldflags '-s -w -X main.version=$(VERSION)' -o bin/pptpalg ./cmd/pptpalg

demo: packages-demo build
	$(GO) build -o bin/demo ./cmd/demo
	$(SUDO) bin/demo bin/pptpalg

demo-ha: packages-ha build
	$(GO) build -o bin/demo ./cmd/demo
	$(SUDO) bin/demo -ha bin/pptpalg

test: packages-test testrun
	$(AS_ROOT) PPTPALG_NO_SKIP=1 bin/testrun $(GO) test -p=2 -parallel=4 -count=1 -timeout=30m ./...
	$(GO) -C deploy/prometheus test -count=1 .

# Says how many packages of how many have ended.
testrun:
	@$(GO) build -o bin/testrun ./cmd/testrun

test-vm: packages-vm build
	CGO_ENABLED=0 $(GO) build -o bin/vmtest ./cmd/vmtest
	$(AS_ROOT) bin/vmtest -scenes '$(SCENES)' bin/pptpalg

# The two versions differ in nothing but their number.
test-fresh: packages-fresh
	CGO_ENABLED=0 $(GO) build -o bin/vmtest ./cmd/vmtest
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(GO) run ./cmd/package -version v1.0.0 -arch amd64 -o bin/fresh deb
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(GO) run ./cmd/package -version v2.0.0 -arch amd64 -o bin/fresh deb
	$(AS_ROOT) bin/vmtest -timeout 30m -scenes '$(SCENES)' -fresh bin/fresh/pptpalg_1.0.0_amd64.deb bin/fresh/pptpalg_2.0.0_amd64.deb

check: lint race

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not gofmt'd: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	$(GO) -C deploy/prometheus mod tidy -diff
	$(GO) -C deploy/prometheus vet .
	$(GO) -C deploy/package mod tidy -diff
	$(GO) -C deploy/image mod tidy -diff
	$(GO) -C deploy/image vet .
	$(GO) vet -tags $(SMALL) ./cmd/pptpalg/...
	./.ci/arrows
	GO="$(GO)" ./.ci/dead
	./.ci/sizes
	$(MAKE) generated

# cmd/package passes as well, but takes two and a half minutes, and is left out: what its tests run in a Debian of their
# own is the program as it is packaged, without the race detector.
race: packages-race testrun
	$(AS_ROOT) PPTPALG_NO_SKIP=1 bin/testrun $(GO) test -race -short -p=2 -parallel=4 -count=1 -timeout=30m $$($(GO) list ./... | grep -v '^pptpalg/cmd/package$$')

soak: packages-test
	$(AS_ROOT) PPTPALG_NO_SKIP=1 $(GO) test -count=1 -run '^TestSoak$$' -timeout 2h ./cmd/pptpalg -soak $(SOAK) -v

chaos: packages-test
	$(AS_ROOT) PPTPALG_NO_SKIP=1 $(GO) test -count=1 -run '^TestChaos$$' -timeout 2h ./cmd/pptpalg -chaos $(CHAOS) -v

kills: packages-test
	$(AS_ROOT) PPTPALG_NO_SKIP=1 $(GO) test -count=1 -run '^TestKills$$' -timeout 1h ./cmd/pptpalg -kills $(KILLS) -v

fuzz:
	./.ci/fuzz $(FUZZTIME)

mutants:
	$(GO) run ./cmd/mutants -n $(MUTANTS) -seed $(SEED) ./alg/calls ./alg ./alg/stream ./alg/pptp ./alg/packet ./alg/gre

bench: packages-bench build
	CGO_ENABLED=0 $(GO) build -o bin/bench ./cmd/bench
	$(SUDO) bin/bench $(if $(REPORT),-o $(REPORT))

PACKAGE = SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(GO) run ./cmd/package -version '$(VERSION)'
LOOK_AT = $(AS_ROOT) PPTPALG_NO_SKIP=1 $(GO) test -count=1 -v ./cmd/package

deb rpm apk archlinux:
	$(PACKAGE) -o bin -arch $(ARCH) -tags '$(TAGS)' $@

ipk:
	$(PACKAGE) -o bin -arch $(ARCH) -tags $(SMALL) ipk

packages: packages-pack
	rm -rf bin/packages
	$(PACKAGE) -o bin/packages -arch $(MACHINES) deb rpm apk archlinux
	$(PACKAGE) -o bin/packages -arch $(ROUTERS) -tags $(SMALL) ipk
	$(LOOK_AT) -run '^(TestBuilt|TestLife)' -built $(CURDIR)/bin/packages

# Earlier releases stay in the repository, as long as bin/release does.
release: packages-release
	@[ -n '$(KEY)' ] || { echo "release: name the key to sign with: make release KEY=… (gpg --list-secret-keys)"; exit 1; }
	$(PACKAGE) -o bin/release -arch $(MACHINES) deb rpm apk archlinux
	$(PACKAGE) -o bin/release -arch $(ROUTERS) -tags $(SMALL) ipk
	$(PACKAGE) -o bin/release -key '$(KEY)' release
	$(LOOK_AT) -run '^TestReleased?$$' -released $(CURDIR)/bin/release

image: packages-image
	$(GO) -C deploy/image test -count=1 .
	$(LOOK_AT) -run '^TestImage$$' -image "$(CURDIR)/$$($(PACKAGE) -o bin -arch $(MACHINES) image)"

ansible: packages-ansible
	cd deploy/ansible && ansible-lint --offline && ansible-playbook --syntax-check -i localhost, gateway.yml
	$(LOOK_AT) -run '^TestRole$$' -role

man: build
	mkdir -p bin/man
	bin/pptpalg man bin/man

# The bytes depend on the compiler alone, so another one will not do.
generate: packages-bpf
	@for tool in clang-14 llvm-strip-14; do command -v $$tool >/dev/null || { echo "generate: $$tool is not there: Debian 12 has it in clang-14 and llvm-14"; exit 1; }; done
	$(GO) generate ./cmd/internal/fastpath

generated: generate
	git diff --exit-code -- cmd/internal/fastpath

clean:
	rm -rf bin

packages-demo:
	@./.ci/packages $(RUN_PACKAGES)

packages-ha:
	@./.ci/packages $(HA_PACKAGES)

packages-test:
	@./.ci/packages $(TEST_PACKAGES)

packages-race:
	@./.ci/packages $(RACE_PACKAGES)

packages-bench:
	@./.ci/packages $(BENCH_PACKAGES)

packages-vm:
	@./.ci/packages $(VM_PACKAGES)

packages-fresh:
	@./.ci/packages $(FRESH_PACKAGES)

packages-bpf:
	@./.ci/packages $(BPF_PACKAGES)

packages-pack:
	@./.ci/packages $(PACK_PACKAGES)

packages-release:
	@./.ci/packages $(RELEASE_PACKAGES)

packages-image:
	@./.ci/packages $(IMAGE_PACKAGES)

packages-ansible:
	@./.ci/packages $(ANSIBLE_PACKAGES)
