package layer

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

func expired(seq uint64, data ...byte) *wire.Reply {
	return &wire.Reply{Lease: protocol.Lease{Seq: seq}, Data: data}
}

func TestCache(t *testing.T) {
	var c cache
	at := func(i int) question { return question{path: fmt.Sprint("/", i)} }
	for i := range 3 {
		c.put(at(i), protocol.Lease{ID: uint64(i + 1), Seq: 4}, &kept{content: make([]byte, 10)})
	}
	c.expired(expired(5, 2, 0, 0, 0, 0, 0, 0, 0))
	if c.get(at(0)) == nil || c.get(at(1)) != nil || c.get(at(2)) == nil || c.size != 20 {
		t.Errorf("after one has expired: %v", c.kept)
	}
	c.put(at(3), protocol.Lease{ID: 9, Seq: 4}, &kept{}) // its expiry may be what was heard
	c.put(at(4), protocol.Lease{}, &kept{})
	c.put(at(5), protocol.Lease{ID: 10, Seq: 5}, &kept{})
	if c.get(at(3)) != nil || c.get(at(4)) != nil || c.get(at(5)) == nil {
		t.Errorf("kept %v", c.kept)
	}
	c.put(at(0), protocol.Lease{ID: 11, Seq: 5}, &kept{content: make([]byte, 30)})
	if c.size != 40 || len(c.by) != 3 {
		t.Errorf("after an answer took another's place: %d bytes of %v", c.size, c.by)
	}
	c.expired(expired(6))
	if len(c.kept) != 0 || len(c.by) != 0 || c.size != 0 {
		t.Errorf("after all have expired: %v", c.kept)
	}
}

