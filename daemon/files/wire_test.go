package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mirrord/protocol"
)

// What decodes must encode to the same bytes.
func FuzzReadRequest(f *testing.F) {
	f.Add(request{op: opRead, n: 4096, node: 7, off: 1 << 40}.append(nil, 3, 63))
	f.Add(request{op: opRead, n: maxData + 1, node: 7, off: 0}.append(nil, 3, 0))
	f.Add(request{op: opReadDir, n: 0, node: 7, off: -1}.append(nil, 3, 0))
	f.Add(request{op: opRead, n: 1, node: 7, off: 0}.append(nil, 3, slots))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, seq, slot, err := readRequest(bytes.NewReader(in))
		if err != nil {
			return
		}
		if slot >= slots || r.n > maxData || r.off < 0 {
			t.Errorf("%v in slot %d exceeds a limit", r, slot)
		}
		out := r.append(nil, seq, slot)
		if !bytes.Equal(out, in[:len(out)]) {
			t.Errorf("%x became %x", in, out)
		}
	})
}

func FuzzDecodeListing(f *testing.F) {
	b, err := appendListing(nil, []protocol.DirEntry{{Ino: 5, Type: 8, Name: "x"}, {Ino: 1 << 60, Type: 4, Name: strings.Repeat("y", 255)}}, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, in []byte) {
		l, ok := decodeListing(in, 3)
		if !ok {
			return
		}
		out, err := appendListing(nil, l.list, l.more)
		if err != nil || !bytes.Equal(out[1:], in[1:]) {
			t.Errorf("%x became %x, %v", in, out, err)
		}
	})
}

func TestAttrOnWire(t *testing.T) {
	want := protocol.Attr{Dev: 1, Ino: 2, Mode: 3, Nlink: 4, UID: 5, GID: 6, Rdev: 7, Size: 8, Blksize: 9, Blocks: 10, Atime: -11, Mtime: 12, Ctime: 13}
	got, ok := decodeAttr(appendAttr(nil, want))
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Error(ok, diff)
	}
	if _, ok := decodeAttr(nil); ok {
		t.Error("nothing is an attribute")
	}
}

// A directory that does not fit one reply is told in more.
func TestLongListing(t *testing.T) {
	list := make([]protocol.DirEntry, 10_000)
	for i := range list {
		list[i] = protocol.DirEntry{Ino: 1, Name: fmt.Sprintf("%0255d", i)}
	}
	b, err := appendListing(nil, list, false)
	if err != nil {
		t.Fatal(err)
	}
	l, ok := decodeListing(b, 0)
	if !ok || len(b) > maxData || !l.more || len(l.list) < 3000 {
		t.Errorf("%d entries in %d bytes, more: %v", len(l.list), len(b), l.more)
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{syscall.EACCES, syscall.EACCES},
		{&fs.PathError{Err: syscall.ENOENT}, syscall.ENOENT},
		{&protocol.Error{Errno: uint32(syscall.ELOOP)}, syscall.ELOOP},
		{&protocol.Error{}, syscall.EIO},
		{io.ErrUnexpectedEOF, syscall.EIO},
		{errors.Join(io.EOF, syscall.ESTALE), syscall.ESTALE},
		{syscall.EINTR, syscall.EIO},
		{syscall.Errno(512), syscall.EIO},
	} {
		if got := errnoOf(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for name, want := range map[string]int64{
		"n0": 0, "n17": 17, "n9223372036854775807": 1<<63 - 1,
		"": -1, "n": -1, "17": -1, "n017": -1, "n+1": -1, "n-1": -1, "n9223372036854775808": -1, "N1": -1, "n1 ": -1,
	} {
		got, ok := number(name)
		if ok != (want >= 0) || ok && got != uint64(want) {
			t.Errorf("%q: %d, %v", name, got, ok)
		}
	}
}
