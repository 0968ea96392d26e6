#!/bin/sh
# Generates deep copies, CRDs and docs/reasons.md from api/, and docs/rulesets.md
# from nodeagent/firewall and test/scenarios, into the tree or into the folder given as
# the argument.
set -eu
cd "$(dirname "$0")/.."
out=${1:-.}
# Its module holds nothing else: other tools would pull its dependencies along.
controller_gen() { go tool -modfile=hack/tools/controller-gen/go.mod controller-gen "$@"; }

mkdir -p "$out/api/v1alpha1" "$out/config/crd/bases" "$out/docs"
controller_gen object:headerFile=hack/boilerplate.go.txt paths=./api/... "output:object:dir=$out/api/v1alpha1"
controller_gen crd paths=./api/... "output:crd:dir=$out/config/crd/bases"
go run ./hack/gendocs reasons >"$out/docs/reasons.md"
go run ./hack/gendocs rulesets >"$out/docs/rulesets.md"