// What is opened again and again is made a file once, for as long as it is kept.
func TestCacheMemfds(t *testing.T) {
	var c cache
	var files injected
	files.init(nil)
	keep := func(i int, content string) *kept {
		k := &kept{content: []byte(content), whole: true, path: fmt.Sprint("/", i)}
		c.put(question{path: k.path}, protocol.Lease{ID: uint64(i), Seq: 9}, k)
		return k
	}
	open := func(k *kept) uint64 {
		t.Helper()
		fd, err := c.open(k, &files)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		b := make([]byte, 100)
		n, err := unix.Read(fd, b)
		if err := errors.Join(err, unix.Fstat(fd, &st)); err != nil || string(b[:n]) != string(k.content) {
			t.Errorf("read %q, %v", b[:n], err)
		}
		return st.Ino
	}
	one, two := keep(1, "one"), keep(2, "two")
	if a, b, again := open(one), open(two), open(one); a == b || a != again {
		t.Errorf("inodes %d, %d, %d", a, b, again)
	}
	memfd := c.memfds[one]
	c.expired(expired(2, 1, 0, 0, 0, 0, 0, 0, 0))
	if _, err := unix.FcntlInt(uintptr(memfd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("what has expired is still open: %v", err)
	}
	open(one) // whoever has just found it may use it
	if len(c.memfds) != 1 {
		t.Errorf("%d files for one that is kept", len(c.memfds))
	}
	for i := range memfdsHere() + 10 {
		open(keep(i+10, "more"))
	}
	if len(c.memfds) != memfdsHere() {
		t.Errorf("%d files are open, the limit is %d", len(c.memfds), memfdsHere())
	}
	if c.end(); len(c.memfds) != 0 {
		t.Errorf("%d files are open after the end", len(c.memfds))
	}
}

func TestCacheLimits(t *testing.T) {
	var c cache
	const large = maxKeptSize / 4
	for i := range uint64(10) {
		c.put(question{path: fmt.Sprint(i)}, protocol.Lease{ID: i + 1}, &kept{content: make([]byte, large)})
	}
	if c.size != maxKeptSize || c.get(question{path: "9"}) == nil {
		t.Errorf("%d bytes kept, the last: %v", c.size, c.get(question{path: "9"}))
	}
	for i := range uint64(2 * maxKept) {
		c.put(question{path: fmt.Sprint("/", i)}, protocol.Lease{ID: i + 100}, &kept{})
	}
	if len(c.kept) != maxKept || len(c.by) != maxKept {
		t.Errorf("%d answers kept", len(c.kept))
	}
}

// What is older than it may be is not known any more.
func TestCacheLimit(t *testing.T) {
	var c cache
	c.keep(time.Minute)
	q := question{path: "/a"}
	k := &kept{}
	c.put(q, protocol.Lease{ID: 1}, k)
	if c.get(q) != k {
		t.Error("nothing is known of what is new")
	}
	k.since = time.Now().Add(-time.Minute)
	if c.get(q) != nil || len(c.by) != 0 {
		t.Error("what is old is still known")
	}
}

// Where a path leads to no link it does not matter whether links are followed.
func TestCacheFollows(t *testing.T) {
	const link, file = unix.S_IFLNK | 0o777, unix.S_IFREG | 0o644
	for name, tt := range map[string]struct {
		q    question
		k    kept
		want bool
	}{
		"a file, of itself":        {question{"/a", true}, kept{attr: protocol.Attr{Mode: file}}, true},
		"a link, of itself":        {question{"/a", true}, kept{attr: protocol.Attr{Mode: link}}, false},
		"nothing, of itself":       {question{"/a", true}, kept{errno: unix.ENOENT}, true},
		"nothing, perhaps by link": {question{"/a", false}, kept{errno: unix.ENOENT}, false},
		"a file, perhaps by link":  {question{"/a", false}, kept{attr: protocol.Attr{Mode: file}}, false},
		"a file at its own path":   {question{"/a", false}, kept{attr: protocol.Attr{Mode: file}, whole: true, path: "/a"}, true},
		"a file by a link":         {question{"/a", false}, kept{attr: protocol.Attr{Mode: file}, whole: true, path: "/b"}, false},
	} {
		var c cache
		c.put(tt.q, protocol.Lease{ID: 1, Seq: 1}, &tt.k)
		if got := c.get(question{"/a", !tt.q.noFollow}); (got != nil) != tt.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// An attribute that a file has not is asked for once, of each kind of file, until
// anything may be different.
func TestCacheXattrs(t *testing.T) {
	var c cache
	has := protocol.AppendXattr(protocol.AppendXattr(nil, "user.origin", []byte("shop")), "security.label", nil)
	at := func(mode uint32, dev uint64, xattrs []byte) *kept {
		return &kept{attr: protocol.Attr{Mode: mode, Dev: dev}, beside: &beside{reads: mode&unix.S_IRUSR != 0, xattrs: xattrs}}
	}
	file := uint32(unix.S_IFREG | 0o644)
	want := func(k *kept, name, value string, errno unix.Errno, known bool) {
		t.Helper()
		if b, e, ok := c.xattr(k, name); string(b) != value || e != errno || ok != known {
			t.Errorf("%s: %q, %v, %v", name, b, e, ok)
		}
	}
	want(at(file, 1, has), "", "user.origin\x00security.label\x00", 0, true)
	want(at(file, 1, has), "user.origin", "shop", 0, true)
	want(at(file, 1, has), "security.label", "", 0, true)
	want(at(file, 1, []byte{}), "", "", 0, true)
	want(at(file, 1, nil), "", "", 0, false)
	want(&kept{errno: unix.ENOENT}, "user.a", "", unix.ENOENT, true)
	want(&kept{attr: protocol.Attr{Mode: file}}, "", "", 0, false)

	want(at(file, 1, has), "user.a", "", 0, false)
	c.learn(at(file, 1, has), "user.a", unix.ENODATA)
	c.learn(at(file, 1, []byte{}), "system.acl", unix.EOPNOTSUPP)
	c.learn(at(file, 1, []byte{}), "security.other", 0) // a security module's, of all files
	c.learn(at(file, 1, []byte{}), "user.b", unix.EIO)
	c.learn(at(file, 1, nil), "user.c", unix.ENODATA) // it may have others
	want(at(file, 1, []byte{}), "user.a", "", unix.ENODATA, true)
	want(at(file&^unix.S_IRUSR, 1, []byte{}), "user.a", "", 0, false) // EACCES, perhaps
	want(at(file, 1, has), "system.acl", "", unix.EOPNOTSUPP, true)
	for _, name := range []string{"security.other", "user.b", "user.c"} {
		want(at(file, 1, has), name, "", 0, false)
	}
	want(at(file, 2, []byte{}), "system.acl", "", 0, false)
	want(at(unix.S_IFDIR|0o755, 1, []byte{}), "system.acl", "", 0, false)
	for i := range 2 * maxAbsent {
		c.learn(at(file, 1, has), fmt.Sprint("user.", i), unix.ENODATA)
	}
	if len(c.absent) > maxAbsent {
		t.Errorf("%d are remembered", len(c.absent))
	}
	c.expired(expired(2))
	if len(c.absent) > 0 {
		t.Errorf("after all has expired: %v", c.absent)
	}
}

func TestKeptAccess(t *testing.T) {
	both, none := &kept{beside: &beside{reads: true, runs: true}}, &kept{beside: new(beside)}
	for _, tt := range []struct {
		k     *kept
		mode  uint32
		errno unix.Errno
		known bool
	}{
		{&kept{errno: unix.ENOENT}, unix.R_OK, unix.ENOENT, true},
		{new(kept), unix.F_OK, 0, true},
		{new(kept), unix.R_OK, 0, false},
		{both, unix.R_OK, 0, true},
		{both, unix.X_OK, 0, true},
		{both, unix.R_OK | unix.X_OK, 0, false},
		{none, unix.R_OK, unix.EACCES, true},
		{none, unix.R_OK | unix.X_OK, unix.EACCES, true},
	} {
		if errno, known := tt.k.access(tt.mode); known != tt.known || known && errno != tt.errno {
			t.Errorf("%+v, %d: %v, %v", tt.k.beside, tt.mode, errno, known)
		}
	}
}
