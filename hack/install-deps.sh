#!/bin/sh
# Installs what a demo or test run needs and this machine lacks. Root is needed
# only then, taken by sudo where somebody else runs it. "engine" adds a Docker
# engine, "image" what images are built with where none can be pulled.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || missing="$missing $2"; }
need ip iproute2
need nft nftables
need iptables iptables
need ping iputils-ping
need curl curl
need unshare util-linux
need flock util-linux
need sysctl procps
need conntrack conntrack
for extra in "$@"; do
	case $extra in
	engine) need dockerd docker.io; need docker docker-cli; need slirp4netns slirp4netns ;;
	image) need debootstrap debootstrap; need wget wget ;;
	*) echo "error: unknown argument $extra" >&2; exit 1 ;;
	esac
done

[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null 2>&1 || { echo "error: install these packages first:$missing" >&2; exit 1; }
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
echo "Installing$missing ..."
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
case $missing in
*docker.io*)
	# Debian has the client in a package of its own since 13.
	apt-cache show docker-cli >/dev/null 2>&1 || missing=$(echo "$missing" | sed 's/ docker-cli//')
	# As a service it would change the machine's forwarding and firewall at
	# once; test/e2e/cluster starts it apart from them.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		trap '$sudo rm -f $policy' EXIT
		printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
		$sudo chmod 755 $policy
	fi
	;;
esac
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || { echo "error: apt-get install$missing failed: run it by hand to see why" >&2; exit 1; }
case $missing in
*docker.io*) $sudo systemctl --quiet disable docker.service docker.socket 2>/dev/null || true ;;
esac
