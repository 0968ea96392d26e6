#!/bin/bash
# Fails if the Helm chart with its own values installs other objects than
# config/default, or its package other CRDs than config/crd.
set -euo pipefail
cd "$(dirname "$0")/.."
kustomize() { go tool -modfile=hack/tools/kustomize/go.mod kustomize "$@"; }
helm() { go tool -modfile=hack/tools/helm/go.mod helm "$@" 2>"$work/helm.log" || { cat "$work/helm.log" >&2; exit 1; }; }
fail() { echo "error: $*" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# canonical NAME: the objects on standard input in one order, without comments.
canonical() {
	mkdir "$work/$1"
	cat >"$work/$1/objects.yaml"
	printf 'resources: [objects.yaml]\nsortOptions: {order: legacy}\n' >"$work/$1/kustomization.yaml"
	kustomize build "$work/$1" >"$work/$1.yaml"
}

helm lint --quiet --strict config/chart
helm package config/chart --destination "$work" >/dev/null
chart=$(echo "$work"/patchbay-*.tgz)

kustomize build config/default | canonical kustomize
# A chart cannot hold the namespace that it is installed into.
{ cat config/default/namespace.yaml; helm template patchbay "$chart" --namespace patchbay-system; } | canonical helm
diff -u "$work/kustomize.yaml" "$work/helm.yaml" ||
	fail "the chart (+) renders other objects than config/default (-)"

kustomize build config/crd | canonical crds
helm show crds "$chart" | canonical chart-crds
diff -u "$work/crds.yaml" "$work/chart-crds.yaml" ||
	fail "the chart's package (+) has other CRDs than config/crd (-)"

# What the chart replaces in the files of rbac and policy.
helm template patchbay "$chart" --namespace elsewhere --set tenancy.hostPortMin=1111,tenancy.hostPortMax=2222 >"$work/replaced.yaml"
! grep -nE 'patchbay-system|20000|29999' "$work/replaced.yaml" ||
	fail "the chart has replaced neither namespace nor ports here"
