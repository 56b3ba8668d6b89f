package keeper

import (
	"reflect"
	"testing"
)

func TestOrders(t *testing.T) {
	want := Orders{
		Path: "/bin/x", Dir: "/", AtOnce: true, Argv: []string{"x", "", "\xff"}, Env: []string{"A=b\nc"},
		Program: []Instruction{{Op: 6, Jt: 1, Jf: 2, K: 1 << 31}},
	}
	var got Orders
	if err := got.decode(want.Encode()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "a\x00", "a\x00b\x0099\x00", "a\x00b\x00-1\x00", "a\x00b\x000\x000\x00short"} {
		if err := new(Orders).decode([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
