package target

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A User is whom the target's process accesses files as.
type User struct {
	UID, GID uint32 // those of the file system
	Groups   []uint32
	Caps     uint64 // effective capabilities
	Foreign  bool   // they are those of another user namespace than the agent's
}

// Can reports whether the user has one of the capabilities.
func (u User) Can(caps ...uint) bool {
	return slices.ContainsFunc(caps, func(c uint) bool { return u.Caps&(1<<c) != 0 })
}

// In reports whether the user is of group gid.
func (u User) In(gid uint32) bool {
	return u.GID == gid || slices.Contains(u.Groups, gid)
}

// parseUser takes a user out of /proc/PID/status.
func parseUser(status []byte) (User, error) {
	var u User
	seen := 0
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		var err error
		switch name {
		case "Uid": // real, effective, saved, file system
			u.UID, err = number(fields, 3)
		case "Gid":
			u.GID, err = number(fields, 3)
		case "Groups":
			for i := range fields {
				gid, bad := number(fields, i)
				u.Groups = append(u.Groups, gid)
				err = bad
			}
		case "CapEff":
			u.Caps, err = strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
		default:
			continue
		}
		if err != nil {
			return User{}, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		seen++
	}
	if seen != 4 {
		return User{}, fmt.Errorf("status lacks the user: %w", unix.ENODATA)
	}
	return u, lines.Err()
}

func number(fields []string, i int) (uint32, error) {
	if i >= len(fields) {
		return 0, unix.ENODATA
	}
	n, err := strconv.ParseUint(fields[i], 10, 32)
	return uint32(n), err
}
