package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// allProtocols is ETH_P_ALL in network order.
var allProtocols = binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})

// A Tap sends whole frames by an interface, and hears the frames that arrive there.
type Tap struct {
	// MAC is the address of the interface.
	MAC  net.HardwareAddr
	file *os.File
}

// OpenTap opens a Tap of an interface. Without a name it hears every interface of the
// namespace.
func OpenTap(n Netns, link string) (*Tap, error) {
	t, err := In(n, func() (*Tap, error) {
		ifc := &net.Interface{}
		if link != "" {
			var err error
			if ifc, err = net.InterfaceByName(link); err != nil {
				return nil, err
			}
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(allProtocols))
		if err != nil {
			return nil, err
		}
		t := &Tap{ifc.HardwareAddr, os.NewFile(uintptr(fd), link)}
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: ifc.Index}))
		if err != nil {
			t.Close()
		}
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s/%s: %w", n, link, err)
	}
	return t, nil
}

// Close closes the Tap.
func (t *Tap) Close() { _ = t.file.Close() }

// Send sends a frame.
func (t *Tap) Send(frame []byte) error {
	_, err := t.file.Write(frame)
	return err
}

// Await hands over frames that arrive until last reports that one is the last, and returns
// true, or until the window closes, and returns false.
func (t *Tap) Await(window time.Duration, last func(frame []byte) bool) (bool, error) {
	if err := t.file.SetReadDeadline(time.Now().Add(window)); err != nil {
		return false, err
	}
	buf := make([]byte, 4096)
	for {
		n, err := t.file.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, err
		case last(buf[:n]):
			return true, nil
		}
	}
}
