package controlplane

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

const (
	// systemNamespace is where config/default puts controller and agents.
	systemNamespace = "patchbay-system"
	// tenantNamespace is where the users of these tests are at home.
	tenantNamespace = "lab"
)

// deploy applies config/default, but for the name of the image, and returns when
// its policies are in force: the API server takes them up a moment after it has
// stored them, and allows everything until then.
func deploy(t *testing.T) {
	t.Helper()
	for _, o := range manifests(t) {
		apply(t, o)
	}
	ensureNamespace(t, tenantNamespace)
	tenant := user(t, tenantNamespace, "patchbay-editor")
	agent := serviceAccount(t, "patchbay-agent", nil)
	bridge := object("NodeBridge", "", "", minimal("NodeBridge"))
	bridge.SetGenerateName("probe-")
	create(t, bridge)
	for policy, probe := range map[string]func() error{
		"patchbay-tenancy-attachments": func() error { return tryCreate(t, tenant, "NamespaceAttachment", minimal("NamespaceAttachment")) },
		"patchbay-tenancy-publishes":   func() error { return tryCreate(t, tenant, "PortPublish", minimal("PortPublish")) },
		"patchbay-agent":               func() error { return patchStatus(t, agent, bridge, `{"mtu": 1400}`) },
	} {
		netlab.Until(t, deadline, policy+" refuses", func() bool { return contains(probe(), "ValidatingAdmissionPolicy '"+policy+"'") })
	}
}

// manifests are the objects of config/default in an order to apply them.
func manifests(t *testing.T) (out []*unstructured.Unstructured) {
	t.Helper()
	for _, dir := range []string{"default", "rbac", "policy", "controller", "agent"} {
		paths, err := filepath.Glob("../../config/" + dir + "/*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if filepath.Base(path) != "kustomization.yaml" {
				out = append(out, documents(t, path)...)
			}
		}
	}
	return out
}

func clientset(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// user is the client of a new user, who has the ClusterRoles in a namespace or, where
// that is empty, everywhere.
func user(t *testing.T, namespace string, roles ...string) client.Client {
	t.Helper()
	name := t.Name() + "-" + strings.Join(roles, "-")
	for _, role := range roles {
		grant(t, name, namespace, role)
	}
	return impersonate(t, name, "")
}

// impersonate is the client of a user of these groups, whose token names these
// nodes, separated by commas.
func impersonate(t *testing.T, name, nodes string, groups ...string) client.Client {
	t.Helper()
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: groups}
	if nodes != "" {
		as.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": strings.Split(nodes, ",")}
	}
	return newClient(t, as)
}

func newClient(t *testing.T, c *rest.Config) client.Client {
	t.Helper()
	out, err := client.New(c, client.Options{Scheme: scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// grant returns when the API server acts on the binding.
func grant(t *testing.T, user, namespace, role string) {
	t.Helper()
	ctx, c := testContext(t), clientset(t)
	meta := metav1.ObjectMeta{GenerateName: "test-"}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	var err error
	if namespace == "" {
		_, err = c.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	} else {
		_, err = c.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	granted, err := c.RbacV1().ClusterRoles().Get(ctx, role, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rule := granted.Rules[0]
	netlab.Until(t, deadline, user+" has "+role, func() bool {
		review, err := c.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               user,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: rule.Resources[0]},
		}}, metav1.CreateOptions{})
		return err == nil && review.Status.Allowed
	})
}

// agentOn is the client of the agent of a node, by a token as the kubelet mounts
// it: bound to a pod, and so bearing the node's name.
func agentOn(t *testing.T, node string) client.Client {
	t.Helper()
	ctx, c := testContext(t), clientset(t)
	_, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	pod, err := c.CoreV1().Pods(systemNamespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "patchbay-agent-"},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: "patchbay-agent", Containers: []corev1.Container{{Name: "agent", Image: "patchbay"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return serviceAccount(t, "patchbay-agent", pod)
}

// serviceAccount is the client of one by a token, bound to the pod if there is one.
func serviceAccount(t *testing.T, name string, pod *corev1.Pod) client.Client {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	answer, err := clientset(t).CoreV1().ServiceAccounts(systemNamespace).CreateToken(testContext(t), name, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	as := rest.AnonymousClientConfig(config)
	as.BearerToken = answer.Status.Token
	return newClient(t, as)
}

// tryCreate asks for an object in the tenants' namespace and leaves none behind.
func tryCreate(t *testing.T, c client.Client, kind string, content map[string]any) error {
	t.Helper()
	return c.Create(testContext(t), object(kind, tenantNamespace, "try", content), client.DryRunAll)
}

// patchStatus merges JSON into a status.
func patchStatus(t *testing.T, c client.Client, o *unstructured.Unstructured, status string) error {
	t.Helper()
	return c.Status().Patch(testContext(t), o.DeepCopy(), mergePatch(`{"status": `+status+`}`))
}

func mergePatch(text string) client.Patch { return client.RawPatch(types.MergePatchType, []byte(text)) }

// clusterRole stores one until the end of the test.
func clusterRole(t *testing.T, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	roles := clientset(t).RbacV1().ClusterRoles()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := roles.Create(testContext(t), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := roles.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func rule(group, resource, verb string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}}
}

// other is an object of a foreign kind.
func other(apiVersion, kind, namespace, name string, content map[string]any) *unstructured.Unstructured {
	o := object(kind, namespace, name, content)
	o.SetAPIVersion(apiVersion)
	return o
}

func checkAccepted(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("refused: %v", err)
	}
}

// checkForbidden wants a refusal by the lack of a role, and not by a policy.
func checkForbidden(t *testing.T, verb string, err error) {
	t.Helper()
	checkRefused(t, err, "cannot "+verb+" resource")
}

// checkRefused wants an error that says all of the words.
func checkRefused(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("accepted, want %q", words)
		return
	}
	for _, w := range words {
		if !contains(err, w) {
			t.Errorf("no word of %q in: %v", w, err)
		}
	}
}

func contains(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}
