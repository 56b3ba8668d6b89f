package session

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/files/filestest"
	"mirrord/protocol"
	"mirrord/protocol/layer"
	"mirrord/protocol/link"
	"mirrord/protocol/link/linktest"
)

// A write that hangs in the target holds up who asks for that file by path, for
// a while, and nobody who asks for another.
func TestStuckWrite(t *testing.T) {
	gate := make(chan struct{})
	path := filestest.Stuck(t, gate)
	m := manager(t)
	m.nodes.patience = 100 * time.Millisecond
	_, c := start(t, m)
	withNodes(t, c)
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	f := c.open(c.writable(path, readWrite), unix.O_RDWR)
	if _, err := f.WriteString("written"); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	truncate := func(path string) layer.Request {
		q := protocol.Change{Op: protocol.ChangeSize, Path: protocol.Path(path), Size: 3}
		return layer.Request{Op: layer.OpChange, Path: string(layer.AppendChange(nil, &q))}
	}
	for _, tt := range []struct {
		r    layer.Request
		want unix.Errno
	}{
		{layer.Request{Op: layer.OpStat, Path: other}, 0},
		{layer.Request{Op: layer.OpOpen, Path: other}, 0},
		{layer.Request{Op: layer.OpAccess, Path: path, Mode: unix.W_OK}, 0},
		{truncate(other), 0},
		{layer.Request{Op: layer.OpOpen, Path: other, Flags: layer.OpenWrite | layer.OpenTruncate}, 0},
		{layer.Request{Op: layer.OpStat, Path: path}, unix.EIO},
		{layer.Request{Op: layer.OpOpen, Path: path}, unix.EIO},
		{truncate(path), unix.EIO},
		{layer.Request{Op: layer.OpOpen, Path: path, Flags: layer.OpenWrite | layer.OpenTruncate}, unix.EIO},
	} {
		if r, _ := c.call(tt.r); unix.Errno(r.Errno) != tt.want {
			t.Errorf("%+v: %v: %s; want %v", tt.r, unix.Errno(r.Errno), r.Data, tt.want)
		}
	}
	open()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if r, _ := c.call(layer.Request{Op: layer.OpStat, Path: path}); r.Errno != 0 || r.Attr.Size != int64(len("written")) {
		t.Errorf("after the write: %+v", r)
	}
}

// What was taken of a file that nobody has any more is written although the
// daemon ends, and although the agent is out of reach then.
func TestEndWritesFirst(t *testing.T) {
	n := linktest.New(t, agentAddress(t))
	path := filepath.Join(t.TempDir(), "file")
	m, stop := managerUntil(t)
	stop = sync.OnceFunc(stop)
	defer stop()
	_, c := startWith(t, m, n.Addr())
	withNodes(t, c)
	r := c.writable(path, layer.OpenWrite|layer.OpenCreate)
	claim, err := m.nodes.Claim(t.Context(), r.Node)
	if err != nil {
		t.Fatal(err)
	}
	n.Set(linktest.Refuses, link.Control, link.Bulk)
	if wait := m.nodes.Write(claim.Node, []byte("written"), 0, 0); wait != nil {
		t.Fatalf("it is not taken at once: %v", wait(t.Context()))
	}
	m.nodes.Left(claim.Node, claim.Count)
	var wg sync.WaitGroup
	wg.Go(stop)
	n.Set(linktest.Works, link.Control, link.Bulk)
	wg.Wait()
	if b, err := os.ReadFile(path); string(b) != "written" {
		t.Errorf("the file has %q, %v", b, err)
	}
}

// What is only looked at leaves the attributes of open files known.
func TestReadingChangesNothing(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	withNodes(t, c)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	changes := func(r layer.Request) uint64 {
		t.Helper()
		m.nodes.mu.Lock()
		before := m.nodes.changes
		m.nodes.mu.Unlock()
		if r, _ := c.call(r); r.Errno != 0 {
			t.Fatalf("%v: %s", unix.Errno(r.Errno), r.Data)
		}
		m.nodes.mu.Lock()
		defer m.nodes.mu.Unlock()
		return m.nodes.changes - before
	}
	mkdir := protocol.Change{Op: protocol.ChangeMkdir, Path: protocol.Path(dir + "/new"), Mode: 0o700}
	for _, tt := range []struct {
		r    layer.Request
		want uint64
	}{
		{layer.Request{Op: layer.OpOpen, Path: path}, 0},
		{layer.Request{Op: layer.OpOpen, Path: path, Flags: layer.OpenMayChange}, 0},
		{layer.Request{Op: layer.OpStatfs, Path: path}, 0},
		{layer.Request{Op: layer.OpOpen, Path: path, Flags: layer.OpenWrite}, 1},
		{layer.Request{Op: layer.OpChange, Path: string(layer.AppendChange(nil, &mkdir))}, 1},
	} {
		if got := changes(tt.r); got != tt.want {
			t.Errorf("%+v: %d changes, want %d", tt.r, got, tt.want)
		}
	}
}
