// Package layer is what a launcher says to the daemon for the calls it hooks:
// fixed structs over a unix seqpacket socket, one message per packet.
//
//	request: op 4 | seq 4 | flags 4 | mode 4 | node 8 | addr 20 | addr2 20 | path
//	reply:   seq 4 | errno 4 | flags 4 | pad 4 | node 8 | file 8 | lease id 8, seq 8 | attr 104 | addr 20 | addr2 20 | data
//
// Numbers are little endian. The daemon may answer in any order; a reply's seq
// is its request's. A reply may carry one file descriptor (SCM_RIGHTS).
//
// A reply of seq 0 is a notice that nobody asked for: Data has words for the
// user; errno ECANCELED says that the session is over and the debuggee is to
// end. With ReplyExpired, Data has the ids of leases that have expired, 8 bytes
// each, none for all of them; see protocol.Lease. With ReplyAhead, Data has an
// Ahead: the reply to an OpOpen or OpStat that was not asked yet. Node has the
// flags of the request. With ReplyWatched, Node 1 asks for OpOpened, and 0 for none any more.
//
// The first request of a connection is Attach. When the connection ends, all
// that it asked for is undone.
package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"

	"mirrord/protocol"
)

// Op says what a request asks.
type Op uint32

const (
	// OpAttach binds the connection to a session: Path is its id. The reply
	// carries the file server's root directory where there is one. Flags:
	// AttachVisitor.
	OpAttach Op = 1
	// OpOpen opens Path in the target; Flags: OpenDirectory, OpenNoFollow, and
	// where it is not only for reading what is there OpenRead, OpenWrite,
	// OpenCreate, OpenExclusive, OpenTruncate, OpenTemporary; Node is then the
	// mode of what is made, in its upper half the umask. The reply has Attr, Data (the
	// resolved path, as OpStat has it) and either a descriptor (a sealed memfd of the whole
	// content) or a Node to be opened below the file server's root as
	// NodeName(Node), or, with ReplyShared, once, as SharedName(Node). Mode, as of
	// OpConnect and OpDatagram, is the thread that asks, for who is told of it.
	// WalkFlags of Flags are openat2's: Path is then that of a directory, NUL, and
	// the path that is walked from there.
	OpOpen Op = 2
	// OpStat asks for Path's Attr, as OpOpen has it; Flags: OpenNoFollow, WalkFlags.
	// The reply has ReplyReads and ReplyRuns, and in Data the text of a link that is
	// not followed (in Node why it cannot be read), or with WalkFlags the resolved path. Where extended attributes are
	// told, too, NUL follows there, and what protocol.AppendXattr makes of all there
	// are. Where Path is empty it asks for that of an open file: Node is the File, or
	// else the Node, of a reply to OpOpen.
	OpStat Op = 3
	// OpAccess asks as access(2) with Mode.
	OpAccess Op = 5
	// OpConnect connects to Addr from the target over TCP, for the socket whose
	// loopback source is Addr2. The reply's Addr is the endpoint to connect
	// the socket to, Addr2 the connection's local address in the target.
	// With ConnectAsync the answer is held for at most 250 ms; then it is one
	// with ReplyPending, whose endpoint completes or refuses when the target knows.
	OpConnect Op = 6
	// OpDatagram asks for a loopback endpoint that stands for UDP address
	// Addr, for the socket that is bound to loopback Addr2 and whose inode is
	// Node: it may use the endpoint as long as it exists, nobody else may.
	// ENOBUFS: too many endpoints are in use. It costs no round trip to the agent.
	OpDatagram Op = 7
	// OpListen steals port Addr.Port() for the listener at loopback Addr2,
	// whose socket's inode is Node. With ListenMirror it gets copies only.
	// It is answered when the redirect is active, and ends with the listener.
	// Each of several sockets that share the address (SO_REUSEPORT) is told of, and
	// that of each family (IPV6_V6ONLY): a client comes to its own one's, where
	// there is one. 127.0.0.1 may also be an IPv6 socket that does both.
	OpListen Op = 8
	// OpPeer asks who is behind the connection that the daemon made from
	// loopback Addr: reply Addr is the client, Addr2 the address it asked
	// for. ENOENT: the daemon made no such connection.
	OpPeer Op = 9
	// OpDebuggee tells of process Node, which a debugger traces: it may be
	// stopped, or be replaced by another, for as long as its user likes.
	OpDebuggee Op = 10
	// OpOpened tells, where it was asked for, of openings of Path in the target
	// that the launcher answered by what it kept; Flags: OpenDirectory,
	// OpenWrite. Seq is how many there were, Mode the first one's thread, Node
	// the size or, with OpenFailed, the errno. It is not answered.
	OpOpened Op = 11
	// OpChange changes files of the target by name: in place of Path comes what
	// AppendChange makes. Node, if set, is the File, or else the Node, of a reply to
	// OpOpen: that file is meant, not the one that has its path. What was said before of those files, and could be
	// kept, has been said to have expired when it is answered. The answer to a
	// rename has in Data the two paths as resolved, NUL between them.
	OpChange Op = 12
	// OpStatfs asks for the file system that Path is in, as AppendStatfs tells it.
	OpStatfs Op = 13
	// OpXattr asks for an extended attribute of a file, whose value is in Data:
	// Path is the file's path, NUL and the attribute's name, or the path alone
	// for the names of all, each ended by NUL. Flags: OpenNoFollow. E2BIG: it is
	// larger than MaxAhead.
	OpXattr Op = 20
)

