package layer

import (
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// A beside is what came with a file's attributes.
type beside struct {
	reads, runs bool       // what access(2) says
	link        string     // a link's text
	noLink      unix.Errno // why it cannot be read
	xattrs      []byte     // as protocol.AppendXattr makes them; nil: not told
}

// told takes what a reply has of that, and gives the text that is in its data.
func (k *kept) told(flags uint32, data []byte) (text string) {
	text, xattrs := wire.CutXattrs(data)
	k.beside = &beside{reads: flags&wire.ReplyReads != 0, runs: flags&wire.ReplyRuns != 0, link: text, xattrs: xattrs}
	return text
}

// look asks for the attributes of path in the target, and what comes with them,
// unless they are known.
func (c *Client) look(path string, noFollow bool) *kept {
	known := c.kept()
	question := question{path, noFollow}
	if k := known.get(question); k != nil {
		return k
	}
	q := wire.Request{Op: wire.OpStat, Path: path}
	if noFollow {
		q.Flags = wire.OpenNoFollow
	}
	r := c.call(&q)
	closeFD(r.fd)
	k := &kept{errno: unix.Errno(r.Errno), attr: r.Attr}
	if r.Errno == 0 {
		k.told(r.Flags, r.Data)
		k.beside.noLink = unix.Errno(r.Node)
	}
	known.put(question, r.Lease, k)
	return k
}

// stat is look for who wants no more than attributes.
func (c *Client) stat(path string, noFollow bool) reply {
	k := c.look(path, noFollow)
	return reply{wire.Reply{Errno: uint32(k.errno), Attr: k.attr}, -1}
}

// readlink gives the text of a link.
func (c *Client) readlink(path string) (string, unix.Errno) {
	k := c.look(path, true)
	switch {
	case k.errno != 0:
		return "", k.errno
	case k.attr.Mode&unix.S_IFMT != unix.S_IFLNK:
		return "", unix.EINVAL
	}
	return k.beside.link, k.beside.noLink
}

// access is access(2).
func (c *Client) access(path string, mode uint32) unix.Errno {
	if mode&unix.W_OK == 0 {
		if errno, known := c.look(path, false).access(mode); known {
			return errno
		}
	}
	r := c.call(&wire.Request{Op: wire.OpAccess, Path: path, Mode: mode})
	closeFD(r.fd)
	return unix.Errno(r.Errno)
}

// access answers where that is known. Who may do both need not be allowed to do
// both at once: to read by a capability, and to run by the file's mode.
func (k *kept) access(mode uint32) (_ unix.Errno, known bool) {
	switch b := k.beside; {
	case k.errno != 0:
		return k.errno, true
	case mode == unix.F_OK:
		return 0, true
	case b == nil:
		return 0, false
	case mode&unix.R_OK != 0 && !b.reads, mode&unix.X_OK != 0 && !b.runs:
		return unix.EACCES, true
	}
	return 0, mode != unix.R_OK|unix.X_OK
}

// An attribute is an extended one, of files of a file system.
type attribute struct {
	dev  uint64
	kind uint32 // of the files
	name string
}

// maxAbsent bounds those that are remembered.
const maxAbsent = 1 << 8

// xattr gives an extended attribute, or without a name the names of all, each ended
// by NUL.
func (c *Client) xattr(path, name string, noFollow bool) ([]byte, unix.Errno) {
	known := c.kept()
	k := known.get(question{path, noFollow})
	if k != nil {
		if b, errno, ok := known.xattr(k, name); ok {
			return b, errno
		}
	}
	q := wire.Request{Op: wire.OpXattr, Path: path}
	if noFollow {
		q.Flags = wire.OpenNoFollow
	}
	if name != "" {
		q.Path += "\x00" + name
	}
	r := c.call(&q)
	closeFD(r.fd)
	if k != nil {
		known.learn(k, name, unix.Errno(r.Errno))
	}
	return r.Data, unix.Errno(r.Errno)
}

// xattr answers where that is known. What is said of an attribute that a file has
// not depends on its file system and type; and security modules have a value for
// what no file has. It is known when it was said once.
func (c *cache) xattr(k *kept, name string) (b []byte, errno unix.Errno, known bool) {
	switch {
	case k.errno != 0:
		return nil, k.errno, true
	case k.beside == nil || k.beside.xattrs == nil:
		return nil, 0, false
	}
	var names []byte
	for rest := k.beside.xattrs; len(rest) > 0; {
		at, value, after, ok := protocol.CutXattr(rest)
		switch {
		case !ok:
			return nil, 0, false
		case at == name:
			return value, 0, true
		}
		names, rest = append(append(names, at...), 0), after
	}
	if name == "" {
		return names, 0, true
	}
	key, ok := k.without(name)
	if !ok {
		return nil, 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	errno, known = c.absent[key]
	return nil, errno, known
}

// learn notes what was said of an attribute that k has not.
func (c *cache) learn(k *kept, name string, errno unix.Errno) {
	key, ok := k.without(name)
	if !ok || errno != unix.ENODATA && errno != unix.EOPNOTSUPP {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.absent == nil || len(c.absent) >= maxAbsent {
		c.absent = make(map[attribute]unix.Errno)
	}
	c.absent[key] = errno
}

// without is what k has not, like others. A user's attribute is EACCES to who may
// not read the file.
func (k *kept) without(name string) (attribute, bool) {
	b := k.beside
	if b == nil || b.xattrs == nil || strings.HasPrefix(name, "user.") && !b.reads {
		return attribute{}, false
	}
	return attribute{k.attr.Dev, k.attr.Mode & unix.S_IFMT, name}, true
}
