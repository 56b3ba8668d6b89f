package session

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Daemons of one directory are each other's successors, those of others are not.
func TestWhoWeAre(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	first, err := whoWeAre(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := whoWeAre(dir)
	if err != nil {
		t.Fatal(err)
	}
	third, err := whoWeAre(other)
	if err != nil {
		t.Fatal(err)
	}
	if first.Place != second.Place || first.Run >= second.Run || third.Place == first.Place || len(first.Place) < 20 {
		t.Errorf("%+v, %+v, %+v", first, second, third)
	}
	late := time.Now().Add(time.Hour).UnixNano() // by a clock that is set back since
	if err := os.WriteFile(filepath.Join(dir, runName), fmt.Append(nil, late), 0o600); err != nil {
		t.Fatal(err)
	}
	if next, err := whoWeAre(dir); err != nil || next.Run <= late {
		t.Errorf("after run %d comes %d, %v", late, next.Run, err)
	}
	if !strings.Contains(first.Name, "@") {
		t.Errorf("the name is %q", first.Name)
	}
	if info, err := os.Stat(filepath.Join(dir, placeName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the place's file: %v, %v", info, err)
	}
}
