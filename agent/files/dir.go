package files

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Sizes of what is read and answered at a time.
const (
	direntsSize = 32 << 10
	answerSize  = 64 << 10
)

// A dir reads a directory in order. It goes on where the last answer ended,
// and starts over for any other place.
type dir struct {
	file *os.File

	mu      sync.Mutex
	next    int                 // guarded by mu: number of the first of pending
	pending []protocol.DirEntry // guarded by mu: read and not answered
}

// entries lists the directory from the offset-th entry on. more: others follow.
func (d *dir) entries(offset int) (list []byte, more bool, err error) {
	if offset < 0 {
		return nil, false, fmt.Errorf("reading directory at %d: %w", offset, unix.EINVAL)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if offset < d.next {
		if _, err := d.file.Seek(0, io.SeekStart); err != nil {
			return nil, false, err
		}
		d.next, d.pending = 0, nil
	}
	for {
		for len(d.pending) == 0 {
			var end bool
			if d.pending, end, err = d.read(); err != nil || end {
				return list, false, err
			}
		}
		e := d.pending[0]
		if d.next >= offset {
			if len(list)+10+len(e.Name) > answerSize {
				return list, true, nil
			}
			list = protocol.AppendDirEntry(list, e)
		}
		d.pending, d.next = d.pending[1:], d.next+1
	}
}

// read reads the next entries, which may be none before the end.
func (d *dir) read() (list []protocol.DirEntry, end bool, err error) {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return nil, false, err
	}
	buf := make([]byte, direntsSize)
	var n int
	var failed error
	err = raw.Control(func(fd uintptr) { // holds the descriptor meanwhile
		n, failed = unix.Getdents(int(fd), buf)
	})
	if err = cmp.Or(err, failed); err != nil {
		return nil, false, err
	}
	return parseDirents(buf[:n]), n == 0, nil
}

// parseDirents decodes struct linux_dirent64: ino 8 | off 8 | reclen 2 | type 1 | name, 0.
// "." and ".." are left to who shows the directory.
func parseDirents(b []byte) []protocol.DirEntry {
	const head = 19
	var list []protocol.DirEntry
	for len(b) > head {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		name, _, _ := bytes.Cut(b[head:size], []byte{0})
		if s := string(name); s != "." && s != ".." {
			list = append(list, protocol.DirEntry{Ino: binary.NativeEndian.Uint64(b), Type: b[18], Name: s})
		}
		b = b[size:]
	}
	return list
}
