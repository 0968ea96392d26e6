#!/bin/bash
# Makes a node image for kind from Debian packages and Go modules, where
# kindest/node cannot be pulled, loads it into the Docker engine and prints its
# name. With --cached it prints nothing if that would take building. Its root
# file system is kept, so that another engine takes it from the cache.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export CGO_ENABLED=0
cd "$root"

here=hack/kind
version=$(go -C hack/controlplane/kubernetes list -m -f '{{.Version}}' k8s.io/kubernetes)
etcd=3.6.8-0
pause=3.10
kind=$(go list -m -f '{{.Version}}' sigs.k8s.io/kind)
# test/e2e/cluster starts the engine with hack/kind/runtime where it is needed;
# there it is needed in the nodes as well.
kernel=$(docker info --format '{{.DefaultRuntime}}')
tag=$version-$(hash node "$kind" "$kernel" -- $here/{lib,rootfs,base-image,node-image}.sh $here/{pause,runtime}/main.go hack/controlplane/*/go.mod)
name=patchbay-node:$tag
file=$cache/node-$tag.tar

# add NAME: makes the container image of one component, its program alone.
add() {
	local image=registry.k8s.io/$1 program=$2 base=${3:-}
	cp "${base:-/dev/null}" "$work/image.tar"
	tar --owner=0 --group=0 --transform 's,^,usr/local/bin/,' -rf "$work/image.tar" -C "$(dirname "$program")" "$(basename "$program")"
	docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
		--change "ENTRYPOINT [\"/usr/local/bin/$(basename "$program")\"]" "$work/image.tar" "$image" >/dev/null
	images+=("$image")
}

build() {
	local binaries base module name images=()
	say "building node image $tag; about 4 minutes, once per machine, beside what has yet to be compiled"
	"$root/hack/install-deps.sh" image >&2
	binaries=$(hack/controlplane.sh --kind)
	base=$($here/base-image.sh --file)

	lock_cache
	[ ! -e "$file" ] || return 0
	work=$(mktemp -d "$cache/.node.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	say "node image: container images of the control plane"
	go build -trimpath -ldflags '-s -w' -o "$work/pause" ./$here/pause
	for name in kube-apiserver kube-controller-manager kube-scheduler; do add "$name:$version" "$binaries/$name"; done
	add "kube-proxy:$version" "$binaries/kube-proxy" "$base"
	add "etcd:$etcd" "$binaries/etcd"
	add "pause:$pause" "$work/pause"
	mkdir -p "$work/parts/bin"
	docker save -o "$work/parts/images.tar" "${images[@]}"
	docker rmi "${images[@]}" >/dev/null

	say "node image: Debian packages, about 2 minutes"
	cp "$binaries"/{kubelet,kubeadm,kubectl} "$work/parts/bin/"
	[ "$kernel" != relaxed ] || go build -trimpath -ldflags '-s -w' -o "$work/parts/runtime" ./$here/runtime
	echo "$version" >"$work/parts/version"
	module=$(go list -m -f '{{.Dir}}' sigs.k8s.io/kind)
	cp -r --no-preserve=mode "$module/images/base/files" "$work/parts/kind"
	$sudo $here/rootfs.sh "$suite" node "$file" "$work/parts"
	say "node image: done after ${SECONDS}s"
}

if ! have_image "$name"; then
	if [ ! -e "$file" ]; then
		[ "${1:-}" != --cached ] || exit 0
		build
	fi
	touch "$file"
	find "$cache" -maxdepth 1 -name 'node-*.tar' -mtime +30 -delete
	say "loading node image $tag into the Docker engine"
	docker import "$file" "$name-files" >/dev/null
	# Neither import nor commit can change the stop signal; a container has it.
	container=$(docker create --env container=docker --stop-signal SIGRTMIN+3 "$name-files" /sbin/init)
	docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' --change 'CMD []' "$container" "$name" >/dev/null
	docker rm "$container" >/dev/null
	docker rmi "$name-files" >/dev/null
fi
echo "$name"
