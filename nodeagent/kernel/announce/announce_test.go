package announce

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func TestAnnouncement(t *testing.T) {
	mac := netstate.MAC{0x02, 0x42, 0x0a, 0x44, 0x00, 0x65}
	for address, want := range map[string]string{
		"10.68.0.101": "ffffffffffff" + "02420a440065" + "0806" +
			"0001" + "0800" + "06" + "04" + "0001" +
			"02420a440065" + "0a440065" + "000000000000" + "0a440065",
		"fd00::65": "333300000001" + "02420a440065" + "86dd" +
			"60000000" + "0020" + "3a" + "ff" + "fd000000000000000000000000000065" + "ff020000000000000000000000000001" +
			"8800" + "4ee9" + "20000000" + "fd000000000000000000000000000065" + "0201" + "02420a440065",
	} {
		if got := hex.EncodeToString(frame(mac, netip.MustParseAddr(address))); got != want {
			t.Errorf("%s:\n got %s\nwant %s", address, got, want)
		}
	}
}
