// Package files shows opened files and directories of targets as nodes of a
// FUSE file system, so that a debuggee holds a real descriptor whose read,
// mmap, getdents and sendfile run in the kernel.
//
// The file server is a process of its own, started by the daemon: a process that
// holds a file of a FUSE server inside itself can hang for ever when killed.
//
//	debuggee ── read(2) ──▶ kernel ── /dev/fuse ──▶ file server ── socketpair ──▶ daemon ──▶ Source
//	launcher ── openat(root, "n7") ──▶ ┘            (node table,                  (Server)
//	                                                 read-ahead)
//
// The file system is flat: its root holds one name per opened file, as package
// layer's NodeName spells it, and no path is walked over it. It is mounted
// detached (fsmount): it has no mount point, stands in nobody's /proc/mounts and
// is gone with its last descriptor. A node ends with its last descriptor
// (RELEASE), or, when it was looked up and not opened within a minute, by FORGET.
//
// # Writing
//
// What can only be read is a node of its own; where the Source lets them, its mode,
// owner and times may be set all the same. A regular file's attributes are
// looked at again after SharedTime: what was read of one that has changed is
// dropped, and what grows is read on. What is open for writing, or may be, is one
// node for all who have it open, whatever name they opened it by
// (layer.SharedName): they share the kernel's page cache, mappings and locks.
// What is fetched ahead of its readers is forgotten, for good, with the first
// change. Such a node's attributes are kept for SharedTime; where others have
// written to the file its mtime changes, and the kernel drops what it has cached.
// Its data are written through, in the order of the calls, but a write waits only
// until the Source has taken it, and what fails later is told by the next write,
// fsync or close.
//
// # Waiting
//
// A read waits for the network, but must never delay a breakpoint, a stop or a
// kill. The mount is therefore without asynchronous reads, so that the kernel
// waits interruptibly for regular files too, and everything else is
// FOPEN_DIRECT_IO. An interrupted read ends with EINTR soon (see patience)
// while its fetch goes on; the retry joins that fetch. No fetch lasts longer
// than a minute.
package files

import (
	"context"
	"time"

	"mirrord/protocol"
)

// Source answers for the nodes that sessions opened. An error is told to the
// debuggee as the syscall.Errno it wraps, else as EIO. All methods may be
// called at once for one node.
type Source interface {
	// Claim gives the shared node that a launcher opens by a number it was
	// told, which is good for one claim.
	Claim(ctx context.Context, number uint64) (Claim, error)

	// Attr gives what fstat tells: of a regular file for SharedTime, of others
	// for as long as the node is open, unless Change sets it.
	Attr(ctx context.Context, node uint64) (protocol.Attr, error)

	// Read fills p (at most 1 MiB) from offset off on; fewer bytes mean the
	// end of the file.
	Read(ctx context.Context, node uint64, p []byte, off int64) (int, error)

	// ReadDir lists a directory from its off-th entry on, without "." and
	// "..". more: others follow the listed ones.
	ReadDir(ctx context.Context, node uint64, off int) (list []protocol.DirEntry, more bool, err error)

	// Write begins to write p, which it copies, to a shared node. It is called
	// in the order of the debuggees' calls and does not wait; wait does, until
	// the data are taken, and written if flags say so; nil: they are taken.
	Write(node uint64, p []byte, off int64, flags uint32) (wait func(context.Context) error)

	// Change does what else may be done to a shared node, but WriteData. All
	// writes that began before it come first. Its answer has Attr's attributes.
	// Of other nodes it is asked WriteAttr, but for a size, and WriteSync.
	Change(ctx context.Context, node uint64, q protocol.Write) (protocol.WriteReply, error)

	// Flush waits until what was written to a shared node is with the target,
	// and gives the error of what was not.
	Flush(ctx context.Context, node uint64) error

	// Released tells that the last descriptor of the node was closed, or
	// that nobody opened it after Attr. The node's other calls have returned
	// (their ctx was cancelled), and none follows but of a new openat.
	Released(node uint64)

	// Left tells that nobody has a shared node any more of those who opened it
	// by the first so many claims.
	Left(node, claims uint64)
}

// A Claim is the answer to a number of a shared node.
type Claim struct {
	Node  uint64
	Count uint64 // of the node's claims, with this one
	Attr  protocol.Attr
}

// SharedTime is how long what was told of a file is taken as true, by the kernel
// and by the Source, although others may change it.
const SharedTime = time.Second

// fetchTimeout is the longest that a call of the debuggee waits for its
// Source, and that a Source is waited for. It then ends with EIO.
const fetchTimeout = time.Minute
