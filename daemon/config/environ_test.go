package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mirrord/protocol/ide"
)

func TestEnviron(t *testing.T) {
	remote := []string{"A=1", "B=2", "DB_TIMEOUT=5", "PATH=/pod", "GEM_HOME=/g", "EMPTY=", "=odd", "none"}
	file := filepath.Join(t.TempDir(), ".env")
	text := "# comment\nB=from file\nexport C='x # y'\nD=\"a\\nb\" # z\nLAST=v # c\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		env   Env
		set   map[string]string
		unset []string
	}{
		{"all", Env{Enabled: true}, map[string]string{"A": "1", "B": "2", "DB_TIMEOUT": "5", "EMPTY": ""}, nil},
		{"off", Env{Unset: []string{"aws_profile"}}, map[string]string{}, []string{"AWS_PROFILE"}},
		{"include", Env{Enabled: true, Include: []string{"D?_*", "PATH"}}, map[string]string{"DB_TIMEOUT": "5"}, nil},
		{"exclude", Env{Enabled: true, Exclude: []string{"*_*", "E*"}}, map[string]string{"A": "1", "B": "2"}, nil},
		{"precedence", Env{Enabled: true, Include: []string{"A", "B"}, File: file, Override: map[string]string{"A": "o", "PATH": "/mine"},
			Mapping: []Replacement{{"^[AB]$", "m"}}, Unset: []string{"A"}},
			map[string]string{"A": "o", "B": "m", "C": "x # y", "D": "a\nb", "LAST": "v", "PATH": "/mine"}, nil},
		{"captures", Env{Enabled: true, Include: []string{"DB_TIMEOUT"}, Mapping: []Replacement{{"(\\w+)_TIME", "$1!"}}},
			map[string]string{"DB_TIMEOUT": "DB!"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Config{Env: test.env}
			set, unset, err := c.Environ(remote, ide.Client{Env: []string{"A=local", "AWS_PROFILE=me"}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.set, set); diff != "" {
				t.Errorf("set (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.unset, unset, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("unset (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDotenvErrors(t *testing.T) {
	for text, want := range map[string]string{
		"A=1\nnot a pair\n": `:2: "not a pair" is not NAME=value`,
		"A=\"x\n":           `:1: A: the value's " has no partner on its line`,
		"A='x' y\n":         `:1: A: "y" follows the value`,
	} {
		file := filepath.Join(t.TempDir(), ".env")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readDotenv(file); err == nil || err.Error() != file+want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