// Flags of OpAttach, of OpOpen and OpStat, of OpConnect, of OpListen.
const (
	// AttachVisitor: no debuggee asks but a person who looks at files, for whom no
	// session goes on, nor content comes with an open.
	AttachVisitor = 1 << 0

	OpenDirectory = 1 << 0
	OpenNoFollow  = 1 << 1
	OpenWrite     = 1 << 2 // of OpOpen and OpOpened
	OpenFailed    = 1 << 3 // of OpOpened
	OpenRead      = 1 << 4 // of OpOpen, these too
	OpenCreate    = 1 << 5
	OpenExclusive = 1 << 6
	OpenTruncate  = 1 << 7
	OpenTemporary = 1 << 9
	// OpenMayChange: the policy lets the file be changed, so that attributes may
	// be set by a descriptor for reading.
	OpenMayChange = 1 << 10
	// OpenSearch: the directory is to be looked up in, and need not be readable.
	OpenSearch = 1 << 11

	// WalkFlags are above WalkShift RESOLVE_NO_XDEV and so on, as openat2(2) has them.
	WalkShift = 24
	WalkFlags = 0xff << WalkShift

	// OpenChange are those of an opening that is not only for reading.
	OpenChange = OpenWrite | OpenCreate | OpenTruncate | OpenTemporary

	ConnectAsync     = 1 << 0
	ConnectMultipath = 1 << 1 // it is an MPTCP socket

	ListenMirror = 1 << 0
)

// Flags of a reply.
const (
	ReplyFD      = 1 << 0 // a descriptor comes with it
	ReplyNode    = 1 << 1 // Node is set
	ReplyPending = 1 << 2 // the connection's outcome is not known yet
	ReplyExpired = 1 << 3 // of a notice: leases have expired
	ReplyAhead   = 1 << 4 // of a notice: what is likely to be asked
	ReplyWatched = 1 << 5 // of a notice: whether somebody asks which files are opened
	ReplyShared  = 1 << 6 // File is set: Node is a number to open it by
	ReplyChanges = 1 << 7 // of a Node that is not shared: its attributes may change while it is open
	ReplyReads   = 1 << 8 // access(2) with R_OK alone says yes
	ReplyRuns    = 1 << 9 // and with X_OK alone
)

// AheadContent is a flag of a notice of ReplyAhead, beside OpenNoFollow: it is
// about OpOpen, not OpStat.
const AheadContent = 1 << 8

