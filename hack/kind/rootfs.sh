#!/bin/bash
# Writes the root file system of an image, made from Debian packages, as a tar
# file, which appears only when it is whole. To be run as root:
#
#	rootfs.sh SUITE base FILE
#	rootfs.sh SUITE node FILE PARTS
#
# PARTS is the folder that node-image.sh has filled with what a node has beyond
# its packages: kind/ (the files of kind's base image), bin/, images.tar, version
# and, where the machine needs it, runtime.
set -euo pipefail

# What is mounted here is seen by nobody else, and is gone with this process.
if [ "${PATCHBAY_ROOTFS:-}" != inside ]; then
	PATCHBAY_ROOTFS=inside exec unshare --mount --propagation private "$0" "$@"
fi

suite=$1 what=$2 file=$3 parts=${4:-}
fail() { echo "error: $*" >&2; exit 1; }
# An ordinary user's PATH lacks debootstrap on Debian.
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive LC_ALL=C
eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy 2>/dev/null || true)"
export http_proxy https_proxy

work=$(mktemp -d "$(dirname "$file")/.rootfs.XXXXXX")
fs=$work/fs
chmod 755 "$work"
trap 'rm -rf --one-file-system "$work"' EXIT

# mirror prints where this machine has its own Debian packages from.
mirror() {
	local codename lists=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list)
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	{
		# One line per source: deb [options] URI suite component...
		cat "${lists[@]}" 2>/dev/null | sed -E 's/\[[^]]*\]//' | awk -v suite="$codename" '$1 == "deb" && $3 == suite {print $2}'
		# Paragraphs of Types:, URIs:, Suites: ...
		cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk -v suite="$codename" '
			function flush() { if (uri != "" && found && deb) print uri; uri = ""; found = deb = 0 }
			/^#/ {next}
			NF == 0 {flush()}
			$1 == "Types:" {for (i = 2; i <= NF; i++) if ($i == "deb") deb = 1}
			$1 == "URIs:" {uri = $2}
			$1 == "Suites:" {for (i = 2; i <= NF; i++) if ($i == suite) found = 1}
			END {flush()}'
		echo http://deb.debian.org/debian
	} | while read -r uri; do
		# The machine may not be Debian: what counts is that it has the suite.
		if wget -q -O /dev/null "$uri/dists/$suite/Release"; then echo "$uri"; break; fi
	done
}

# progress NAME COMMAND...: keeps what the command prints in the log and says
# now and then how far it is.
progress() {
	local name=$1 n=0 line
	shift
	"$@" 2>&1 | while IFS= read -r line; do
		echo "$line" >>"$work/log"
		n=$((n + 1))
		[ $((n % 100)) != 0 ] || echo "kind: $what image: $name, step $n, ${SECONDS}s" >&2
	done
}

bootstrap() {
	local packages=$1 uri
	uri=$(mirror)
	[ -n "$uri" ] || fail "find a Debian mirror with $suite: neither this machine's apt sources nor deb.debian.org have it"
	if ! progress packages debootstrap --variant=minbase --include="$packages" "$suite" "$fs" "$uri"; then
		tail -n 20 "$work/log" "$fs/debootstrap/debootstrap.log" >&2 || true
		fail "debootstrap $suite from $uri: see above"
	fi
}

# run COMMAND...: in the new root file system.
run() { chroot "$fs" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive http_proxy="${http_proxy:-}" "$@"; }

# What kind's images/base/Dockerfile installs and does, with Debian's containerd
# and CNI plugins in place of those it compiles.
node() {
	bootstrap systemd,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs,bash,ca-certificates,curl,jq,procps,iputils-ping
	mount -t proc proc "$fs/proc"
	if ! progress containerd run apt-get install -y --no-install-recommends containerd runc containernetworking-plugins; then
		tail -n 20 "$work/log" >&2
		fail "install containerd in the node image: see above"
	fi
	cp -r --no-preserve=mode,ownership "$parts/kind/." "$fs/"
	chmod 755 "$fs"/kind/bin/* "$fs"/usr/local/bin/* "$fs"/usr/local "$fs"/usr/local/bin
	install -m 755 -t "$fs/usr/bin" "$parts"/bin/*
	cp "$parts/version" "$fs/kind/version"
	services
	runtime
	images
	umount "$fs/proc"
}

services() {
	local lib=$fs/usr/lib/systemd/system etc=$fs/etc/systemd/system
	rm -f "$lib/sysinit.target.wants/systemd-tmpfiles-setup.service" "$lib"/multi-user.target.wants/* "$etc"/*.wants/* \
		"$lib"/local-fs.target.wants/* "$lib"/sockets.target.wants/*udev* "$lib"/sockets.target.wants/*initctl* "$lib"/basic.target.wants/*
	echo "ReadKMsg=no" >>"$fs/etc/systemd/journald.conf"
	ln -sf /usr/lib/systemd/systemd "$fs/usr/sbin/init"
	ln -sf /usr/bin/containerd /usr/bin/ctr "$fs/usr/local/bin/"
	run systemctl --quiet enable kubelet.service containerd.service undo-mount-hacks.service
	run systemctl --quiet mask systemd-binfmt.service
	mkdir -p "$fs/etc/kubernetes/manifests" "$fs/kind/manifests" "$fs/opt/cni/bin"
	cp "$fs"/usr/lib/cni/* "$fs/opt/cni/bin/"
	# kind applies this; nothing here needs storage.
	cat >"$fs/kind/manifests/default-storage.yaml" <<-YAML
		apiVersion: storage.k8s.io/v1
		kind: StorageClass
		metadata: {name: standard}
		provisioner: kubernetes.io/no-provisioner
	YAML
}

runtime() {
	run ctr oci spec | run jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >"$fs/etc/containerd/cri-base.json"
	[ -e "$parts/runtime" ] || return 0
	# In front of /usr/sbin/runc in every PATH. See hack/kind/runtime.
	install -m 755 "$parts/runtime" "$fs/usr/local/sbin/runc"
	sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$fs/etc/containerd/config.toml"
}

# images fills containerd's store, in which kubelet then finds what it needs.
images() {
	local pid end=$((SECONDS + 60))
	chroot "$fs" containerd --config /dev/null >"$work/log" 2>&1 &
	pid=$!
	until run ctr version >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { tail -n 20 "$work/log" >&2; fail "start containerd in the node image: see above"; }
	done
	run ctr -n k8s.io images import --all-platforms --no-unpack --digests - <"$parts/images.tar" >/dev/null
	kill "$pid"
	wait "$pid" || true
	rm -rf "$fs"/run/*
}

case $what in
base) bootstrap iptables,nftables,conntrack ;;
node) node ;;
*) fail "rootfs.sh: unknown image $what" ;;
esac
rm -rf "$fs"/var/cache/apt/archives/*.deb "$fs"/var/cache/apt/*.bin "$fs"/var/lib/apt/lists/* "$fs"/var/log/* "$fs"/usr/share/{doc,man,info,locale}/* "$fs/etc/machine-id"
tar --numeric-owner -C "$fs" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -cf "$work/tar" .
chown --reference="$(dirname "$file")" "$work/tar"
mv "$work/tar" "$file"
