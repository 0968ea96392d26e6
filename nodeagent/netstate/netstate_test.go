package netstate

import (
	"encoding/json"
	"testing"
)

// TestKindsInRecords shows that a key is read as it was written, whatever its kind.
func TestKindsInRecords(t *testing.T) {
	names := map[string]bool{}
	for i := range kindNames {
		key := Key{Kind: Kind(i), Netns: "net1", Link: "eth0", Name: "a b"}
		text, err := json.Marshal(key)
		var got Key
		if err != nil || json.Unmarshal(text, &got) != nil || got != key {
			t.Errorf("%s: %v, read %v", text, err, got)
		}
		names[string(text)] = true
	}
	if len(names) != len(kindNames) {
		t.Errorf("%d kinds have %d names", len(kindNames), len(names))
	}
	if err := json.Unmarshal([]byte(`{"kind": "bridge"}`), &Key{}); err == nil {
		t.Error("an unknown kind was read")
	}
}