// Sizes and limits of messages.
const (
	addrSize    = 20
	attrSize    = 104
	RequestHead = 16 + 8 + 2*addrSize
	ReplyHead   = 16 + 2*8 + 16 + attrSize + 2*addrSize
	MaxPath     = 4096 // PATH_MAX
	MaxRequest  = RequestHead + MaxChange
	MaxAhead    = 2*(2+MaxPath) + 16<<10
	MaxMessage  = ReplyHead + MaxAhead
)

// ErrMessage is a packet too short or too long for what it claims to be.
var ErrMessage = errors.New("malformed layer message")

// A Request is one hooked call's question.
type Request struct {
	Op    Op
	Seq   uint32
	Flags uint32
	Mode  uint32
	Node  uint64
	Addr  netip.AddrPort
	Addr2 netip.AddrPort
	Path  string // at most MaxPath bytes, MaxChange of OpChange
}

// A Reply is its answer. Errno 0: it succeeded; else Data may hold words for the user.
type Reply struct {
	Seq   uint32
	Errno uint32
	Flags uint32
	Node  uint64
	File  uint64         // of what is open for writing: the same for all who have it open
	Lease protocol.Lease // of the answer to OpOpen and OpStat, ENOENT included; Seq also of a notice
	Attr  protocol.Attr
	Addr  netip.AddrPort
	Addr2 netip.AddrPort
	Data  []byte // at most MaxPath bytes, twice as many of a rename, MaxAhead of a notice and of OpXattr; attributes follow those of OpOpen and OpStat
}

// An Ahead is in the data of a notice: path length 2 | path | resolved path
// length 2 | resolved path | content.
type Ahead struct {
	Path     string
	Resolved string // of OpOpen; of both as a reply's Data has it
	Content  []byte // of OpOpen: all of it
}

// Append appends a to b. Its paths are shorter than 64 KiB.
func (a *Ahead) Append(b []byte) []byte {
	for _, s := range []string{a.Path, a.Resolved} {
		b = append(le.AppendUint16(b, uint16(len(s))), s...)
	}
	return append(b, a.Content...)
}

// Decode sets a from b; a.Content is a part of it.
func (a *Ahead) Decode(b []byte) error {
	for _, s := range []*string{&a.Path, &a.Resolved} {
		if len(b) < 2 || len(b) < 2+int(le.Uint16(b)) {
			return ErrMessage
		}
		n := 2 + int(le.Uint16(b))
		*s, b = string(b[2:n]), b[n:]
	}
	a.Content = b
	return nil
}

var le = binary.LittleEndian

// Append appends r's packet to b.
func (r *Request) Append(b []byte) []byte {
	b = le.AppendUint32(b, uint32(r.Op))
	b = le.AppendUint32(b, r.Seq)
	b = le.AppendUint32(b, r.Flags)
	b = le.AppendUint32(b, r.Mode)
	b = le.AppendUint64(b, r.Node)
	b = appendAddr(b, r.Addr)
	b = appendAddr(b, r.Addr2)
	return append(b, r.Path...)
}

// Decode sets r from a packet.
func (r *Request) Decode(b []byte) error {
	if len(b) < RequestHead || len(b) > MaxRequest || len(b) > RequestHead+MaxPath && Op(le.Uint32(b)) != OpChange {
		return ErrMessage
	}
	var ok, ok2 bool
	*r = Request{Op: Op(le.Uint32(b)), Seq: le.Uint32(b[4:]), Flags: le.Uint32(b[8:]), Mode: le.Uint32(b[12:]), Node: le.Uint64(b[16:])}
	r.Addr, ok = decodeAddr(b[24:])
	r.Addr2, ok2 = decodeAddr(b[24+addrSize:])
	if !ok || !ok2 {
		return ErrMessage
	}
	r.Path = string(b[RequestHead:])
	return nil
}

