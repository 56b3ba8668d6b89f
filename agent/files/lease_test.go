package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// watching makes a tree whose client watches it.
func watching(t *testing.T) (dir string, h *Handles, l *Leases) {
	t.Helper()
	dir, h = build(t, root)
	l, err := h.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Unwatch(l) })
	return dir, h, l
}

// wantExpired waits for a lease's end, and for that of none that was kept.
func wantExpired(t *testing.T, l *Leases, got, kept protocol.Lease) protocol.Expired {
	t.Helper()
	e, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(e.IDs, got.ID) || slices.Contains(e.IDs, kept.ID) || e.Seq <= got.Seq {
		t.Errorf("expired %+v, leases %+v and (unchanged) %+v", e, got, kept)
	}
	return e
}

func lease(t *testing.T, h *Handles, path string) protocol.Lease {
	t.Helper()
	reply, _, err := h.Open(protocol.Open{Path: protocol.Path(path), Inline: 64 << 10, Lease: true})
	if e, ok := errors.AsType[*protocol.Error](err); ok && errors.Is(err, unix.ENOENT) {
		return e.Lease
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return reply.Lease
}

func TestLeasesExpire(t *testing.T) {
	for name, test := range map[string]struct {
		path   string
		change func(dir string) error
	}{
		"written": {"/empty", func(dir string) error { return os.WriteFile(dir+"/empty", []byte("x"), 0) }},
		"mode":    {"/empty", func(dir string) error { return os.Chmod(dir+"/empty", 0o600) }},
		"removed": {"/empty", func(dir string) error { return os.Remove(dir + "/empty") }},
		"replaced": {"/empty", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/new", nil, 0o644), os.Rename(dir+"/new", dir+"/empty"))
		}},
		"created":       {"/etc/shop/none", func(dir string) error { return os.WriteFile(dir+"/etc/shop/none", nil, 0o644) }},
		"created above": {"/none/file", func(dir string) error { return os.Mkdir(dir+"/none", 0o755) }},
		"config map": {"/absolute", func(dir string) error {
			shop := filepath.Join(dir, "etc/shop")
			return errors.Join(os.Mkdir(shop+"/..2027", 0o755), os.WriteFile(shop+"/..2027/config.yaml", []byte("colour: red\n"), 0o644),
				os.Symlink("..2027", shop+"/..data_tmp"), os.Rename(shop+"/..data_tmp", shop+"/..data"))
		}},
		"parent moved":  {"/etc/shop/config.yaml", func(dir string) error { return os.Rename(dir+"/etc/shop", dir+"/etc/was") }},
		"parent's mode": {"/etc/shop/config.yaml", func(dir string) error { return os.Chmod(dir+"/etc/shop", 0o700) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir, h, l := watching(t)
			kept, got := lease(t, h, "/secret"), lease(t, h, test.path)
			if got.ID == 0 || kept.ID == 0 {
				t.Fatalf("leases %+v, %+v", kept, got)
			}
			if err := test.change(dir); err != nil {
				t.Fatal(err)
			}
			e := wantExpired(t, l, got, kept)
			if again := lease(t, h, "/secret"); again.Seq < e.Seq || again.ID == 0 {
				t.Errorf("lease after the change: %+v", again)
			}
		})
	}
}

