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
