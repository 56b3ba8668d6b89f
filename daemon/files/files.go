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
// The file system is flat and read-only: its root holds one name per opened
// file, as package layer's NodeName spells it, and no path is walked over it.
// It is mounted detached (fsmount): it has no mount point, stands in nobody's
// /proc/mounts and is gone with its last descriptor. Attributes never change
// while a node is open. A node ends with its last descriptor (RELEASE), or, when
// it was looked up and not opened within a minute, by FORGET.
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
	// Attr gives what fstat tells for as long as the node is open.
	Attr(ctx context.Context, node uint64) (protocol.Attr, error)

	// Read fills p (at most 1 MiB) from offset off on; fewer bytes mean the
	// end of the file.
	Read(ctx context.Context, node uint64, p []byte, off int64) (int, error)

	// ReadDir lists a directory from its off-th entry on, without "." and
	// "..". more: others follow the listed ones.
	ReadDir(ctx context.Context, node uint64, off int) (list []protocol.DirEntry, more bool, err error)

	// Released tells that the last descriptor of the node was closed, or
	// that nobody opened it after Attr. The node's other calls have returned
	// (their ctx was cancelled), and none follows but of a new openat.
	Released(node uint64)
}

// fetchTimeout is the longest that a call of the debuggee waits for its
// Source, and that a Source is waited for. It then ends with EIO.
const fetchTimeout = time.Minute
