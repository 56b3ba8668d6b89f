package ide

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestName(t *testing.T) {
	for bytes, want := range map[string]string{"": "", "café": "café", "caf\xe9": "caf\x00e9", "\xff/\xc3(€": "\x00ff/\x00c3(€", "\uFFFD": "\uFFFD"} {
		if got := Name(bytes); got != want {
			t.Errorf("Name(%q) = %q, want %q", bytes, got, want)
		}
	}
	for _, name := range []string{"\x00", "\x00e", "\x00zz", "a\x0041", "\x002f", "\x0000"} {
		if got, err := Bytes(name); err == nil {
			t.Errorf("Bytes(%q) = %q", name, got)
		}
	}
}

// What a name spells is as it was.
func FuzzName(f *testing.F) {
	f.Add("caf\xe9")
	f.Add("\xe2\x82")
	f.Fuzz(func(t *testing.T, bytes string) {
		if strings.Contains(bytes, escape) {
			t.Skip() // no file's name has it
		}
		name := Name(bytes)
		if !utf8.ValidString(name) {
			t.Fatalf("Name(%q) = %q is not UTF-8", bytes, name)
		}
		if got, err := Bytes(name); utf8.ValidString(bytes) != (name == bytes) || err == nil && got != bytes {
			t.Errorf("Name(%q) = %q, which is %q, %v", bytes, name, got, err)
		}
	})
}
