package cli

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"mirrord/layer/launch"
	"mirrord/protocol/ide"
)

// What is quick says nothing; what is not says where it is, and each step after.
func TestProgress(t *testing.T) {
	for _, test := range []struct {
		name string
		wait time.Duration
		want string
	}{
		{"quick", patience / 2, ""},
		{"slow", 2 * patience, "mirrord: second\nmirrord: third\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p := newProgress(&out)
				p.report("first")
				p.report("second")
				time.Sleep(test.wait) // of the bubble's clock
				p.report("third")
				p.end()
				p.report("too late")
				if out.String() != test.want {
					t.Errorf("said %q, want %q", out.String(), test.want)
				}
			})
		})
	}
}

func TestReport(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
		want string
	}{
		{nil, 0, ""},
		{&exit{code: 7}, 7, ""},
		{&exit{code: exitFailed, err: errors.New("starting: no\nway")}, 125, "mirrord: starting: no\n  way\n"},
		{&exit{code: exitFailed, err: &ide.Error{Msg: "no such pod", Hint: "did you mean web?"}}, 125, "mirrord: no such pod\n  did you mean web?\n"},
		{&exit{code: 127, err: &launch.Error{Msg: "x: command not found", Hint: "look"}}, 127, "mirrord: x: command not found\n  look\n"},
	} {
		var out bytes.Buffer
		if code := report(&out, test.err); code != test.code || out.String() != test.want {
			t.Errorf("%v: code %d, said %q", test.err, code, out.String())
		}
	}
}
