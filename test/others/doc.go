// Package others tests Patchbay on a node beside the programs that change a node's
// firewall most: Debian's Docker, firewalld and ufw, the real ones, in network, mount
// and process namespaces of their own, with either firewall. At every step the status
// is true of packets, and both sides' published ports answer.
//
// The programs are unpacked into the user's cache folder (hack/others.sh), not
// installed. Docker needs root: where the tests run as an ordinary user, sudo -n starts
// the tests. A machine that cannot have the programs fails them.
package others
