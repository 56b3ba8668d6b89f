package session

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/layer"
)

func (c *caller) change(q protocol.Change) layer.Reply {
	c.t.Helper()
	reply, _ := c.call(layer.Request{Op: layer.OpChange, Path: string(layer.AppendChange(nil, &q))})
	return reply
}

// Who changes a file has heard that what it keeps of it is not true any more
// before it is answered.
func TestChange(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for round := range 20 {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		c.expired = nil // the making of the file may end the lease already
		var lease protocol.Lease
		for lease.ID == 0 { // until the agent has heard that the daemon watches
			reply, _ := c.call(layer.Request{Op: layer.OpStat, Path: file})
			lease = reply.Lease
		}
		if reply := c.change(protocol.Change{Op: protocol.ChangeRename, Path: protocol.Path(file), Other: protocol.Path(file + ".new")}); reply.Errno != 0 {
			t.Fatalf("rename: %s", reply.Data)
		}
		if !slices.Contains(c.expired, lease.ID) && !slices.Contains(c.expired, 0) {
			t.Fatalf("round %d: lease %d, expired before the answer: %d", round, lease.ID, c.expired)
		}
		if _, err := os.Stat(file + ".new"); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		change protocol.Change
		want   unix.Errno
	}{
		{protocol.Change{Op: protocol.ChangeMkdir, Path: protocol.Path(dir)}, unix.EEXIST},
		{protocol.Change{Op: protocol.ChangeMkdir, Path: protocol.Path(dir + "/none/x")}, unix.ENOENT},
		{protocol.Change{Op: 99, Path: protocol.Path(dir)}, unix.EINVAL},
	} {
		if reply := c.change(test.change); unix.Errno(reply.Errno) != test.want || len(reply.Data) == 0 {
			t.Errorf("%+v: errno %v, words %q", test.change, unix.Errno(reply.Errno), reply.Data)
		}
	}
	if reply, _ := c.call(layer.Request{Op: layer.OpChange, Path: "/too/short"}); unix.Errno(reply.Errno) != unix.EPROTO {
		t.Errorf("no change at all: %+v", reply)
	}
	latin := protocol.Path(dir + "/caf\xe9")
	if reply := c.change(protocol.Change{Op: protocol.ChangeMkdir, Path: latin, Mode: 0o700, Umask: 0o077}); reply.Errno != 0 {
		t.Errorf("a name that is not UTF-8: %s", reply.Data)
	}
	if _, err := os.Stat(string(latin)); err != nil {
		t.Error(err)
	}
	reply, _ := c.call(layer.Request{Op: layer.OpStatfs, Path: dir})
	told, err := layer.DecodeStatfs(reply.Data)
	var st unix.Statfs_t
	if e := unix.Statfs(dir, &st); e != nil || err != nil || told.Type != st.Type || told.Blocks != st.Blocks || told.Namelen != st.Namelen || told.Frsize != st.Frsize {
		t.Errorf("statfs: %+v, %v, want %+v, %v", told, err, st, e)
	}
}

// noteExpired notes what a notice says; 0 stands for all.
func (c *caller) noteExpired(r *layer.Reply) {
	if r.Flags&layer.ReplyExpired == 0 {
		return
	}
	if len(r.Data) == 0 {
		c.expired = append(c.expired, 0)
	}
	for b := r.Data; len(b) >= 8; b = b[8:] {
		c.expired = append(c.expired, binary.LittleEndian.Uint64(b))
	}
}
