package provision

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestKey(t *testing.T) {
	s := Source{Root: t.TempDir()}
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(s.module(), name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := func() string {
		t.Helper()
		k, err := s.key()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write("go.mod", "module m")
	if _, err := s.key(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without go.sum: got %v, want %v", err, os.ErrNotExist)
	}
	write("go.sum", "")
	write("kube/main.go", "package main")
	first := key()
	write("up.go", "package main")
	if got := key(); got != first {
		t.Error("the controller's sources change the key")
	}
	write("kube/main.go", "package main // new")
	if got := key(); got == first {
		t.Error("the binary's sources do not change the key")
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path, func() { t.Error("waiting for a lock that nobody has") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Lock(ctx, path, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("a second lock: got %v, want %v", err, context.Canceled)
	}
	waiting := make(chan struct{})
	got := make(chan error)
	go func() {
		unlock, err := Lock(t.Context(), path, func() { close(waiting) })
		if err == nil {
			unlock()
		}
		got <- err
	}()
	<-waiting
	unlock()
	if err := <-got; err != nil {
		t.Errorf("a lock after the first is gone: %v", err)
	}
}
