#!/bin/sh
# Unpacks Debian's docker.io, firewalld and ufw, with what else of theirs this machine
# lacks, into the user's cache folder, and prints where. Nothing is installed, so that
# nothing of theirs starts on the machine or changes its firewall. Root is needed only
# where the lists of packages are missing, taken by sudo.
set -eu

fail() { echo "error: $1" >&2; exit 1; }
command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || fail "the tests beside Docker, firewalld and ufw need Debian's packages of them: run them where there is apt-get"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/patchbay/others
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

lacking() { apt-get -s install --no-install-recommends docker.io firewalld ufw 2>/dev/null | sed -n 's/^Inst \([^ ]*\) .*(\([^ ]*\) .*/\1=\2/p'; }
known() { apt-cache show docker.io firewalld ufw >/dev/null 2>&1; }
if ! known; then
	sudo=""
	[ "$(id -u)" = 0 ] || sudo="sudo -n"
	$sudo apt-get update -qq >&2 || true
	known || fail "apt knows no docker.io, firewalld or ufw: run apt-get update"
fi
packages=$(lacking)
folder=$cache/$(echo "$packages" | sha256sum | cut -c1-16)
if [ ! -d "$folder" ]; then
	echo "Unpacking" $packages "..." >&2
	work=$(mktemp -d "$cache/new.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/root/usr/lib" "$work/root/etc" "$work/root/lib" "$work/debs"
	# shellcheck disable=SC2086
	[ -z "$packages" ] || (cd "$work/debs" && apt-get download -qq $packages >/dev/null 2>&1) || fail "apt-get download of $(echo $packages) failed: run it by hand to see why"
	for deb in "$work"/debs/*.deb; do
		[ ! -e "$deb" ] || dpkg -x "$deb" "$work/root"
	done
	# /lib is usr/lib on the machine.
	for dir in lib bin sbin; do
		[ ! -d "$work/root/$dir" ] || { mkdir -p "$work/root/usr/$dir"; cp -a "$work/root/$dir/." "$work/root/usr/$dir/"; rm -rf "$work/root/${dir:?}"; }
	done
	mv "$work/root" "$folder"
fi
echo "$folder"
