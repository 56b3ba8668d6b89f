package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"syscall"
)

// An Error is a failed operation as the agent saw it.
type Error struct {
	Op    string `json:"op"`
	Errno uint32 `json:"errno,omitempty"` // Linux's; 0: none applies
	Msg   string `json:"msg"`
	Lease Lease  `json:"lease,omitzero"` // of an answer that there is no such file
	ID    uint64 `json:"id,omitempty"`   // of the read that it answers
}

func (e *Error) Error() string { return e.Op + ": " + e.Msg }

// Unwrap gives the errno, so that errors.Is(err, fs.ErrNotExist) works.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return syscall.Errno(e.Errno)
}

// AsError makes an Error of what op failed with, keeping its errno.
func AsError(op string, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Op: op, Msg: err.Error()}
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		e.Errno = uint32(no)
	}
	return e
}

// Headers of the requests (KindX) and their responses (XReply), by kind.
type (
	// Hello opens a client's use of an agent.
	Hello struct {
		Version int    `json:"version"`
		Build   string `json:"build"`
		Client  Client `json:"client,omitzero"`
		GraceMS uint64 `json:"graceMS,omitempty"` // how long the client may be without a link; 0: for a minute
	}
	// Client says whose client it is. Where a daemon was, another may be after
	// it; the agent then ends what the former had, which is dead.
	Client struct {
		Name  string `json:"name,omitempty"`  // for others to read: "alice@laptop"
		Place string `json:"place,omitempty"` // a secret of where at most one daemon runs at a time
		Run   int64  `json:"run,omitempty"`   // greater than that of any daemon there before
	}
	HelloReply struct {
		Version   int       `json:"version"`
		Build     string    `json:"build"`
		Kinds     []Kind    `json:"kinds"`
		Hostname  string    `json:"hostname"`            // the target's uname(2) nodename
		Addrs     []string  `json:"addrs,omitempty"`     // the target's global addresses
		Abilities []Ability `json:"abilities,omitempty"` // what the agent found it can do
	}
	// An Ability is a thing the agent tried at start. Err tells why it has it not.
	Ability struct {
		Name string `json:"name"` // one of the Ability constants
		Err  string `json:"err,omitempty"`
	}

	// EnvironReply's payload is NUL separated NAME=value pairs.
	EnvironReply struct{}

	// Open asks for a file or directory of the target. Path is absolute;
	// symlinks are resolved in the target's root.
	Open struct {
		Path      Path `json:"path"`
		Directory bool `json:"dir,omitempty"`      // O_DIRECTORY
		NoFollow  bool `json:"nofollow,omitempty"` // O_NOFOLLOW
		Search    bool `json:"search,omitempty"`   // of a directory: not to be listed, but to be looked up in
		Inline    int  `json:"inline,omitempty"`   // most bytes of content wanted in the answer
		Lease     bool `json:"lease,omitempty"`    // the answer is to be kept: see Lease
		Ahead     bool `json:"ahead,omitempty"`    // so is what is likely to be asked next: see Ahead

		Change *OpenChange `json:"change,omitempty"` // not only for reading: Inline, Lease and Ahead do not matter
		Walk   *Walk       `json:"walk,omitempty"`   // no answer may be kept
	}
	// A Walk goes on from the directory Path, as openat2(2) does with these flags.
	Walk struct {
		Path    Path   `json:"path"`
		Resolve uint64 `json:"resolve"`
	}
	// OpenChange is what open(2) is asked for beside reading what there is.
	OpenChange struct {
		Read      bool   `json:"read,omitempty"` // Read and Write: O_RDWR
		Write     bool   `json:"write,omitempty"`
		Create    bool   `json:"create,omitempty"`
		Exclusive bool   `json:"excl,omitempty"`
		Truncate  bool   `json:"trunc,omitempty"`
		Temporary bool   `json:"temp,omitempty"` // O_TMPFILE
		Mode      uint32 `json:"mode,omitempty"` // of a file that is made
		Umask     uint32 `json:"umask,omitempty"`
	}
	// OpenReply's payload is the whole content where the file is regular and
	// fits Open.Inline; Handle is then 0 and there is nothing to close. Of a
	// directory it is what ReadDir answers at offset 0, if List is set.
	OpenReply struct {
		Handle uint64 `json:"handle,omitempty"`
		Attr   Attr   `json:"attr"`
		Path   Path   `json:"path"` // as resolved, in the target
		Lease  Lease  `json:"lease,omitzero"`
		Ahead  bool   `json:"ahead,omitempty"` // frames with Ahead follow, to the stream's end
		Soon   bool   `json:"soon,omitempty"`  // the first of them is worth waiting for
		Seq    uint64 `json:"seq,omitempty"`   // with Open.Change, as of ChangeReply
		Beside

		List   *ReadDirReply `json:"list,omitempty"`
		Inside *Inside       `json:"inside,omitempty"` // of a directory: what Ahead tells of its files
	}
	// Inside: the answers are those to Open, if Content is set, else to Stat.
	Inside struct {
		Content  bool `json:"content,omitempty"`
		NoFollow bool `json:"nofollow,omitempty"`
	}

	// Read asks for at most Len bytes (limit MaxPayload) at Offset. The
	// answer's payload is shorter only at the end of the file. Its stream is for
	// any number of them, which are answered as they are done; an error is the
	// answer to one of them only.
	Read struct {
		ID     uint64 `json:"id,omitempty"` // of the answer, too
		Handle uint64 `json:"handle"`
		Offset int64  `json:"off"`
		Len    int    `json:"len"`
	}
	ReadReply struct {
		ID uint64 `json:"id,omitempty"`
	}

	// Write does one thing to an opened file; the payload is the data of
	// WriteData. Its stream is for any number of them: they are done, and
	// answered, in their order, and an error is the answer to one of them only.
	Write struct {
		Handle uint64   `json:"handle"`
		Do     WriteOp  `json:"do,omitempty"`
		Flags  uint32   `json:"flags,omitempty"` // of WriteData and WriteSync, as below; of WriteAllocate, as fallocate(2) has them
		Offset int64    `json:"off,omitempty"`   // of WriteData, WriteAllocate, WriteSeek
		Length int64    `json:"len,omitempty"`   // of WriteAllocate
		Whence int      `json:"whence,omitempty"`
		Set    *SetAttr `json:"set,omitempty"` // of WriteAttr
	}
	// SetAttr is what to change of a file; nil: not that.
	SetAttr struct {
		Size  *int64  `json:"size,omitempty"`
		Mode  *uint32 `json:"mode,omitempty"`
		UID   *uint32 `json:"uid,omitempty"`
		GID   *uint32 `json:"gid,omitempty"`
		Atime *Time   `json:"atime,omitempty"`
		Mtime *Time   `json:"mtime,omitempty"`
	}
	// Time is in Unix nanoseconds, or what the target's clock says.
	Time struct {
		NS  int64 `json:"ns,omitempty"`
		Now bool  `json:"now,omitempty"`
	}
	// WriteReply tells of the file before and after it: what others did to it
	// between two of them is seen by that.
	WriteReply struct {
		Before Stamp `json:"before"`
		Attr   Attr  `json:"attr"`
		Offset int64 `json:"off,omitempty"` // of WriteSeek
	}
	// A Stamp changes with a file's content.
	Stamp struct {
		Size  int64 `json:"size"`
		Mtime int64 `json:"mtime"`
		Ctime int64 `json:"ctime"`
	}

	// ReadDir asks for entries from the Offset-th on; the answer's payload is
	// a list as AppendDirEntry makes it. More: there are others after them.
	ReadDir struct {
		Handle uint64 `json:"handle"`
		Offset int    `json:"off"`
	}
	ReadDirReply struct {
		More bool `json:"more,omitempty"`
	}

	Close struct {
		Handle uint64 `json:"handle"`
	}
	CloseReply struct{}

	Stat struct {
		Path     Path `json:"path"`
		NoFollow bool `json:"nofollow,omitempty"`
		Lease    bool `json:"lease,omitempty"`
		Ahead    bool `json:"ahead,omitempty"`

		Walk *Walk `json:"walk,omitempty"` // no answer may be kept
	}
	StatReply struct {
		Attr  Attr  `json:"attr"`
		Path  Path  `json:"path,omitempty"` // with Stat.Walk: as resolved
		Lease Lease `json:"lease,omitzero"`
		Ahead bool  `json:"ahead,omitempty"`
		Soon  bool  `json:"soon,omitempty"`
		Beside
	}
	// Beside is what programs ask of a file that they have the attributes of.
	Beside struct {
		Link   Path   `json:"link,omitempty"`   // the text of a symlink
		NoLink uint32 `json:"nolink,omitempty"` // or the errno of reading it
		May    uint32 `json:"may,omitempty"`    // R_OK, X_OK: what Access says yes to if asked for that alone
		Xattrs []byte `json:"xattrs,omitzero"`  // with a lease: all that Xattr tells, as AppendXattr makes them; nil: it is to be asked
	}

	// Ahead answers questions that were not asked: the same one about other
	// files of the directory, to Stat about links themselves. The payload is the contents, one after the other.
	Ahead struct {
		Files []AheadFile `json:"files"`
	}
	AheadFile struct {
		Name  Path  `json:"name"`
		Path  Path  `json:"path,omitempty"` // of Open: as resolved
		Size  int   `json:"size,omitempty"` // of Open: bytes of payload
		Attr  Attr  `json:"attr"`
		Lease Lease `json:"lease"`
		// Follow: of Stat, it is the answer if the link of that name is followed.
		Follow bool `json:"follow,omitempty"`
		Beside
	}

	// Access asks as access(2) does, for the target's own user. Mode is R_OK|W_OK|X_OK.
	Access struct {
		Path Path   `json:"path"`
		Mode uint32 `json:"mode"`
	}
	AccessReply struct{}

	// Xattr asks for an extended attribute, or without Name for the names of all.
	Xattr struct {
		Path     Path `json:"path"`
		NoFollow bool `json:"nofollow,omitempty"`
		Name     Path `json:"name,omitempty"`
	}
	// XattrReply's payload is the value, or the names, each ended by NUL.
	XattrReply struct{}

	// A Lease is the agent's promise to tell when an answer is no longer true.
	// It goes for an answer of ENOENT too. The answer may be kept if no
	// Expired with a higher Seq has been heard; ID 0: it may not.
	Lease struct {
		ID  uint64 `json:"id"`
		Seq uint64 `json:"seq"`
	}
	// WatchReply is followed by frames of the same kind with an Expired each.
	WatchReply struct{}
	// Expired: what the leases IDs promised may have changed.
	Expired struct {
		Seq uint64   `json:"seq"` // counts from 1
		IDs []uint64 `json:"ids,omitempty"`
		All bool     `json:"all,omitempty"` // all leases there are
	}

	// Connect asks for a TCP connection from the target's namespace.
	Connect struct {
		Addr netip.AddrPort `json:"addr"`
	}
	// ConnectReply: from here on both directions are chunks (see Relay).
	ConnectReply struct {
		Local netip.AddrPort `json:"local"`
	}

	// Datagram asks for a UDP socket of the target's namespace connected to
	// Addr. Datagrams (see WriteDatagram) may follow at once.
	Datagram struct {
		Addr netip.AddrPort `json:"addr"`
	}
	DatagramReply struct {
		Local netip.AddrPort `json:"local"`
	}

	// Steal asks for every new connection to Port; it ends with the stream. When
	// the port is lost, an error on the stream says why.
	Steal struct {
		ID      uint64 `json:"id,omitempty"`      // the daemon's, told with each of its connections
		Session string `json:"session,omitempty"` // for others to read
		Port    uint16 `json:"port"`
		Mirror  bool   `json:"mirror,omitempty"` // copies only: the pod answers
		Probed  bool   `json:"probed,omitempty"` // kubelet probes the port: probes are the pod's
		// Patience is how many seconds the daemon may take to answer Incoming; 0: 5.
		// Until then the connection waits, as it does for a debuggee that restarts.
		Patience uint32 `json:"patience,omitempty"`
		// Filter: only HTTP requests that it chooses. Others are the pod's, or those
		// of others with a filter, whose steals of the port are older. Of a mirror:
		// copies of these.
		Filter *Filter `json:"filter,omitempty"`
		// Override: others whose steals are in the way lose theirs.
		Override bool `json:"override,omitempty"`
		// Flush says which of the pod's connections of before are cut, so that their
		// clients connect anew: a Flush constant.
		Flush string `json:"flush,omitempty"`
		// Once: only one connection, or with a filter one request, for each arming;
		// Arm is as of StealState.
		Once bool   `json:"once,omitempty"`
		Arm  uint64 `json:"arm,omitempty"`
		// TLS, beside Filter: connections in TLS whose server has this certificate are
		// opened, so that their requests are chosen, too.
		TLS *TLS `json:"tls,omitempty"`
	}
	// TLS is a certificate of the pod's own and its key: paths in the target's
	// container, which are read again when the pod's certificate is another; or PEM.
	TLS struct {
		CertPath Path   `json:"cert_path,omitempty"`
		KeyPath  Path   `json:"key_path,omitempty"`
		Cert     []byte `json:"cert,omitempty"`
		Key      Secret `json:"key,omitempty"`
	}
	// CertifyReply tells that a TLS is good for something.
	CertifyReply struct {
		Names []string `json:"names,omitempty"` // of servers
		Until string   `json:"until"`           // RFC 3339
	}
	// StealState may follow the answer, from the daemon, as often as it changes. Each
	// is answered as Steal is, once it holds.
	StealState struct {
		// Paused: what is new is not offered. Others with a filter may get it, else it
		// is the pod's.
		Paused bool `json:"paused,omitempty"`
		// Arm is the number of the last arming, as long as it is good; 0: nothing is to
		// be offered. The daemon says EALREADY to what it is offered beyond.
		Arm uint64 `json:"arm,omitempty"`
	}
	// A Filter chooses HTTP requests: see package filter. One field is set.
	Filter struct {
		Header   string      `json:"header,omitempty"`    // regular expression of "Name: value", in any case
		HeaderJQ string      `json:"header_jq,omitempty"` // jq, true for one "Name: value"
		Path     string      `json:"path,omitempty"`      // regular expression, in any case
		Method   string      `json:"method,omitempty"`    // in any case
		Body     *BodyFilter `json:"body,omitempty"`
		// ServerName is a regular expression of the name that a client asks for in TLS
		// (SNI), in any case. A connection in TLS that is not opened is chosen by it as a
		// whole, and by nothing else.
		ServerName string   `json:"server_name,omitempty"`
		All        []Filter `json:"all,omitempty"`
		Any        []Filter `json:"any,omitempty"`
	}
	// A BodyFilter chooses requests by their JSON body.
	BodyFilter struct {
		Query   string `json:"query"`
		Matches string `json:"matches,omitempty"` // regular expression of one value that Query, a JSONPath, finds
		JQ      bool   `json:"jq,omitempty"`      // instead: Query is jq and says true
	}
	// StealReply is sent when the redirect is active. One with Cut answers nothing: it
	// tells, once for each reason, that connections are not mirrored to their end.
	StealReply struct {
		Redirect string `json:"redirect"` // "sk_lookup", "TPROXY" or "REDIRECT", "packet" for a mirror
		Cut      string `json:"cut,omitempty"`
	}

	// Pause asks for the target's own processes to stand still; it ends with the stream.
	// When they cannot be kept so, an error on the stream says why.
	Pause struct {
		Session string   `json:"session,omitempty"` // for others to read
		Probes  []uint16 `json:"probes,omitempty"`  // ports that kubelet probes: the agent answers that all is well
	}
	// PauseReply is sent when they do.
	PauseReply struct{}

	// HoldersReply's payload is a JSON list of Holder, as many as there is room for.
	HoldersReply struct{}
	// A Holder has a port for as long as it is not released, or, with Pause and no
	// port, the target paused.
	Holder struct {
		Client   string `json:"client"`            // as in its hello: "alice@laptop"
		Session  string `json:"session,omitempty"` // its
		Port     uint16 `json:"port"`
		Mirror   bool   `json:"mirror,omitempty"`
		Pause    bool   `json:"pause,omitempty"`
		Filter   string `json:"filter,omitempty"` // in words
		Once     bool   `json:"once,omitempty"`   // one request, or without a filter connection, each time it is armed
		Since    string `json:"since"`            // RFC 3339
		Away     bool   `json:"away,omitempty"`   // its client has no link: connections are the pod's
		Redirect string `json:"redirect"`         // as a StealReply has it
	}

	// Incoming is a connection that was stolen. The daemon answers
	// IncomingReply and chunks follow both ways, or KindError: then the agent
	// passes the connection to the pod's own container. What the client says
	// first may come as chunks before the answer. Of a mirrored one
	// chunks follow from the client only; what the debuggee answers is lost.
	//
	// Where no answer comes, the debuggee may have had those first chunks all the same.
	// But a connection that waits is nobody's until it is granted.
	Incoming struct {
		ID     uint64         `json:"id,omitempty"` // of the Steal it is for
		Port   uint16         `json:"port"`
		Client netip.AddrPort `json:"client"`
		Local  netip.AddrPort `json:"local"`           // the address the client asked for
		Waits  bool           `json:"waits,omitempty"` // from the beginning, as with the reply's word: the link may be cut

		TLS *Opened `json:"tls,omitempty"` // the client speaks TLS, of which this is the inside
	}
	// IncomingReply says that the debuggee has the connection, unless it waits or asks:
	// then another answer follows.
	IncomingReply struct {
		Waits   bool `json:"waits,omitempty"`   // the debuggee is not given it before that was granted
		Asks    bool `json:"asks,omitempty"`    // may it be given? The agent answers with Granted, and sends no chunk before the next answer
		Lingers bool `json:"lingers,omitempty"` // nobody waits for this, but for what the debuggee says: the link need not hurry
	}
	// Opened is what a client said in TLS, and was answered.
	Opened struct {
		ServerName string `json:"server_name,omitempty"`
		Protocol   string `json:"protocol,omitempty"` // agreed on (ALPN)
	}
)

