package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"

	"mirrord/protocol"
)

// op is what the file server asks of the daemon.
type op uint32

const (
	opAttr    op = 1  // answered with an attribute, and how many bytes to read ahead at most 8 (-1: as it comes)
	opRead    op = 2  // answered with at most n bytes in the slot
	opReadDir op = 3  // answered with a byte that tells whether more follow, and entries
	opRelease op = 4  // not answered
	opClaim   op = 5  // answered with a claim; node is the number
	opWrite   op = 6  // of n bytes in the slot; answered with nothing
	opChange  op = 7  // as the n bytes of JSON in the slot say; answered with an offset and an attribute
	opFlush   op = 8  // answered with nothing
	opLeft    op = 9  // off is the number of claims; not answered
	opNoted   op = 10 // off is a notice's number; not answered
)

// Sizes on the socket between daemon and file server. Numbers are little endian.
//
//	request: op 4 | n 4 | seq 8 | node 8 | off 8 | slot 4 | flags 4
//	reply:   seq 8 | errno 4 | length 4 | data
//
// The data of a read's reply do not follow it but are in the slot of the arena
// that its request named, and so are those of a write's request; the slot is the
// daemon's from request to reply.
//
// A reply of seq 0 answers nothing but is a notice: node 8 | number 8. The kernel is
// to ask for that shared node's attributes anew; opNoted tells that it will.
//
// The file server's first message is no reply but its greeting: errno 4 |
// stage 4, with the mount's root as SCM_RIGHTS where errno is 0.
const (
	requestSize  = 40
	replyHead    = 16
	noticeSize   = 16
	greetingSize = 8
	maxData      = 1 << 20 // bytes of a reply's data
)

var errSize = errors.New("message exceeds its limit")

var le = binary.LittleEndian

type request struct {
	op    op
	n     uint32 // opRead: bytes wanted, at most maxData
	node  uint64
	off   int64
	flags uint32 // opWrite: protocol's

	age uint64 // not sent: requests of different ages are not the same
}

func (r request) append(b []byte, seq uint64, slot uint32) []byte {
	b = le.AppendUint32(b, uint32(r.op))
	b = le.AppendUint32(b, r.n)
	b = le.AppendUint64(b, seq)
	b = le.AppendUint64(b, r.node)
	b = le.AppendUint64(b, uint64(r.off))
	b = le.AppendUint32(b, slot)
	return le.AppendUint32(b, r.flags)
}

// readRequest reads one request. io.EOF: the file server is gone.
func readRequest(in io.Reader) (r request, seq uint64, slot uint32, err error) {
	var b [requestSize]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return r, 0, 0, err
	}
	r = request{op: op(le.Uint32(b[:])), n: le.Uint32(b[4:]), node: le.Uint64(b[16:]), off: int64(le.Uint64(b[24:]))}
	slot, r.flags = le.Uint32(b[32:]), le.Uint32(b[36:])
	if r.n > maxData || r.off < 0 || slot >= slots {
		return r, 0, 0, fmt.Errorf("reading request %d for %d bytes at %d: %w", r.op, r.n, r.off, errSize)
	}
	return r, le.Uint64(b[8:]), slot, nil
}

// putReplyHead puts the head of a reply into b.
func putReplyHead(b []byte, seq uint64, errno syscall.Errno, length int) {
	le.PutUint64(b, seq)
	le.PutUint32(b[8:], uint32(errno))
	le.PutUint32(b[12:], uint32(length))
}

// readReplyHead reads a reply but its data. io.EOF: the daemon is gone.
func readReplyHead(in io.Reader) (seq uint64, errno syscall.Errno, length int, err error) {
	var b [replyHead]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return 0, 0, 0, err
	}
	n := le.Uint32(b[12:])
	if n > maxData {
		return 0, 0, 0, fmt.Errorf("reading reply of %d bytes: %w", n, errSize)
	}
	return le.Uint64(b[:]), syscall.Errno(le.Uint32(b[8:])), int(n), nil
}

func appendAttr(b []byte, a protocol.Attr) []byte {
	b, err := binary.Append(b, le, a)
	if err != nil {
		panic(err) // Attr has a field without fixed size
	}
	return b
}

// An aheader is a Source that limits how much is read ahead of its readers.
type aheader interface {
	Ahead(node uint64) (bytes int64, limited bool)
}

func appendAhead(b []byte, src Source, node uint64) []byte {
	limit := int64(-1)
	if a, ok := src.(aheader); ok {
		if bytes, limited := a.Ahead(node); limited {
			limit = bytes
		}
	}
	return le.AppendUint64(b, uint64(limit))
}

// decodeAttrAhead reads the answer to opAttr.
func decodeAttrAhead(b []byte) (a protocol.Attr, ahead int64, ok bool) {
	if len(b) < 8 {
		return a, 0, false
	}
	a, ok = decodeAttr(b[:len(b)-8])
	return a, int64(le.Uint64(b[len(b)-8:])), ok
}

func decodeAttr(b []byte) (a protocol.Attr, ok bool) {
	n, err := binary.Decode(b, le, &a)
	return a, err == nil && n == len(b)
}

func appendClaim(b []byte, c Claim) []byte {
	b = le.AppendUint64(le.AppendUint64(b, c.Node), c.Count)
	return appendAttr(b, c.Attr)
}

func decodeClaim(b []byte) (c Claim, ok bool) {
	if len(b) < 16 {
		return c, false
	}
	c.Node, c.Count = le.Uint64(b), le.Uint64(b[8:])
	c.Attr, ok = decodeAttr(b[16:])
	return c, ok
}

func appendChanged(b []byte, r protocol.WriteReply) []byte {
	return appendAttr(le.AppendUint64(b, uint64(r.Offset)), r.Attr)
}

func decodeChanged(b []byte) (r protocol.WriteReply, ok bool) {
	if len(b) < 8 {
		return r, false
	}
	r.Offset = int64(le.Uint64(b))
	r.Attr, ok = decodeAttr(b[8:])
	return r, ok
}

// A listing is a part of a directory.
type listing struct {
	first int // index of list[0] in the directory
	list  []protocol.DirEntry
	more  bool
}

// appendListing appends as many entries as one reply holds.
func appendListing(b []byte, list []protocol.DirEntry, more bool) ([]byte, error) {
	flag := len(b)
	b = append(b, 0)
	for _, e := range list {
		if e.Name == "" || len(e.Name) > 255 {
			return nil, fmt.Errorf("entry %q: %w", e.Name, protocol.ErrDirEntry)
		}
		if len(b)-flag > maxData-300 {
			more = true
			break
		}
		b = protocol.AppendDirEntry(b, e)
	}
	if more {
		b[flag] = 1
	}
	return b, nil
}

func decodeListing(b []byte, first int) (*listing, bool) {
	if len(b) == 0 {
		return nil, false
	}
	list, err := protocol.DirEntries(b[1:])
	l := &listing{first: first, list: list, more: b[0] != 0}
	return l, err == nil && (len(list) > 0 || !l.more)
}
