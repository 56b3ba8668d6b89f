package layer

import "mirrord/protocol"

// Sizes of what OpChange and OpStatfs carry.
const (
	changeHead = 8*4 + 3*8 + 2*2*8 + 2
	MaxChange  = changeHead + 2*MaxPath
	statfsSize = 12 * 8
)

// AppendChange appends what an OpChange has in place of a path:
//
//	op, nofollow, flags, mode, umask, uid, gid, times: 4 each | size, dev, ino: 8 each |
//	atime and mtime: seconds 8, nanoseconds 8 | path length 2 | path | other
//
// times is 2, or 0 for now. It has no path longer than MaxPath.
func AppendChange(b []byte, c *protocol.Change) []byte {
	noFollow := uint32(0)
	if c.NoFollow {
		noFollow = 1
	}
	for _, v := range [...]uint32{uint32(c.Op), noFollow, c.Flags, c.Mode, c.Umask, c.UID, c.GID, uint32(len(c.Times))} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range [...]uint64{uint64(c.Size), c.Dev, c.Ino} {
		b = le.AppendUint64(b, v)
	}
	var times [2]protocol.Timespec
	copy(times[:], c.Times)
	for _, t := range times {
		b = le.AppendUint64(b, uint64(t.Sec))
		b = le.AppendUint64(b, uint64(t.Nsec))
	}
	b = le.AppendUint16(b, uint16(len(c.Path)))
	return append(append(b, c.Path...), c.Other...)
}

// DecodeChange decodes what AppendChange made.
func DecodeChange(s string) (c protocol.Change, err error) {
	b := []byte(s)
	if len(b) < changeHead {
		return c, ErrMessage
	}
	word := func(i int) uint32 { return le.Uint32(b[4*i:]) }
	long := func(i int) uint64 { return le.Uint64(b[8*4+8*i:]) }
	c = protocol.Change{
		Op: protocol.ChangeOp(word(0)), NoFollow: word(1) == 1, Flags: word(2), Mode: word(3), Umask: word(4), UID: word(5), GID: word(6),
		Size: int64(long(0)), Dev: long(1), Ino: long(2),
	}
	if times := word(7); times == 2 {
		c.Times = []protocol.Timespec{{Sec: int64(long(3)), Nsec: int64(long(4))}, {Sec: int64(long(5)), Nsec: int64(long(6))}}
	} else if times != 0 {
		return c, ErrMessage
	}
	path := b[changeHead:]
	size := int(le.Uint16(b[changeHead-2:]))
	if size > len(path) || size > MaxPath || len(path)-size > MaxPath || word(0) > 255 || word(1) > 1 {
		return c, ErrMessage
	}
	c.Path, c.Other = protocol.Path(path[:size]), protocol.Path(path[size:])
	return c, nil
}

// AppendStatfs appends the data of a reply to OpStatfs: its numbers in the
// order of statfs(2)'s struct, 8 bytes each.
func AppendStatfs(b []byte, s *protocol.StatfsReply) []byte {
	for _, v := range [...]uint64{
		uint64(s.Type), uint64(s.Bsize), s.Blocks, s.Bfree, s.Bavail, s.Files, s.Ffree, uint64(s.Fsid[0]), uint64(s.Fsid[1]),
		uint64(s.Namelen), uint64(s.Frsize), uint64(s.Flags),
	} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// DecodeStatfs decodes what AppendStatfs made.
func DecodeStatfs(b []byte) (s protocol.StatfsReply, err error) {
	if len(b) != statfsSize {
		return s, ErrMessage
	}
	v := func(i int) uint64 { return le.Uint64(b[8*i:]) }
	return protocol.StatfsReply{
		Type: int64(v(0)), Bsize: int64(v(1)), Blocks: v(2), Bfree: v(3), Bavail: v(4), Files: v(5), Ffree: v(6),
		Fsid: [2]int32{int32(v(7)), int32(v(8))}, Namelen: int64(v(9)), Frsize: int64(v(10)), Flags: int64(v(11)),
	}, nil
}
