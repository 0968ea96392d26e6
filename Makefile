# Patchbay's commands. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# An ordinary user's PATH lacks nft and ip on Debian.
export PATH := $(PATH):/usr/sbin:/sbin

GO ?= go
BIN := bin/patchbay
# -s -w leave out the symbol table and DWARF; panics and profiles still name functions.
# golang.org/x/net/trace, which gRPC takes without the tag, calls methods by name through
# html/template: the linker then keeps every method of every type, 12 MB of code.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -tags grpcnotrace -ldflags '-s -w'
TOOLS := $(GO) tool -modfile=hack/tools/go.mod
KUSTOMIZE := $(GO) tool -modfile=hack/tools/kustomize/go.mod kustomize

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9.-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/patchbay, a static binary.
	$(BUILD) -o $(BIN) .

.PHONY: demo
demo: deps build bin/httpd ## Show the main scenario in throwaway namespaces.
	@hack/demo.sh

.PHONY: bin/httpd
bin/httpd:
	@$(BUILD) -o $@ ./hack/httpd

.PHONY: test
test: deps verify lint controlplane ## Everything below a cluster: checks, unit tests, scenarios on the real kernel, CRDs on a real API server.
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...

.PHONY: bench
bench: deps controlplane ## Time per attachment beside the bare kernel cost of the same objects, its latency beside the CNI reference plugins, published ports beside theirs and Docker's, and bandwidth limits.
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./test/bench ./nodeagent/engine

.PHONY: fuzz
fuzz: ## Fuzz every parser for a while (FUZZTIME=30s each).
	hack/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: controlplane
controlplane: deps ## Build kube-apiserver and etcd for the tests, once per machine (about 7 minutes on 2 cores).
	@hack/controlplane.sh

.PHONY: image
image: deps build ## Build the container image patchbay:dev from bin/patchbay.
	@$(GO) run ./hack/kind image

.PHONY: kind-up
kind-up: deps build ## A kind cluster of three nodes with patchbay:dev in them (under a minute; up to 20 the first time on a machine without a registry).
	@$(GO) run ./hack/kind up

.PHONY: kind-down
kind-down: ## Delete that cluster, and stop the Docker engine if it was started for it.
	@$(GO) run ./hack/kind down

.PHONY: test-e2e
test-e2e: deps build bin/httpd ## Tests on the kind cluster, which is brought up if need be and left running.
	$(GO) test -tags e2e -timeout 60m -v ./test/e2e

.PHONY: generate
generate: ## Generate CRDs, deep copies and reference pages from the code.
	hack/generate.sh

.PHONY: verify
verify: ## Check that generated files are up to date, that Helm and kustomize install the same, and that packages stay small and their comments plain.
	$(GO) run ./hack/measure
	hack/verify-generated.sh
	hack/verify-manifests.sh

.PHONY: lint
lint: ## Check style and the dependency rules of ARCHITECTURE.md.
	$(TOOLS) golangci-lint run ./...

.PHONY: install.yaml
install.yaml: ## Write install.yaml: CRDs, controller and agents in one file for kubectl apply.
	@{ echo "# Deleting what is in this file deletes every network: the CRDs are in it."; \
	  $(KUSTOMIZE) build config/crd && echo --- && $(KUSTOMIZE) build config/default; } >$@.new
	@mv $@.new $@

.PHONY: uninstall-all
uninstall-all: ## Remove Patchbay and all its networks from kubectl's cluster, and leave the nodes clean.
	@hack/uninstall-all.sh

.PHONY: deps
deps: ## Install missing packages (iproute2, nftables, ...); root or sudo only then.
	@hack/install-deps.sh

.PHONY: clean
clean: ## Remove what was built.
	rm -rf bin install.yaml
