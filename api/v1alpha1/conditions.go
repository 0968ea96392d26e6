package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Condition types. Every condition carries observedGeneration.
const (
	// ConditionAccepted says that the object makes sense here: its references
	// exist, its namespace may use them, a node is bound. Written by the
	// controller; in standalone mode by the same rules on the node.
	ConditionAccepted = "Accepted"
	// ConditionReady says that the kernel holds all of the object. Written by
	// the node's agent; for BridgeNetworks, and for the parents of attachments and
	// publishes, by the controller.
	ConditionReady = "Ready"
	// ConditionInUse says, on a BridgeNetwork that is being deleted, which
	// attachments keep it. Written by the controller.
	ConditionInUse = "InUse"
)

// ConditionsOf returns the conditions in the status of an object of this
// package; nil for anything else.
func ConditionsOf(o any) []metav1.Condition {
	if o, ok := o.(Object); ok {
		return *o.Conditions()
	}
	return nil
}

// Field managers of status writes.
const (
	FieldManagerController = "patchbay-controller"
	FieldManagerAgent      = "patchbay-agent"
)

// Reasons of conditions. Reasons has the same list with condition, writer and
// remedy.
const (
	ReasonAccepted             = "Accepted"
	ReasonNetworkNotFound      = "NetworkNotFound"
	ReasonAttachmentNotFound   = "AttachmentNotFound"
	ReasonNamespaceNotAllowed  = "NamespaceNotAllowed"
	ReasonNodeNotFound         = "NodeNotFound"
	ReasonPrivilegeRequired    = "PrivilegeRequired"
	ReasonUnsupported          = "Unsupported"
	ReasonProgrammed           = "Programmed"
	ReasonPending              = "Pending"
	ReasonRebinding            = "Rebinding"
	ReasonNetnsNotFound        = "NetnsNotFound"
	ReasonMountsNotShared      = "MountsNotShared"
	ReasonPodNotRunning        = "PodNotRunning"
	ReasonAddressConflict      = "AddressConflict"
	ReasonAddressPoolExhausted = "AddressPoolExhausted"
	ReasonMACConflict          = "MACConflict"
	ReasonBridgeFull           = "BridgeFull"
	ReasonInterfaceConflict    = "InterfaceConflict"
	ReasonHostPortConflict     = "HostPortConflict"
	ReasonHairpinUnavailable   = "HairpinUnavailable"
	ReasonIPv6Disabled         = "IPv6Disabled"
	ReasonAntiSpoofUnavailable = "AntiSpoofUnavailable"
	ReasonSubnetOverlap        = "SubnetOverlap"
	ReasonUplinkNotFound       = "UplinkNotFound"
	ReasonUplinkInUse          = "UplinkInUse"
	ReasonForwardBlocked       = "ForwardBlocked"
	ReasonObstructed           = "Obstructed"
	ReasonContested            = "Contested"
	ReasonLimitReached         = "LimitReached"
	ReasonSysctlReadOnly       = "SysctlReadOnly"
	ReasonNotPermitted         = "NotPermitted"
	ReasonRoutedElsewhere      = "RoutedElsewhere"
	ReasonUplinkDown           = "UplinkDown"
	ReasonNodeNotReady         = "NodeNotReady"
	ReasonKernelError          = "KernelError"
	ReasonInUse                = "InUse"
	ReasonNameConflict         = "NameConflict"
)

// Reason describes one reason a user can meet.
type Reason struct {
	Name      string
	Condition string
	// Writer is who sets it: controller, agent, or both. In standalone mode the
	// node does the controller's part.
	Writer string
	// Remedy is one sentence on what to do about it.
	Remedy string
}

