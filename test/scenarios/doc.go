// Package scenarios holds the purposes of Patchbay as scripts that run on a
// real kernel: manifests, commands, real traffic and the expected state in one
// file, each script in a user, network and mount namespace of its own, without
// root. The namespace a script starts in is the node. No packet leaves it.
//
// Run one with
//
//	go test ./test/scenarios -run TestScenarios/13
//
// A script that has a line "# variants: A B" runs once for each. A variant is
// br_netfilter=0 or br_netfilter=1, which sets whether bridged packets pass the IP
// hooks of the firewall; backend=nftables or backend=iptables; or both with a
// comma between. The condition [br_netfilter] holds in the second, [iptables]
// with that backend, where $PROGRAMMED is the reason of a network whose ports
// cannot be filtered; [legacy] where legacy iptables works. A backend in the
// environment (PATCHBAY_NAT_BACKEND) is for the scripts that do not name one.
//
// The last sections of a script are goldens of the firewall, for the command rules.
//
//	PATCHBAY_UPDATE=1 go test ./test/scenarios -run TestScenarios/13
//
// rewrites them. docs/rulesets.md explains sets and chains, and shows three scripts' goldens.
//
// Scripts in byhand do by ip and nft the work of the scenarios' manifests. They show
// that the commands below can fail.
//
// Beside the commands of testscript (exec, stdout, stderr, grep, cmp, cp, env, ...)
// and patchbay itself, scripts have these. NETNS is a name under /run/netns, or
// "node". A command marked with * is a check, which "!" negates: a
// negated check still fails when it cannot be carried out, such as in a
// namespace that does not exist.
//
//	lan NAME NODE-IF NODE-CIDRS HOST-CIDRS
//	    Makes a stand-in machine: namespace NAME with interface eth0, connected
//	    to the node's new interface NODE-IF. CIDRs are separated by commas; "-"
//	    is none. IPv6 addresses are usable at once.
//	* ping NETNS ADDRESS
//	    An echo request is answered, within 2 s. Negated: two in a row are lost.
//	serve NETNS tcp|udp|http|sctp ADDRESS:PORT [TEXT]
//	    Starts a server that answers every client with the line "peer IP", where IP
//	    is the client's address as the server sees it, and a line TEXT; over UDP
//	    with the request after it, over SCTP as the cookie of an INIT ACK. It holds
//	    its namespace alive until the script ends.
//	* dial NETNS tcp|udp|http|sctp ADDRESS:PORT [REGEXP]
//	    A server answers, within 2 s, and the answer matches. It is left in
//	    stdout. Negated: refused, unreachable or silent for a second. Over SCTP, which
//	    the kernel need not know, it is asked with an INIT; the answer must come
//	    from that address and port, with a right checksum.
//	* carries NETNS NETNS ADDRESS:PORT RATE
//	    TCP from the first namespace to a server there at ADDRESS:PORT in the
//	    second carries between half and one and a half of RATE, such as 20M, in
//	    bits per second.
//	connect [-udp|-busy] NAME NETNS NETNS ADDRESS:PORT [VIA]
//	    Opens a TCP connection from the first namespace to a server there in the
//	    second, by the address and port VIA if it is given. With -udp it is a flow
//	    of datagrams from one socket, one every 20 ms until the script ends; the
//	    server may be there already. With -busy both ends of the connection send
//	    all the time.
//	* alive NAME
//	    That connection still carries bytes there and back, within 2 s. Of a flow,
//	    a datagram sent from now on is answered; stdout has the line "peer IP" as
//	    serve writes it, and the name of the namespace, or the TEXT of the serve,
//	    that answers. Negated: nothing comes back for a second.
//	beyond NAME client|server NETNS
//	    A segment of that end of the TCP connection, far outside its window, is sent
//	    from the namespace, where the end is.
//	* frame NETNS/IF NETNS/IF KIND SOURCE-MAC SOURCE-IP
//	    A raw frame from the first interface arrives at the second. SOURCE-MAC "own" is
//	    the first interface's. Kinds are arp-request, arp-reply, arp-probe, udp, dhcp, ns,
//	    na, ra, dad and redirect; reply-other and probe-other, ARP in which another MAC
//	    address is the sender's; na-options, ra-options and report (of groups) behind
//	    hop-by-hop options; ra-fragment; nowhere, UDP from ::; vlan and lldp.
//	* groups NETNS/IF SOURCE-MAC SOURCE-IP ADDRESS
//	    Of the frames that the interface sends to the 16 link-local group addresses
//	    (01:80:c2:00:00:0x), each with LLC, LLDP, EAPOL, IPv4 and ARP for ADDRESS, IPv6, a
//	    VLAN tag and random bytes, one is answered by an ARP or echo reply. SOURCE-MAC may
//	    be "own" or "random", another one for each group. Negated: none comes within 0.3 s.
//	flood NETNS/IF COUNT
//	    The interface sends that many broadcasts, each from another MAC address.
//	attackers
//	    Makes two attackers: mallory, a machine on the LAN behind the
//	    node's interface evil0 (192.0.2.66, 2001:db8:66::66) with its default
//	    routes over the node, and evil.yaml, a network with the attachment eve
//	    (10.66.0.66, fd00:66::66), to be applied.
//	* intrude NETNS ADDRESS:PORT
//	    A packet that mallory, or eve if she is there, sends to ADDRESS:PORT arrives
//	    in NETNS, on any interface, port and address: a SYN, a segment of
//	    a connection that does not exist (established), a datagram (udp), an echo
//	    request (icmp). What arrived is left in stdout, such as "mallory syn".
//	    Negated: nothing does within 0.3 s.
//	snapshot NAME
//	    Remembers all that is to be the same again: interfaces, bridge ports,
//	    addresses, routes, rules, firewall and sysctls of the node and of every
//	    namespace, and the namespaces themselves.
//	* unchanged [-rebuilt] NAME
//	    All of that is as it was, within 5 s. With -rebuilt interfaces and
//	    namespaces may have been made anew under their old names.
//	rules [NAME]
//	    Our elements of sets and our rules in iptables equal the section
//	    rules.nftables or rules.iptables, by the backend (NAME.rules.nftables, ...), within
//	    5 s. Entries about foreign bridges are left out. stdout keeps the output of the
//	    command before. Every script that writes to the firewall has this command. It
//	    cannot be negated.
//	strays PAGE SNAPSHOT
//	    Each row of a table of the page ends with a command: while the agent is stopped
//	    it changes the node against the snapshot. Then the agent puts it back, all else being
//	    as it was; or, where the row goes on with how it is undone and a text, the
//	    status has the text, until it is undone. Rows that the kernel does not support
//	    are left out. What each took is left in stdout.
//	* quiet PROGRAM ARG...
//	    The program succeeds and writes nothing to the kernel: no new firewall
//	    generation, no change of links, addresses, routes or rules announced, and
//	    the same state before and after.
//	* exits CODE PROGRAM ARG...
//	    The program ends with this exit code.
//	* shows REGEXP COMMAND ARG...
//	    The command succeeds and its standard output matches.
//	* eventually DURATION [!] COMMAND ARG...
//	    The command succeeds within the time, which is longer where more processes
//	    want to run than the machine has cores.
//	agent start DIR [FLAG...], agent stop, agent kill
//	    Runs patchbay agent --manifests DIR in the background, with standard error
//	    in agent.log; stop is SIGTERM and a clean exit, kill is SIGKILL.
//	agent freeze, agent thaw
//	    Stops the agent from running without ending it, and lets it go on.
//
// After every apply that shows a status, before an agent is stopped, and where one
// still runs at the end of a script, patchbay status without flags is compared with
// the last output of that apply or agent. A contradiction fails the script. status is
// never told which firewall a script uses.
//
// The program "listener NETWORK ADDRESS:PORT", with tcp4, tcp6, tcp (both), udp4, ... is
// a process of the node that answers every client with "a process" until it is killed;
// run it with exec.
//
// The sample manifests of the repository are in $SAMPLES, its pages in $DOCS.
package scenarios
