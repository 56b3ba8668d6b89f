// Package protocol is what daemon and agent say to each other: version, kinds,
// frames, messages and the relaying of connections. PROTOCOL.md is its
// specification; package link below it carries the bytes.
package protocol

// Version is raised by one whenever an older peer would misread us.
//
//   - 1: first version
//   - 2: two links per client
//   - 3: files are changed; extended attributes; a steal may have a filter;
//     no path need be UTF-8
//   - 4: an open file is changed by its handle; a path is walked as openat2 says;
//     a steal tells its session, may override others and be overridden, may be
//     for one request, and be paused; who holds ports is told; the target is paused
//   - 5: reads share streams, and have numbers; a path's text is told by its attributes
//   - 6: a connection that waits for its debuggee is asked for before it is given
//   - 7: a connection's last end is told apart
const Version = 7

// Build names this build of mirrord: daemon, clients and agent must be of the
// same one. The linker sets it (see Taskfile.yml); "dev" is a plain go build.
var Build = "dev"

// A Kind says what a stream does. Its number is never reused.
type Kind uint8

const (
	KindError   Kind = 0 // response only: the operation failed, nothing was done
	KindHello   Kind = 1 // first stream of every client
	KindEnviron Kind = 2 // the target's environment, as execve(2) gave it
	KindOpen    Kind = 3 // openat2(2) in the target's root
	KindRead    Kind = 4 // pread(2) of an opened file
	KindReadDir Kind = 5 // the entries of an opened directory
	KindClose   Kind = 6 // close(2) of an opened file
	KindStat    Kind = 7 // statx(2) of a path, and what else there is to know of it
	// 8 was readlink(2), which KindStat tells.
	KindAccess   Kind = 9  // faccessat(2) of a path
	KindConnect  Kind = 10 // an outgoing TCP connection, then its bytes
	KindDatagram Kind = 11 // outgoing UDP to one address, then datagrams
	KindSteal    Kind = 12 // take over a TCP port for as long as the stream is open
	KindIncoming Kind = 13 // from the agent: a stolen connection, then its bytes
	KindWatch    Kind = 14 // hear which leases have expired, for as long as the stream is open
	KindChange   Kind = 15 // change files by name: mkdir(2) and its kin
	KindWrite    Kind = 16 // write to opened files or change them, one thing after the other
	KindStatfs   Kind = 17 // statfs(2) of a path
	KindXattr    Kind = 18 // getxattr(2) or listxattr(2) of a path
	KindHolders  Kind = 19 // who holds which ports
	KindCertify  Kind = 20 // whether a certificate of the pod can be used
	KindPause    Kind = 21 // have the target's processes stand still for as long as the stream is open
)

var kindNames = []string{
	"error", "hello", "environ", "open", "read", "readdir", "close", "stat",
	"unknown", "access", "connect", "datagram", "steal", "incoming", "watch",
	"change", "write", "statfs", "xattr", "holders", "certify", "pause",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// ClientKinds lists what a client may ask of an agent of this version.
func ClientKinds() []Kind {
	return []Kind{
		KindHello, KindEnviron, KindOpen, KindRead, KindReadDir, KindClose, KindStat,
		KindAccess, KindConnect, KindDatagram, KindSteal, KindWatch,
		KindChange, KindWrite, KindStatfs, KindXattr, KindHolders, KindCertify,
		KindPause,
	}
}
