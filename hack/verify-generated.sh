#!/bin/sh
# Fails if what hack/generate.sh would write is not what is in the tree.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
hack/generate.sh "$fresh"

stale=0
for path in api/v1alpha1/zz_generated.deepcopy.go config/crd/bases docs/reasons.md docs/rulesets.md; do
	diff -ruN "$path" "$fresh/$path" || stale=1
done
if [ "$stale" != 0 ]; then
	echo "error: generated files are stale: run hack/generate.sh and commit the result" >&2
	exit 1
fi
