package pattern

import (
	"strings"
	"testing"
	"time"
)

func TestDialect(t *testing.T) {
	for _, tt := range []struct {
		text string
		fold bool
		yes  string
		no   string
	}{
		{`^x-user: [[:alpha:]]+$`, true, "X-User: alice", "x-user: 1"},
		{`^(?P<who>a|b)-(?P<n>\d)$`, false, "a-1", "c-1"},
		{`^/orders(?!/internal)`, false, "/orders/1", "/orders/internal"},
		{`(?<=v)\d$`, false, "v1", "1"},
		{`^(.)\1$`, false, "xx", "xy"},
		{`^[\]\[a]+$`, false, "[a]", "b"},
		{`^[]a]+$`, false, "]a", "b"},
		{`^[^[:digit:]_]$`, false, "a", "1"},
		{`^\[a&&b$`, false, "[a&&b", "[ab"},
		{`^\pL+$`, false, "é", "1"},
	} {
		re, err := Compile(tt.text, tt.fold, time.Second)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		for s, want := range map[string]bool{tt.yes: true, tt.no: false} {
			if got, err := re.MatchString(s); got != want || err != nil {
				t.Errorf("%s matches %q: %v, %v", tt.text, s, got, err)
			}
		}
	}
}

func TestNotSupported(t *testing.T) {
	for _, text := range []string{`[a-z&&[^b]]`, `[[a-c]x]`, `[a-z&&b]`, `[[:alpha`, `[[]`, `x++`, `a\Kb`, `\h`, `[a`} {
		if re, err := Compile(text, false, time.Second); err == nil {
			t.Errorf("%s is read as %s", text, re)
		}
	}
}

func TestLimit(t *testing.T) {
	re, err := Compile(`^(a+)+$`, false, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := re.MatchString(strings.Repeat("a", 40) + "!"); yes || err == nil {
		t.Errorf("%v, %v", yes, err)
	}
}
