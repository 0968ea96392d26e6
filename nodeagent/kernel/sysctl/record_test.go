package sysctl

import (
	"encoding/json"
	"reflect"
	"testing"
)

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"source":"local","previous":"0","ours":"1","others":{"net/ipv4/conf/eth0/forwarding":"1"}}`))
	f.Add([]byte(`{"source":"local","others":{"../../etc/passwd":"1"}}`))
	f.Add([]byte(`{"source":"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		for name := range r.Others {
			if _, err := fileOf(name); err != nil {
				t.Errorf("accepted %q", name)
			}
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		same, err := parseRecord(again)
		if err != nil || !(reflect.DeepEqual(r, same) || len(r.Others)+len(same.Others) == 0) {
			t.Errorf("%+v became %+v, %v", r, same, err)
		}
	})
}
