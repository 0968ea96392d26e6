# What the scripts of this folder share. To be sourced in bash.
# shellcheck shell=bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export GOWORK=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"

say() { echo "kind: $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }

# The folder of what is built once per machine.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/patchbay/kind

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"

# The version of Debian inside the images, that of kind's own.
suite=trixie

# hash WORD... -- FILE...: names what an image is made from, so that an edited
# recipe is built anew.
hash() {
	local words=()
	while [ "$1" != -- ]; do words+=("$1"); shift; done
	shift
	{ echo "${words[@]}"; cat "$@"; } | sha256sum | cut -c 1-12
}

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

# lock_cache: one build at a time; the next one finds what the first has built.
lock_cache() {
	mkdir -p "$cache"
	exec 9>"$cache/.lock"
	flock -n 9 || { say "another run is building; waiting for it"; flock 9; }
}