// Reasons lists every reason with its condition, writer and remedy, in the
// order of the constants. docs/reasons.md is generated from it.
var Reasons = []Reason{
	{ReasonAccepted, ConditionAccepted, "controller", "Nothing to do."},
	{ReasonNetworkNotFound, ConditionAccepted, "controller", "Create the BridgeNetwork that spec.network names, correct it until it is accepted, or let it select the attachment's node."},
	{ReasonAttachmentNotFound, ConditionAccepted, "controller", "Create the NamespaceAttachment that spec.attachment names, in the same namespace, or correct it until it is accepted."},
	{ReasonNamespaceNotAllowed, ConditionAccepted, "controller", "Let the network's spec.allowedNamespaces include the object's namespace."},
	{ReasonNodeNotFound, ConditionAccepted, "controller", "Name an existing node in spec.target.netns.nodeName. Without a cluster leave it out, and spec.nodeSelector too. If the node of a pod is gone, bring the node back or delete the pod."},
	{ReasonPrivilegeRequired, ConditionAccepted, "controller", "Have a user with the right use-node-network create the object."},
	{ReasonUnsupported, "Accepted, Ready", "controller, agent", "Change, set or leave out the setting that the message names (a field, a pod's hostNetwork, the folder of its runtime's namespaces). It cannot work here as it is."},
	{ReasonProgrammed, ConditionReady, "agent, controller", "Nothing to do."},
	{ReasonPending, "Accepted, Ready", "controller, agent", "Wait for the object that the message names, or correct it: a pod that does not exist or has no node, a selector that selects nothing, an object that is not accepted."},
	{ReasonRebinding, ConditionReady, "controller", "Wait; the new node's agent takes over."},
	{ReasonNetnsNotFound, ConditionReady, "agent", "Create the namespace (ip netns add), or use lifecycle Managed. If the message names a file in its place, remove the file. A pod's namespace comes with the pod."},
	{ReasonMountsNotShared, ConditionReady, "agent", "Run the agent in the host's mount namespace: no PrivateTmp=, ProtectSystem= or the like in its unit. Give a container /run/netns with mount propagation rshared (Bidirectional). Then restart the agent."},
	{ReasonPodNotRunning, ConditionReady, "agent", "Wait until the pod runs, or see why it does not (kubectl describe pod). The agent wires it as soon as it runs."},
	{ReasonAddressConflict, "Accepted, Ready", "controller, agent", "Choose a free address of the network's subnets, or leave spec.addresses out to get one."},
	{ReasonAddressPoolExhausted, ConditionReady, "agent", "Delete attachments or selected pods on that node, shrink the network's spec.ipam.exclude, or make a larger network."},
	{ReasonMACConflict, ConditionReady, "agent", "Choose another spec.macAddress, or leave it out."},
	{ReasonBridgeFull, ConditionReady, "agent", "Use a second network, or another node: a Linux bridge takes 1,023 ports, foreign interfaces included. The attachment gets a port as soon as one is free."},
	{ReasonInterfaceConflict, ConditionReady, "agent", "Choose another interface name (in a pod leave it out, and a free one is found), or remove the object that the message names. If that is a default route, set spec.defaultRoute."},
	{ReasonHostPortConflict, "Accepted, Ready", "controller, agent", "Choose another hostPort, or end or delete the holder that the message names: another publish, a process, a Service's nodePort or a pod's hostPort. With Ready=True the port is published, and the process gets no packets."},
	{ReasonHairpinUnavailable, ConditionReady, "agent", "Set net.bridge.bridge-nf-call-iptables to 0, or spec.isolation.ports to false."},
	{ReasonIPv6Disabled, ConditionReady, "agent", "With Ready=True the attachment has IPv4 alone. Set net.ipv6.conf.all.disable_ipv6 to 0 in the External namespace (for a container, in its engine's settings), or leave IPv6 addresses out."},
	{ReasonAntiSpoofUnavailable, ConditionReady, "agent", "Use the nftables backend, or set spec.isolation.antiSpoof to false."},
	{ReasonSubnetOverlap, ConditionReady, "agent", "Choose a subnet that overlaps neither another network nor a route of the node to the same addresses, to a part of them, or to a connected range. A wider route by a gateway or a tunnel does not overlap."},
	{ReasonUplinkNotFound, ConditionReady, "agent", "Name an interface in spec.uplink.interface that the node has."},
	{ReasonUplinkInUse, ConditionReady, "agent", "Choose an interface that carries neither the node's own traffic nor another bridge."},
	{ReasonForwardBlocked, ConditionReady, "agent", "Let the firewall table that the message names accept traffic of the bridge or the port, at the hook that the message names or at forward. If the message names an interface's forwarding, set that to 1."},
	{ReasonObstructed, ConditionReady, "agent", "Run the command in the message: it removes the foreign object from the interface."},
	{ReasonContested, ConditionReady, "agent", "Find the program that changes the object again and again, by the command in the message, and stop it. The pauses between repairs grow to a minute, and end when the object has stayed whole for ten seconds."},
	{ReasonLimitReached, ConditionReady, "agent", "Raise the limit that the message names (open files, memory, space under /run), or free some of it. The agent tries again by itself."},
	{ReasonSysctlReadOnly, ConditionReady, "agent", "Mount /proc/sys read-write where Patchbay runs, as the message says. Patchbay makes no object until then."},
	{ReasonNotPermitted, ConditionReady, "agent", "Give Patchbay the capability, the writable folder or the exception of the security module that the message names."},
	{ReasonRoutedElsewhere, ConditionReady, "agent", "Delete the foreign rule (ip rule) or route that the message names, or put a rule for the addresses before it. With Ready=True it concerns some packets alone."},
	{ReasonUplinkDown, ConditionReady, "agent", "Set the node's interface up that the message names, or remove its address. With Ready=True the node has another way out."},
	{ReasonNodeNotReady, ConditionReady, "controller", "Bring the node back. Until then it is unknown whether its objects work."},
	{ReasonKernelError, ConditionReady, "agent", "Read the message; the agent tries again with growing pauses. A program that `did not answer within` some time hangs: see why it waits (`/proc/PID/stack`, a lock such as /run/xtables.lock). Links are repaired meanwhile."},
	{ReasonInUse, ConditionInUse, "controller", "Delete the attachments that the message names. The network goes with the last one."},
	{ReasonNameConflict, ConditionReady, "controller", "Delete or rename the object that the message names: the controller needs the name for a child."},
}
