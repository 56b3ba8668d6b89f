package files

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// aclName is the extended attribute with a file's POSIX ACL, in the form of
// linux/posix_acl_xattr.h: a version and entries of a tag, permissions and an id.
const (
	aclName    = "system.posix_acl_access"
	aclVersion = 2
	aclHead    = 4
	aclEntry   = 8
)

// Tags of entries.
const (
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// acl reads a file's ACL; nil: it has none.
func (n *node) acl() ([]byte, error) {
	b, err := all(func(to []byte) (int, error) { return unix.Getxattr(procFD(n.file), aclName, to) })
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading ACL: %w", err)
	case len(b) < aclHead || len(b)%aclEntry != aclHead || binary.LittleEndian.Uint32(b) != aclVersion:
		return nil, fmt.Errorf("reading ACL: unknown form, of %d bytes: %w", len(b), unix.EIO)
	}
	return b[aclHead:], nil
}

// byACL is what an ACL lets the target's user do of want, who is not the file's owner;
// as the kernel's posix_acl_permission.
func (t *Tree) byACL(acl []byte, group, want uint32) (may uint32) {
	mask, other, of := maskOf(acl), uint32(0), false
	for ; len(acl) > 0; acl = acl[aclEntry:] {
		perm, id := uint32(binary.LittleEndian.Uint16(acl[2:])), binary.LittleEndian.Uint32(acl[4:])
		switch binary.LittleEndian.Uint16(acl) {
		case aclUser:
			if id == t.user.UID {
				return perm & mask
			}
			continue
		case aclGroupObj:
			id = group
		case aclGroup:
		case aclOther:
			other = perm
			continue
		default:
			continue
		}
		if t.user.In(id) {
			of = true
			if want&^perm == 0 { // one group has to give all
				may = perm
			}
		}
	}
	if of {
		return may & mask
	}
	return other
}

// maskOf is what an ACL gives at most to all but owner and others.
func maskOf(acl []byte) uint32 {
	for ; len(acl) > 0; acl = acl[aclEntry:] {
		if binary.LittleEndian.Uint16(acl) == aclMask {
			return uint32(binary.LittleEndian.Uint16(acl[2:]))
		}
	}
	return 7
}
