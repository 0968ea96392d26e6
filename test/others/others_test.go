package others

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

func TestDockerNFTables(t *testing.T)    { docker(t, "nftables") }
func TestDockerIPTables(t *testing.T)    { docker(t, "iptables") }
func TestFirewalldNFTables(t *testing.T) { firewalld(t, "nftables") }
func TestFirewalldIPTables(t *testing.T) { firewalld(t, "iptables") }
func TestUFWNFTables(t *testing.T)       { ufw(t, "nftables") }
func TestUFWIPTables(t *testing.T)       { ufw(t, "iptables") }

// docker has an engine come, with containers and networks, restart and go.
func docker(t *testing.T, backend string) {
	t.Parallel()
	if !enter(t) {
		return
	}
	n := newNode(t)
	// Docker sets the policy of FORWARD to DROP where it switches forwarding on.
	n.engine()
	n.sh("iptables -S FORWARD | grep -q '^-P FORWARD DROP'")
	n.agent(backend)
	n.sh("tar -C $" + kit + " -c httpd | docker import --change 'ENTRYPOINT [\"/httpd\"]' - httpd")
	one, address := n.container("one", "-p 9001:80")
	n.opens("with Docker", true)
	both := func(when string, container netlab.Netns, address, port, text string) {
		t.Helper()
		n.reaches(when, outside, "198.51.100.1:"+port, text)
		n.reaches(when, "net1", "198.51.100.1:"+port, text)
		n.reaches(when, container, "198.51.100.1:8080", "ours")
		n.closed(when, "net1", address+":81", "unpublished")
		n.closed(when, container, "192.168.1.2:80", "ours")
	}
	n.serve(one, ":81", "unpublished")
	n.reaches("in the container", one, address+":81", "unpublished")
	both("with a container", one, address, "9001", "one")

	n.sh("docker network create second")
	two, address2 := n.container("two", "--network second -p 9002:80")
	both("with a second network", two, address2, "9002", "two")
	n.opens("with a second network", true)
	n.sh("docker rm -f two; docker network rm second")
	n.opens("without the second network", true)
	both("without the second network", one, address, "9001", "one")

	n.stop("dockerd")
	n.opens("with Docker stopped", true)
	n.engine()
	n.sh("docker rm -f one")
	one, address = n.container("one", "-p 9001:80")
	n.opens("with Docker restarted", true)
	both("with Docker restarted", one, address, "9001", "one")
	n.end()
	n.sh("docker rm -f one")
	n.stop("dockerd")
}

// engine starts dockerd and waits until it answers.
func (n *node) engine() {
	n.t.Helper()
	args := []string{"dockerd", "--host=unix:///run/docker.sock", "--group=0", "--exec-root=/run/docker-exec", "--data-root=/run/docker-data", "--pidfile=/run/docker.pid", "--shutdown-timeout=1",
		"--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs", "--cgroup-parent=/" + os.Getenv(controlGroup)}
	if capable, _ := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); capable != 1 {
		args = append(args, "--add-runtime=relaxed="+os.Getenv(kit)+"/runtime", "--default-runtime=relaxed")
	}
	if err := os.Setenv("DOCKER_HOST", "unix:///run/docker.sock"); err != nil {
		n.t.Fatal(err)
	}
	n.run("dockerd", args...)
	n.eventually("dockerd answers", func() error { return n.try("docker info") })
}

// container runs the server in a container, and returns its namespace and address.
func (n *node) container(name, options string) (netns netlab.Netns, address string) {
	n.t.Helper()
	n.sh(fmt.Sprintf("docker run -d --name %s %s httpd :80 %s", name, options, name))
	out := n.sh("docker inspect " + name + " --format '{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'")
	pid, address, _ := strings.Cut(out, " ")
	return netlab.Netns("/proc/" + pid + "/ns/net"), address
}

// bus is a message bus for firewalld alone.
const bus = `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>
`

// firewalld drops forwarded packets that no zone accepts.
func firewalld(t *testing.T, backend string) {
	t.Parallel()
	if !enter(t) {
		return
	}
	n := newNode(t)
	n.agent(backend)
	n.sh("mkdir -p /run/dbus")
	if err := os.WriteFile("/run/dbus/bus.conf", []byte(bus), 0o644); err != nil {
		t.Fatal(err)
	}
	n.run("dbus", "dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile")
	n.eventually("the message bus", func() error { return n.try("test -S /run/dbus/system_bus_socket") })
	n.run("firewalld", "firewalld", "--nofork", "--nopid")
	n.eventually("firewalld runs", func() error { return n.try("firewall-cmd --state") })

	n.opens("with firewalld", false)
	n.sh("patchbay status -o json | grep -q 'chain filter_FORWARD of table inet firewalld drops forwarded packets by the rule .reject with icmpx admin-prohibited. of its chain .*, and names no br-red'")
	n.sh("firewall-cmd --permanent --zone=trusted --add-interface=br-red; firewall-cmd --zone=trusted --change-interface=br-red")
	n.opens("in the trusted zone", true)
	n.sh("firewall-cmd --reload")
	n.opens("reloaded", true)
	n.sh("firewall-cmd --complete-reload")
	n.opens("reloaded completely", true)
	n.reaches("reloaded completely", outside, "198.51.100.1:8080", "ours")
	n.sh("firewall-cmd --zone=trusted --remove-interface=br-red")
	n.opens("out of the trusted zone", false)
	n.stop("firewalld")
	n.opens("with firewalld stopped", true)
	n.reaches("with firewalld stopped", outside, "[2001:db8::1]:8080", "ours")
	n.end()
}

// ufw sets the policy of FORWARD to DROP, and that of INPUT.
func ufw(t *testing.T, backend string) {
	t.Parallel()
	if !enter(t) {
		return
	}
	n := newNode(t)
	n.agent(backend)
	n.sh("cp -n /usr/share/ufw/*.rules /usr/share/ufw/*.init /usr/share/ufw/ufw.conf /etc/ufw/; mkdir -p /var/lib/ufw")
	n.serve(netlab.Node, ":2222", "service")
	all := func(when string, service bool) {
		t.Helper()
		n.opens(when, true)
		for _, from := range []netlab.Netns{outside, "net1"} {
			n.agrees(when, from, "198.51.100.1:2222", "service", service)
		}
		n.reaches(when, outside, "198.51.100.1:8080", "ours")
		n.reaches(when, "net1", "[2001:db8::1]:8080", "ours")
	}
	all("without ufw", true)
	n.sh("ufw --force enable")
	all("with ufw", false)
	n.sh("ufw allow 2222/tcp")
	all("with a port open", true)
	n.sh("ufw reload")
	all("reloaded", true)
	n.sh("ufw disable")
	all("disabled", true)
	n.sh("ufw --force enable")
	all("enabled again", true)
	n.end()
}
