// Package others has Patchbay on a node beside the programs that change a node's
// firewall most: Debian's Docker, firewalld and ufw, the real ones, in network, mount
// and process namespaces of their own, with either firewall. At every step what status
// says is what packets meet, and both sides' published ports answer.
//
// The programs are unpacked into the user's cache folder (hack/others.sh), not
// installed. Docker needs root: where the tests run as an ordinary user, sudo -n starts
// them. A machine that cannot have the programs fails the tests.
package others
