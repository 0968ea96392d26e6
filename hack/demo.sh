#!/bin/bash
# The demo: config/samples/quickstart.yaml in throwaway namespaces. Nothing of
# the machine itself is touched.
set -euo pipefail

if [ "${1:-}" != inside ]; then
	# Root in a user namespace is enough; where those are not allowed, real
	# root in network and mount namespaces does as well.
	for enter in "unshare -Urnm" "unshare -nm" "sudo -E unshare -nm"; do
		if $enter true 2>/dev/null; then exec $enter "$0" inside; fi
	done
	echo "error: cannot make network namespaces here (unshare -Urnm and unshare -nm both fail)" >&2
	exit 1
fi

export PATH="$PWD/bin:$PATH:/usr/sbin:/sbin"
manifests=config/samples/quickstart.yaml
work=$(mktemp -d)
# Only what this script started is ended.
cleanup() {
	for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
	rm -rf "$work"
}
trap cleanup EXIT

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold="" plain=""; fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }
fail() { echo "error: $*" >&2; exit 1; }
# until TEXT COMMAND...: runs the command until it succeeds, 5 s at most.
until_ok() {
	local end=$((SECONDS + 5))
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "gave up waiting for: $*"
	done
}

mount --make-rprivate /
mount -t tmpfs tmpfs /run
ip link set lo up
# The stand-in for the rest of the world: a host on the node's LAN.
ip netns add outside
ip link add lan0 type veth peer name eth0 netns outside
ip addr add 203.0.113.1/24 dev lan0
ip link set lan0 up
ip -n outside addr add 203.0.113.2/24 dev eth0
ip -n outside link set eth0 up
before() { ip -br link; ip addr show up scope global; ip route; ip -6 route; nft list ruleset; ip netns; }
before >"$work/before"

say "What would be done"
show patchbay plan -f $manifests || [ $? -eq 2 ]

say "Do it"
show patchbay apply -f $manifests

say "Namespaces of one network reach each other"
show ip netns exec net1 ping -c 1 -W 1 192.168.1.3

say "A server in net1 answers on the node's port 8001: from outside, and from the node itself"
ip netns exec net1 httpd :8001 "hello from net1" &
until_ok ip netns exec net1 curl -sf http://127.0.0.1:8001
show ip netns exec outside curl -s http://203.0.113.1:8001
show curl -s http://203.0.113.1:8001

say "An agent keeps it so: break things and look again"
mkdir "$work/manifests"
cp $manifests "$work/manifests/"
patchbay agent --manifests "$work/manifests" 2>"$work/agent.log" &
agent=$!
until_ok grep -q "agent started" "$work/agent.log"
veth=$(patchbay status -o json | sed -n '/"hostInterface"/,/}/s/.*"name": "\(.*\)".*/\1/p' | head -n 1)
show ip link delete "$veth"
show nft flush ruleset
until_ok ip netns exec outside curl -sf -m 1 http://203.0.113.1:8001
show ip netns exec outside curl -s http://203.0.113.1:8001
show grep -m 2 cause=drift "$work/agent.log"
kill $agent
wait $agent || true

say "Undo it: nothing is left"
show patchbay delete -f $manifests
show patchbay status
before >"$work/after"
diff "$work/before" "$work/after" || fail "the node is not as it was"
echo "The node is as it was before."