// What was told of attributes, a directory's too, and beside them expires as well.
func TestAttributesExpire(t *testing.T) {
	file := func(dir, name string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o644) }
	for name, test := range map[string]struct {
		path   string
		change func(dir string) error
	}{
		"an extended attribute": {"/empty", func(dir string) error { return unix.Setxattr(dir+"/empty", "user.new", []byte("x"), 0) }},
		"a link's text": {"/dangling", func(dir string) error {
			return errors.Join(os.Symlink("elsewhere", dir+"/new"), os.Rename(dir+"/new", dir+"/dangling"))
		}},
		"a file made":                         {"/etc/shop", func(dir string) error { return file(dir, "etc/shop/new") }},
		"a directory made":                    {"/etc/shop/", func(dir string) error { return os.Mkdir(dir+"/etc/shop/new", 0o755) }},
		"a file removed":                      {"/etc/shop", func(dir string) error { return os.Remove(dir + "/etc/shop/config.yaml") }},
		"a file renamed":                      {"/etc/shop", func(dir string) error { return os.Rename(dir+"/etc/shop/config.yaml", dir+"/etc/shop/new") }},
		"a file moved there":                  {"/etc/shop", func(dir string) error { return os.Rename(dir+"/empty", dir+"/etc/shop/empty") }},
		"a directory's mode":                  {"/etc/shop", func(dir string) error { return os.Chmod(dir+"/etc/shop", 0o700) }},
		"a directory's extended attribute":    {"/etc/shop", func(dir string) error { return unix.Setxattr(dir+"/etc/shop", "user.new", nil, 0) }},
		"a directory replaced":                {"/etc/shop", func(dir string) error { return os.Rename(dir+"/etc/shop", dir+"/etc/was") }},
		"a file made in the root":             {"/", func(dir string) error { return file(dir, "new") }},
		"a directory where a link leads":      {"/etc/shop/..data", func(dir string) error { return file(dir, "etc/shop/..2026/new") }},
		"the link that leads to a directory":  {"/etc/shop/..data", func(dir string) error { return os.Remove(dir + "/etc/shop/..data") }},
		"a directory that is above the other": {"/etc/shop", func(dir string) error { return os.Rename(dir+"/etc", dir+"/was") }},
	} {
		t.Run(name, func(t *testing.T) {
			dir, h, l := watching(t)
			stat := func(path string) protocol.Lease {
				r, _, err := h.Stat(protocol.Stat{Path: protocol.Path(path), NoFollow: path == "/dangling", Lease: true})
				if err != nil || r.Lease.ID == 0 || r.Xattrs == nil {
					t.Fatalf("%s: %+v, %v", path, r, err)
				}
				return r.Lease
			}
			kept, got := lease(t, h, "/secret"), stat(test.path)
			if err := test.change(dir); errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("no extended attributes here")
			} else if err != nil {
				t.Fatal(err)
			}
			wantExpired(t, l, got, kept)
		})
	}
}

