#!/bin/bash
# Makes the small Debian with nft and iptables that Patchbay's image stands on
# where debian:trixie-slim cannot be pulled, and prints its name. With --cached
# it prints nothing if that would take building. With --file it prints the tar
# file with the root file system, and asks no Docker engine.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

tag=$(hash base "$suite" -- "$root/hack/kind/rootfs.sh")
name=patchbay-base:$tag
file=$cache/base-$tag.tar

build() {
	say "building a base image from Debian packages; about 1 minute, once per machine"
	"$root/hack/install-deps.sh" image >&2
	$sudo "$root/hack/kind/rootfs.sh" "$suite" base "$file"
	say "base image: done after ${SECONDS}s"
}

if [ ! -e "$file" ]; then
	[ "${1:-}" != --cached ] || exit 0
	lock_cache
	[ -e "$file" ] || build
fi
if [ "${1:-}" = --file ]; then
	echo "$file"
	exit
fi
have_image "$name" || docker import "$file" "$name" >/dev/null
echo "$name"
