package config

import (
	"bytes"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write schema.json")

func TestSchema(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("schema.json is not what the settings say: run go generate ./daemon/config")
	}
}

// Rows that name a key twice or can hold nothing are mistakes of the table.
func TestSettings(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range settings {
		if seen[s.key] {
			t.Errorf("%s: two rows", s.key)
		}
		seen[s.key] = true
		if s.takes == 0 || s.doc == "" {
			t.Errorf("%s: takes nothing or has no doc", s.key)
		}
		if s.field != nil && s.set != nil {
			t.Errorf("%s: has a field and a setter", s.key)
		}
		if s.field != nil {
			if err := s.store(defaults(), &node{kind: isText, text: "1"}); err != nil {
				t.Errorf("%s: %v", s.key, err)
			}
		}
	}
}