// Of Steal.Flush.
const (
	FlushOff  = ""
	FlushIdle = "idle" // those without data in flight that their clients have nothing to expect from, as soon as they are
	FlushAll  = "all"  // at once, when the port is taken; after a pause the idle ones
)

// A Secret is not printed.
type Secret []byte

func (Secret) String() string   { return "(secret)" }
func (Secret) GoString() string { return "(secret)" }

// A WriteOp is what a Write does.
type WriteOp uint8

const (
	WriteData     WriteOp = 0 // pwrite(2) of the payload
	WriteAttr     WriteOp = 1 // ftruncate(2), fchmod(2), fchown(2), futimens(2)
	WriteSync     WriteOp = 2 // fsync(2)
	WriteAllocate WriteOp = 3 // fallocate(2)
	WriteSeek     WriteOp = 4 // lseek(2) with SEEK_DATA or SEEK_HOLE
	WriteStat     WriteOp = 5 // fstat(2)
)

// Flags of a Write.
const (
	WriteAppend   = 1 << 0 // of WriteData: at the end, wherever that is
	WriteSynced   = 1 << 1 // of WriteData: as O_SYNC
	WriteDataOnly = 1 << 2 // of WriteData: as O_DSYNC; of WriteSync: fdatasync(2)
)

// Stamp is the one of a file with these attributes.
func (a *Attr) Stamp() Stamp { return Stamp{a.Size, a.Mtime, a.Ctime} }