// Append appends r's packet to b.
func (r *Reply) Append(b []byte) []byte {
	b = le.AppendUint32(b, r.Seq)
	b = le.AppendUint32(b, r.Errno)
	b = le.AppendUint32(b, r.Flags)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, r.Node)
	b = le.AppendUint64(b, r.File)
	b = le.AppendUint64(b, r.Lease.ID)
	b = le.AppendUint64(b, r.Lease.Seq)
	a := &r.Attr
	for _, v := range [...]uint64{a.Dev, a.Ino, uint64(a.Mode), uint64(a.Nlink), uint64(a.UID), uint64(a.GID), a.Rdev,
		uint64(a.Size), uint64(a.Blksize), uint64(a.Blocks), uint64(a.Atime), uint64(a.Mtime), uint64(a.Ctime)} {
		b = le.AppendUint64(b, v)
	}
	b = appendAddr(b, r.Addr)
	b = appendAddr(b, r.Addr2)
	return append(b, r.Data...)
}

// Decode sets r from a packet; r.Data is a part of b.
func (r *Reply) Decode(b []byte) error {
	if len(b) < ReplyHead || len(b) > MaxMessage {
		return ErrMessage
	}
	*r = Reply{Seq: le.Uint32(b), Errno: le.Uint32(b[4:]), Flags: le.Uint32(b[8:]), Node: le.Uint64(b[16:]), File: le.Uint64(b[24:])}
	r.Lease = protocol.Lease{ID: le.Uint64(b[32:]), Seq: le.Uint64(b[40:])}
	const attr = 48
	v := func(i int) uint64 { return le.Uint64(b[attr+8*i:]) }
	r.Attr = protocol.Attr{Dev: v(0), Ino: v(1), Mode: uint32(v(2)), Nlink: uint32(v(3)), UID: uint32(v(4)), GID: uint32(v(5)),
		Rdev: v(6), Size: int64(v(7)), Blksize: int64(v(8)), Blocks: int64(v(9)), Atime: int64(v(10)), Mtime: int64(v(11)), Ctime: int64(v(12))}
	var ok, ok2 bool
	r.Addr, ok = decodeAddr(b[attr+attrSize:])
	r.Addr2, ok2 = decodeAddr(b[attr+attrSize+addrSize:])
	if !ok || !ok2 {
		return ErrMessage
	}
	r.Data = b[ReplyHead:]
	return nil
}

// An address is its family (0 none, 4, 6) 2 | port 2 | 16 bytes of address.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	family := uint16(0)
	var ip [16]byte
	switch {
	case a.Addr().Is4():
		family = 4
		v4 := a.Addr().As4()
		copy(ip[:], v4[:])
	case a.Addr().Is6():
		family, ip = 6, a.Addr().As16()
	}
	b = le.AppendUint16(b, family)
	b = le.AppendUint16(b, a.Port())
	return append(b, ip[:]...)
}

func decodeAddr(b []byte) (netip.AddrPort, bool) {
	port := le.Uint16(b[2:])
	switch le.Uint16(b) {
	case 0:
		return netip.AddrPort{}, true
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), true
	case 6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[4:20])), port), true
	}
	return netip.AddrPort{}, false
}

// SharedName is the name by which a node is opened, once, that all share who
// have it open for writing.
func SharedName(number uint64) string { return "w" + strconv.FormatUint(number, 10) }

// NodeName is the name of an opened node below the file server's root.
func NodeName(node uint64) string { return "n" + strconv.FormatUint(node, 10) }

// AppendXattrs appends to a path or link's text what follows it in a reply's Data.
func AppendXattrs(text []byte, xattrs []byte) []byte {
	if xattrs == nil {
		return text
	}
	return append(append(text, 0), xattrs...)
}

// CutXattrs cuts that off. xattrs are nil where they are not told.
func CutXattrs(data []byte) (text string, xattrs []byte) {
	head, xattrs, told := bytes.Cut(data, []byte{0})
	if told && xattrs == nil {
		xattrs = []byte{}
	}
	return string(head), xattrs
}
