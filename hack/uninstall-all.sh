#!/bin/bash
# Removes Patchbay and every network of it from the cluster of kubectl's current
# context, in the order that leaves the nodes clean: custom resources, then, when
# the agents have removed what they built, controller and agents, then the CRDs.
# What is gone already is no error. Each wait ends after TIMEOUT seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
timeout=${TIMEOUT:-300}
namespace=patchbay-system

say() { echo "uninstall-all: $*"; }
fail() { echo "error: $*" >&2; exit 1; }
# wait_until WHAT COMMAND...: says what it waits for, unless that is so at once.
wait_until() {
	local what=$1 end=$((SECONDS + timeout))
	shift
	"$@" && return
	say "waiting until $what"
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 1
	done
}
has() { grep -qx "customresourcedefinition.apiextensions.k8s.io/$1.patchbay.dev" <<<"$crds"; }

delete_all() {
	has "$1" || return 0
	say "deleting all $1"
	kubectl delete "$1.patchbay.dev" --all "${@:2}" --timeout="${timeout}s"
}

# The controller lets a network go when nothing uses it. Where there is no
# controller, that is done here: all attachments are gone.
delete_networks() {
	has bridgenetworks || return 0
	local ready name
	ready=$(kubectl -n $namespace get deployment patchbay-controller --ignore-not-found -o 'jsonpath={.status.readyReplicas}')
	kubectl delete bridgenetworks.patchbay.dev --all --wait=false
	if [ "${ready:-0}" = 0 ]; then
		for name in $(kubectl get bridgenetworks.patchbay.dev -o name); do
			say "$name: no controller is running; removing its finalizers"
			kubectl patch "$name" --type=merge -p '{"metadata": {"finalizers": null}}'
		done
	fi
	wait_until "all networks are gone" no_networks ||
		fail "networks are still there; kubectl describe says why: $(kubectl get bridgenetworks.patchbay.dev -o name | xargs)"
}
no_networks() { [ -z "$(kubectl get bridgenetworks.patchbay.dev -o name)" ]; }

# clean POD: whether nothing of Patchbay is on the pod's node.
clean() { kubectl -n $namespace exec "$1" -- patchbay status 2>/dev/null | grep -q "^Nothing of Patchbay"; }

say "from the cluster of context $(kubectl config current-context)"
crds=$(kubectl get customresourcedefinitions -o name)
# Whose agents have something to remove.
built=""
if has nodebridges; then
	built=$(kubectl get nodebridges.patchbay.dev -o 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u)
fi

delete_all portpublishes --all-namespaces
delete_all namespaceattachments --all-namespaces
delete_networks
delete_all nodebridges

unclean=""
agents=$(kubectl -n $namespace get pods -l app.kubernetes.io/name=patchbay,app.kubernetes.io/component=agent \
	-o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}')
for node in $built; do
	grep -q " $node\$" <<<"$agents" || unclean="$unclean $node"
done
while read -r pod node <&3; do
	[ -z "$pod" ] || wait_until "node $node is clean" clean "$pod" || unclean="$unclean $node"
done 3<<<"$agents"

say "deleting controller and agents"
kubectl delete --ignore-not-found --timeout="${timeout}s" -k config/default
say "deleting the CRDs"
kubectl delete --ignore-not-found --timeout="${timeout}s" -k config/crd

[ -z "$unclean" ] || fail "these nodes were not seen clean, run patchbay delete --all on each:$unclean"
say "done"
