package files

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/target"
)

// An aclEntryOf is one of an ACL; its own tags have no id.
type aclEntryOf struct {
	tag, perm uint16
	id        uint32
}

// aclOf is an ACL as an extended attribute has it.
func aclOf(entries []aclEntryOf) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// Whoever may read, search or execute a file by its mode, its ACL and his capabilities
// may do so for us, and nobody else: the kernel is asked as that user.
func TestPermittedAsByTheKernel(t *testing.T) {
	asRoot(t)
	dir := shared(t)
	const owner, group, none = 1500, 2500, ^uint32(0)
	users := map[string]target.User{
		"owner":         {UID: owner, GID: 1},
		"of the group":  {UID: 1, GID: group},
		"by groups":     {UID: 1, GID: 1, Groups: []uint32{group, 2600}},
		"named":         {UID: 1600, GID: group},
		"of two groups": {UID: 1, GID: 2600, Groups: []uint32{2700}},
		"other":         {UID: 1, GID: 1},
		"reads all":     {UID: 1, GID: 1, Caps: 1 << unix.CAP_DAC_READ_SEARCH},
		"overrides":     {UID: 1, GID: 1, Caps: 1 << unix.CAP_DAC_OVERRIDE},
	}
	var acls [][]aclEntryOf // without what an ACL must have
	for _, perm := range []uint16{0, 1, 4, 5} {
		acls = append(acls,
			[]aclEntryOf{{aclUser, perm, 1600}},
			[]aclEntryOf{{aclGroup, perm, 2600}},
			[]aclEntryOf{{aclGroup, perm, 2600}, {aclGroup, 5 - perm, 2700}},
			[]aclEntryOf{{aclUser, perm, 1600}, {aclGroup, 5 - perm, 2600}},
		)
	}
	trees := map[string]*Tree{}
	for who, user := range users {
		trees[who] = tree(t, "/", user)
	}
	try := func(name, path string) {
		t.Helper()
		for who, tr := range trees {
			n, err := tr.locate(path, 0)
			if err != nil {
				t.Fatal(err)
			}
			for want := range uint32(6) {
				if want&unix.W_OK != 0 {
					continue
				}
				kernels := tr.act(0, func() error { return unix.Faccessat2(int(n.file.Fd()), "", want, unix.AT_EMPTY_PATH|unix.AT_EACCESS) })
				if ours := tr.permitted(n, want); ours != nil != (kernels != nil) {
					t.Errorf("%s, %s, %#o: %v, the kernel says %v", name, who, want, ours, kernels)
				}
			}
			n.Close()
		}
	}
	for _, mode := range []uint32{0o000, 0o700, 0o750, 0o704, 0o040, 0o050, 0o005, 0o077, 0o755} {
		for _, kind := range []string{"file", "directory"} {
			path := filepath.Join(dir, fmt.Sprintf("%s of mode %o", kind, mode))
			if kind == "file" {
				if err := os.WriteFile(path, nil, 0); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Mkdir(path, 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chown(path, owner, group); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			try(path, path)
			for i, more := range acls {
				for _, mask := range []uint16{0, 1, 4, 5} {
					whole := append([]aclEntryOf{
						{1, uint16(mode >> 6 & 7), none}, {aclGroupObj, uint16(mode >> 3 & 7), none},
						{aclMask, mask, none}, {aclOther, uint16(mode & 7), none},
					}, more...)
					slices.SortStableFunc(whole, func(a, b aclEntryOf) int { return int(a.tag) - int(b.tag) })
					if err := unix.Setxattr(path, aclName, aclOf(whole), 0); err != nil {
						t.Skipf("no ACLs at %s: %v", dir, err)
					}
					try(fmt.Sprintf("%s, ACL %d %v", path, i, whole), path)
				}
			}
		}
	}
}
