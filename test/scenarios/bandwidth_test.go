package scenarios

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"k8s.io/apimachinery/pkg/api/resource"
)

// settling is how long a connection sends before it is measured: the burst is
// spent then, and TCP has found the rate.
const (
	settling  = 300 * time.Millisecond
	measuring = 700 * time.Millisecond
)

func carries(c call) (output, error) {
	if len(c.args) != 4 {
		return output{}, errUsage
	}
	want, err := resource.ParseQuantity(c.args[3])
	if err != nil {
		return output{}, err
	}
	client, server, err := netlab.Join(netlab.Netns(c.args[0]), netlab.Netns(c.args[1]), c.args[2], c.args[2])
	if err != nil {
		return output{}, err
	}
	defer client.Close()
	defer server.Close()
	go io.Copy(client, endless{})
	got, err := received(server)
	if err != nil {
		return output{}, err
	}
	out := output{out: fmt.Sprintf("%.1f Mbit/s\n", got/1e6)}
	if share := got / want.AsApproximateFloat64(); share < 0.5 || share > 1.5 {
		return out, netlab.Refuted("%.1f Mbit/s, not %s", got/1e6, c.args[3])
	}
	return out, nil
}

// received is how many bits a second arrive.
func received(conn net.Conn) (float64, error) {
	var start time.Time
	count := 0
	buf := make([]byte, 64<<10)
	began := time.Now()
	if err := conn.SetDeadline(began.Add(settling + 6*measuring)); err != nil {
		return 0, err
	}
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return 0, err
		}
		switch now := time.Now(); {
		case now.Sub(began) < settling:
		case start.IsZero():
			start = now
		default:
			count += n
			if passed := now.Sub(start); passed > measuring {
				return float64(count) * 8 / passed.Seconds(), nil
			}
		}
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