// Abilities that a HelloReply may tell of.
const (
	AbilityTarget   = "target"   // find the target's process, read its environment and root
	AbilityNetwork  = "network"  // enter its network namespace
	AbilityRedirect = "redirect" // steal ports
	AbilityWrite    = "write"    // change files as the target's user, with its capabilities
)

// Attr is what statx(2) tells of a file of the target. Times are Unix nanoseconds.
type Attr struct {
	Dev     uint64 `json:"dev"`
	Ino     uint64 `json:"ino"`
	Mode    uint32 `json:"mode"` // type and permissions as st_mode has them
	Nlink   uint32 `json:"nlink"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Rdev    uint64 `json:"rdev,omitempty"`
	Size    int64  `json:"size"`
	Blksize int64  `json:"blksize"`
	Blocks  int64  `json:"blocks"` // of 512 bytes
	Atime   int64  `json:"atime"`
	Mtime   int64  `json:"mtime"`
	Ctime   int64  `json:"ctime"`
}

// WriteMessage sends one frame in one write.
func WriteMessage(w io.Writer, k Kind, header any, payload []byte) error {
	frame, err := AppendMessage(nil, k, header, payload)
	if err == nil {
		_, err = w.Write(frame)
	}
	return err
}

// AppendMessage appends what WriteMessage sends.
func AppendMessage(b []byte, k Kind, header any, payload []byte) ([]byte, error) {
	head, err := json.Marshal(header)
	if err != nil {
		return b, fmt.Errorf("encoding %v: %w", k, err)
	}
	if len(head) > MaxHeader || len(payload) > MaxPayload {
		return b, fmt.Errorf("encoding %v: %w", k, ErrFrameSize)
	}
	b = slices.Grow(b, FrameHead+len(head)+len(payload))
	return AppendFrame(b, Frame{Kind: k, Header: head, Payload: payload}), nil
}

// WriteError answers a request with what op failed with.
func WriteError(w io.Writer, op string, err error) error {
	return WriteMessage(w, KindError, AsError(op, err), nil)
}

// ReadAnswer reads the answer to a request of kind k into header and returns its
// payload. A KindError answer becomes an *Error.
func ReadAnswer(r io.Reader, k Kind, header any) ([]byte, error) {
	return readAnswer(r, k, header, nil)
}

// ReadAnswerTo reads the payload into p and returns its length; more than fits
// is ErrFrameSize.
func ReadAnswerTo(p []byte, r io.Reader, k Kind, header any) (int, error) {
	payload, err := readAnswer(r, k, header, p[:0:len(p)])
	return len(payload), err
}

func readAnswer(r io.Reader, k Kind, header any, to []byte) ([]byte, error) {
	f, err := readFrame(r, k, to)
	if err != nil {
		return nil, fmt.Errorf("reading answer to %v: %w", k, err)
	}
	switch f.Kind {
	case KindError:
		e := new(Error)
		if err := json.Unmarshal(f.Header, e); err != nil {
			return nil, fmt.Errorf("decoding error of %v: %w", k, err)
		}
		return nil, e
	case k:
		if err := json.Unmarshal(f.Header, header); err != nil {
			return nil, fmt.Errorf("decoding answer to %v: %w", k, err)
		}
		return f.Payload, nil
	}
	return nil, fmt.Errorf("answer to %v is of kind %v", k, f.Kind)
}

// Call sends one request and reads its answer.
func Call(rw io.ReadWriter, k Kind, request, reply any) ([]byte, error) {
	if err := WriteMessage(rw, k, request, nil); err != nil {
		return nil, fmt.Errorf("sending %v: %w", k, err)
	}
	return ReadAnswer(rw, k, reply)
}
