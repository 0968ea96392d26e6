#!/bin/bash
# Builds kube-apiserver and etcd, the versions that hack/controlplane/*/go.mod
# name, once per machine, and prints the folder they are in, for
# KUBEBUILDER_ASSETS. With --where it only prints, and fails where they are not
# built. A folder that KUBEBUILDER_ASSETS already names is used as it is.
# With --kind it builds the other programs of a cluster node beside them, for
# hack/kind/node-image.sh.
set -euo pipefail
cd "$(dirname "$0")/controlplane"
export GOWORK=off CGO_ENABLED=0

say() { echo "controlplane: $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }
# complete FOLDER PROGRAM...
complete() {
	local dir=$1 name
	shift
	for name in "$@"; do [ -x "$dir/$name" ] || return 1; done
}
version() { (cd "$1" && go list -m -f '{{.Version}}' "$2"); }

programs=(kube-apiserver)
if [ "${1:-}" = --kind ]; then
	programs+=(kubelet kube-controller-manager kubectl kubeadm kube-proxy kube-scheduler)
elif [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
	complete "$KUBEBUILDER_ASSETS" etcd "${programs[@]}" || fail "kube-apiserver and etcd are not both in KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS"
	echo "$KUBEBUILDER_ASSETS"
	exit
fi

kubernetes=$(version kubernetes k8s.io/kubernetes)
etcd=$(version etcd go.etcd.io/etcd/server/v3)
# Both versions are in the name, so that a newer one of either is built anew.
dir=${XDG_CACHE_HOME:-$HOME/.cache}/patchbay/kubernetes-$kubernetes-etcd-$etcd
if complete "$dir" etcd "${programs[@]}"; then
	echo "$dir"
	exit
fi
[ "${1:-}" != --where ] || fail "kube-apiserver and etcd are not built: run make controlplane"

# progress shows every 200th package that go build -v names, and all errors.
progress() {
	local name=$1 total=$2 n=0 line
	while IFS= read -r line; do
		case $line in
		"go: downloading "*) ;;
		*" "*) echo "$line" >&2 ;;
		*)
			n=$((n + 1))
			[ $((n % 200)) != 0 ] || say "$name: $n of at most $total packages, ${SECONDS}s"
			;;
		esac
	done
}

# build MODULE PACKAGE NAME LDFLAGS: the file appears only when it is whole.
build() {
	local module=$1 package=$2 name=$3 ldflags=$4 total
	[ ! -x "$dir/$name" ] || return 0
	say "$name: fetching modules"
	total=$(cd "$module" && go list -deps "$package" 2>"$dir/.building.err" | wc -l) || { cat "$dir/.building.err" >&2; return 1; }
	say "$name: compiling"
	(cd "$module" && nice -n 19 go build -v -trimpath -ldflags "-s -w $ldflags" -o "$dir/.building.$name" "$package") 2>&1 | progress "$name" "$total"
	mv "$dir/.building.$name" "$dir/$name"
	say "$name: done after ${SECONDS}s"
}

mkdir -p "$dir"
exec 9>"$dir/.lock"
flock -n 9 || { say "another run is building; waiting for it"; flock 9; }
trap 'rm -f "$dir"/.building.*' EXIT
if ! complete "$dir" etcd "${programs[@]}"; then
	missing=0
	# Core minutes from nothing: the first program compiles what the others share.
	for name in "${programs[@]}"; do [ -x "$dir/$name" ] || missing=$((missing + 2)); done
	complete "$dir" kube-apiserver || missing=$((missing + 12))
	cores=$(nproc)
	say "building etcd $etcd and Kubernetes $kubernetes (${programs[*]}) into $dir; about $(((missing + cores - 1) / cores)) minutes on $cores cores, once per machine"
	minor=${kubernetes#v1.}
	v=k8s.io/component-base/version
	build etcd go.etcd.io/etcd/server/v3 etcd ""
	for name in "${programs[@]}"; do
		build kubernetes "k8s.io/kubernetes/cmd/$name" "$name" \
			"-X $v.gitVersion=$kubernetes -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*} -X $v.gitTreeState=clean"
	done
fi
echo "$dir"
