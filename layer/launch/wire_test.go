package launch

import (
	"reflect"
	"testing"

	"golang.org/x/net/bpf"
)

func TestOrders(t *testing.T) {
	want := orders{
		path: "/bin/x", dir: "/", argv: []string{"x", "", "\xff"}, env: []string{"A=b\nc"},
		program: []bpf.RawInstruction{{Op: 6, Jt: 1, Jf: 2, K: 1 << 31}},
	}
	var got orders
	if err := got.decode(want.encode()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "a\x00", "a\x00b\x0099\x00", "a\x00b\x00-1\x00", "a\x00b\x000\x000\x00short"} {
		if err := new(orders).decode([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