// A directory is watched for its own attributes as long as there is room.
func TestMostInside(t *testing.T) {
	dir, h, l := watching(t)
	for i := range maxInside + 10 {
		if err := os.Mkdir(fmt.Sprint(dir, "/etc/d", i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	leased := 0
	for i := range maxInside + 10 {
		r, _, err := h.Stat(protocol.Stat{Path: protocol.Path(fmt.Sprint("/etc/d", i)), Lease: true})
		if err != nil {
			t.Fatal(err)
		}
		if r.Lease.ID != 0 {
			leased++
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.dirs) != maxInside || leased != maxInside-2 { // but / and /etc
		t.Errorf("%d directories leased, %d watched, want %d watched", leased, len(l.dirs), maxInside)
	}
}

// What inotify tells nothing of is not leased.
func TestNotLeased(t *testing.T) {
	dir, h, _ := watching(t)
	if err := os.Link(dir+"/secret", dir+"/second"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/second", "/secret"} {
		if got := lease(t, h, path); got.ID != 0 {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got := lease(t, h, "/over"); got.ID != 0 {
		t.Errorf("a file with a handle: %+v", got)
	}
	if unix.Mount(dir+"/empty", dir+"/limit", "", unix.MS_BIND, "") == nil {
		defer unix.Unmount(dir+"/limit", unix.MNT_DETACH)
		if got := lease(t, h, "/limit"); got.ID != 0 {
			t.Errorf("a mount: %+v", got)
		}
	}
	if _, err := h.Watch(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("watching twice: %v", err)
	}
}

// What inotify tells nothing of is hidden for a while only.
func TestLeasesAge(t *testing.T) {
	dir, h, l := watching(t)
	l.age = time.Millisecond
	for range 3 {
		got := lease(t, h, "/secret")
		if got.ID == 0 {
			t.Fatal("no lease")
		}
		e, err := l.Next()
		if err != nil || !slices.Contains(e.IDs, got.ID) || e.Seq <= got.Seq {
			t.Fatalf("lease %+v, expired %+v, %v", got, e, err)
		}
	}
	l.mu.Lock()
	aging, younger := !l.due.IsZero(), len(l.given)
	l.mu.Unlock()
	if aging || younger > 0 {
		t.Errorf("without leases: aging %v, %d", aging, younger)
	}
	if err := os.Link(dir+"/secret", dir+"/etc/second"); err != nil {
		t.Fatal(err)
	}
	if got := lease(t, h, "/secret"); got.ID != 0 {
		t.Errorf("of a file with two names: %+v", got)
	}
}

// However lookups and changes interleave, an answer whose lease has not
// expired is true.
func TestLeasesAreTrue(t *testing.T) {
	dir, h, l := watching(t)
	const rounds = 200 // more would be noise, and end the leases
	var mu sync.Mutex
	news := sync.NewCond(&mu)
	kept, heard := map[uint64]string{}, uint64(0) // content by lease
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			e, err := l.Next()
			if err != nil {
				return
			}
			mu.Lock()
			heard = e.Seq
			for _, id := range e.IDs {
				delete(kept, id)
			}
			if e.All {
				clear(kept)
			}
			news.Broadcast()
			mu.Unlock()
		}
	})
	name := dir + "/empty"
	changed := make(chan struct{})
	wg.Go(func() {
		defer close(changed)
		for i := range rounds {
			if err := errors.Join(os.WriteFile(name+".new", []byte{byte(i), byte(i >> 8)}, 0o644), os.Rename(name+".new", name)); err != nil {
				t.Error(err)
			}
		}
		if err := os.WriteFile(name, []byte("end"), 0o644); err != nil {
			t.Error(err)
		}
	})
	for range rounds {
		reply, content, err := h.Open(protocol.Open{Path: "/empty", Inline: 10, Lease: true})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if reply.Lease.ID != 0 && reply.Lease.Seq >= heard {
			kept[reply.Lease.ID] = string(content)
		}
		mu.Unlock()
	}
	<-changed
	// When this one has expired, all that had to before it have.
	last := lease(t, h, "/dangling")
	if err := os.WriteFile(dir+"/missing", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for heard <= last.Seq {
		news.Wait()
	}
	for id, content := range kept {
		if content != "end" {
			t.Errorf("lease %d of %q has not expired", id, content)
		}
	}
	mu.Unlock()
	h.Unwatch(l)
	wg.Wait()
}

// Where much is written, a file's content is nobody's to keep; what is below is.
func TestLeasesBesideNoise(t *testing.T) {
	dir, h, l := watching(t)
	l.mu.Lock()
	l.age = time.Hour
	l.mu.Unlock()
	through := lease(t, h, "/etc/shop/none")
	ended := make(chan struct{})
	heard := make(chan protocol.Expired, 1<<16)
	go func() {
		defer close(ended)
		for e, err := l.Next(); err == nil; e, err = l.Next() {
			heard <- e
		}
	}()
	until := time.Now().Add(30 * time.Second)
	for lease(t, h, "/empty").ID != 0 {
		if time.Now().After(until) {
			t.Fatal("still leased")
		}
		for range 100 { // in turns: of two events that are alike inotify tells one
			if err := errors.Join(os.WriteFile(dir+"/secret", []byte("x"), 0), os.WriteFile(dir+"/setuid", []byte("x"), 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	expires := func(id uint64) {
		t.Helper()
		for {
			select {
			case e := <-heard:
				if e.All || slices.Contains(e.IDs, id) {
					return
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("lease %d has not expired", id)
			}
		}
	}
	if l.mu.Lock(); l.given[through.ID] == nil || len(l.loud) > 0 {
		t.Errorf("a lease of what is below: %v; not watched: %v", l.given[through.ID], l.loud)
	}
	l.mu.Unlock()
	for path, name := range map[string]string{"/missing": "missing", "/etc/shop/none": "etc/shop/none"} {
		got := lease(t, h, path)
		if got.ID == 0 {
			t.Errorf("no lease of %s", path)
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		expires(got.ID)
	}
	l.mu.Lock()
	l.dirs["/"].deaf = time.Now()
	l.mu.Unlock()
	got := lease(t, h, "/empty")
	if got.ID == 0 {
		t.Fatal("no lease in quiet")
	}
	if err := os.WriteFile(dir+"/empty", []byte("news"), 0); err != nil {
		t.Fatal(err)
	}
	expires(got.ID)
	h.Unwatch(l)
	<-ended
}

func TestLeasesOfAnotherTree(t *testing.T) {
	_, h, l := watching(t)
	before := lease(t, h, "/secret")
	l.Expire()
	e, err := l.Next()
	if err != nil || !e.All || e.Seq <= before.Seq {
		t.Errorf("%+v, %v", e, err)
	}
	if after := lease(t, h, "/secret"); after.ID == 0 || after.Seq != e.Seq {
		t.Errorf("lease of the other tree: %+v", after)
	}
}

func TestLeaseLimits(t *testing.T) {
	_, h, l := watching(t)
	first := lease(t, h, "/secret")
	for range maxLeases {
		if got := lease(t, h, "/empty"); got.ID == 0 {
			t.Fatal("no lease")
		}
	}
	e, err := l.Next()
	if err != nil || !e.All || e.Seq <= first.Seq {
		t.Errorf("one too many: %d expired, all %v, %v", len(e.IDs), e.All, err)
	}
}

// hang mounts a file system at dir that begins to answer nothing. It returns
// when somebody has asked it for something, once hung is called.
func hang(t *testing.T, dir string) (hung func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs FUSE: ", err)
	}
	end := sync.OnceFunc(func() { unix.Close(fd) })
	t.Cleanup(end)
	if err := unix.Mount("hung", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		t.Skip("needs to mount FUSE: ", err)
	}
	t.Cleanup(func() {
		end() // and whoever waits is told
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	// struct fuse_in_header: len 4 | opcode 4 | unique 8 …; fuse_out_header: len 4 | error 4 | unique 8.
	request := make([]byte, 1<<16)
	if _, err := unix.Read(fd, request); err != nil { // FUSE_INIT
		t.Fatal(err)
	}
	reply := make([]byte, 16+64)
	binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
	copy(reply[8:16], request[8:16])
	copy(reply[16:24], request[40:48]) // the protocol's version
	if _, err := unix.Write(fd, reply); err != nil {
		t.Fatal(err)
	}
	return func() { // what nobody has read does not keep a killed process
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000); err != nil {
			t.Error(err)
		}
	}
}

// Who hangs in a file system, as one of a network does, hangs alone.
func TestHungMount(t *testing.T) {
	dir, h, l := watching(t)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	hung := hang(t, dir+"/etc/shop")
	wg.Go(func() { _, _, _ = h.Stat(protocol.Stat{Path: "/etc/shop/file", Lease: true}) })
	hung()
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		if got := lease(t, h, "/secret"); got.ID == 0 {
			t.Error("no lease")
		}
		l.Expire()
	})
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("another hangs, too")
	}
}

// Whoever has changed a file knows when what it keeps is true again.
func TestChangeSettles(t *testing.T) {
	asRoot(t)
	for name, test := range map[string]struct {
		path   string
		change protocol.Change
	}{
		"made":              {"/new", protocol.Change{Op: protocol.ChangeMkdir, Path: "/new"}},
		"made above":        {"/new/file", protocol.Change{Op: protocol.ChangeMkdir, Path: "/etc/../new"}},
		"removed":           {"/empty", protocol.Change{Op: protocol.ChangeUnlink, Path: "/empty"}},
		"renamed":           {"/empty", protocol.Change{Op: protocol.ChangeRename, Path: "/empty", Other: "/new"}},
		"replaced":          {"/empty", protocol.Change{Op: protocol.ChangeRename, Path: "/secret", Other: "/empty"}},
		"renamed above":     {"/etc/shop/config.yaml", protocol.Change{Op: protocol.ChangeRename, Path: "/etc", Other: "/new"}},
		"renamed above it":  {"/new/shop/config.yaml", protocol.Change{Op: protocol.ChangeRename, Path: "/etc", Other: "/new"}},
		"a second name":     {"/empty", protocol.Change{Op: protocol.ChangeLink, Path: "/empty", Other: "/new", NoFollow: true}},
		"mode, by a link":   {"/etc/shop/..2026/config.yaml", protocol.Change{Op: protocol.ChangeMode, Path: "/absolute", Mode: 0o600}},
		"of a link's file":  {"/absolute", protocol.Change{Op: protocol.ChangeSize, Path: "/etc/shop/config.yaml", Size: 1}},
		"a link on the way": {"/absolute", protocol.Change{Op: protocol.ChangeUnlink, Path: "/etc/shop/..data"}},
		"an entry":          {"/etc/shop/", protocol.Change{Op: protocol.ChangeUnlink, Path: "/etc/shop/config.yaml"}},
		"a directory's own": {"/etc/shop/", protocol.Change{Op: protocol.ChangeMode, Path: "/etc/shop", Mode: 0o700}},
		"times":             {"/empty", protocol.Change{Op: protocol.ChangeTimes, Path: "/empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, h, l := watching(t)
			kept := lease(t, h, test.path)
			if strings.HasSuffix(test.path, "/") {
				r, _, _ := h.Stat(protocol.Stat{Path: protocol.Path(test.path), Lease: true})
				kept = r.Lease
			}
			if kept.ID == 0 {
				t.Fatalf("no lease of %s", test.path)
			}
			reply, _, err := h.Change(test.change)
			if err != nil || reply.Seq <= kept.Seq {
				t.Fatalf("%v, lease %+v, answer %+v", err, kept, reply)
			}
			gone := false
			for heard := uint64(0); heard < reply.Seq; {
				e, err := l.Next()
				if err != nil {
					t.Fatal(err)
				}
				gone, heard = gone || e.All || slices.Contains(e.IDs, kept.ID), e.Seq
			}
			if !gone {
				t.Errorf("lease %d has not expired", kept.ID)
			}
		})
	}
}

// Where nothing was kept there is nothing to wait for; and nobody waits in vain.
func TestChangeSettlesNothing(t *testing.T) {
	asRoot(t)
	_, h, l := watching(t)
	done := make(chan struct{})
	heard := make(chan uint64, 1000)
	go func() {
		defer close(done)
		for {
			e, err := l.Next()
			if err != nil {
				return
			}
			heard <- e.Seq
		}
	}()
	last := uint64(0)
	for i := range 100 {
		if i%3 == 0 {
			lease(t, h, "/empty")
		}
		reply, _, err := h.Change(protocol.Change{Op: protocol.ChangeTimes, Path: "/empty"})
		if err != nil {
			t.Fatal(err)
		}
		for last < reply.Seq {
			last = <-heard
		}
	}
	h.Unwatch(l)
	<-done
	if reply, _, err := h.Change(protocol.Change{Op: protocol.ChangeTimes, Path: "/empty"}); err != nil || reply.Seq != 0 {
		t.Errorf("nobody watches: %+v, %v", reply, err)
	}
}
