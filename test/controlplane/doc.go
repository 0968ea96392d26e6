// Package controlplane tests CRDs, roles and policies on a real API server: a
// kube-apiserver and an etcd that hack/controlplane.sh builds and envtest starts.
package controlplane
