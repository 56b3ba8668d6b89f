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
	decode := func(b []byte) (o Orders, err error) {
		more, err := o.decodeProgram(b)
		if err == nil {
			err = o.decode(more)
		}
		return o, err
	}
	got, err := decode(want.Encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	const start = "dir\x000\x00path\x00true\x00"
	for _, bad := range []string{
		"", "dir\x00", "dir\x00-1\x00", "dir\x001\x00short", start, start + "9\x00", start + "-1\x00",
		start + "2\x00a\x00", start + "1\x00a\x000\x00more",
	} {
		if _, err := decode([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
