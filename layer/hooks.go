package layer

import (
	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

const enosys = unix.ENOSYS

// A group of hooks is trapped only where the policy can decide anything there.
type group uint8

const (
	files group = iota
	outgoing
	datagrams
	binds
	incoming
	socketNames
	programs
	names
)

// A hook is one intercepted call.
//
// quick runs in the receiver: true means that the kernel carries out the call.
// It never waits. slow runs in a goroutine and finds the answer.
//
// dir, path and flags are the positions of these arguments, no (-1) where the
// call has none; a path without a dir is relative to the working directory.
type hook struct {
	seccomp.Rule
	group            group
	dir, path, flags int8
	quick            func(c *call) bool
	slow             func(c *call) answer
}

const no = -1

func on(c seccomp.Call) seccomp.Rule { return seccomp.Rule{Call: c} }

// hooks is every call the layer answers.
var hooks = [...]hook{
	{on(seccomp.Open), files, no, 0, 1, quickPath, slowOpen},
	{on(seccomp.Openat), files, 0, 1, 2, quickPath, slowOpen},
	{on(seccomp.Openat2), files, 0, 1, no, quickOpen2, slowOpen2},
	{on(seccomp.Creat), files, no, 0, no, quickPath, slowCreat},

	{on(seccomp.Stat), files, no, 0, no, quickPath, slowStat},
	{on(seccomp.Lstat), files, no, 0, no, quickPath, slowStat},
	{on(seccomp.Fstat), files, 0, no, no, quickFstat, slowFstat},
	{on(seccomp.Newfstatat), files, 0, 1, 3, quickEmptyPath, slowStat},
	{on(seccomp.Statx), files, 0, 1, 2, quickEmptyPath, slowStat},
	{on(seccomp.Statfs), files, no, 0, no, quickPath, slowStatfs},
	{on(seccomp.Fstatfs), files, 0, no, no, quickFD, slowStatfs},
	{on(seccomp.Access), files, no, 0, no, quickPath, slowAccess},
	{on(seccomp.Faccessat), files, 0, 1, no, quickPath, slowAccess},
	{on(seccomp.Faccessat2), files, 0, 1, 3, quickEmptyPath, slowAccess},
	{on(seccomp.Readlink), files, no, 0, no, quickReadlink, slowReadlink},
	{on(seccomp.Readlinkat), files, 0, 1, no, quickReadlink, slowReadlink},

	{on(seccomp.Chdir), files, no, 0, no, quickPath, slowChdir},
	{on(seccomp.Fchdir), files, 0, no, no, quickFchdir, slowChdir},
	{on(seccomp.Chroot), files, no, 0, no, quickPath, slowChroot},
	{on(seccomp.Getcwd), files, no, no, no, quickGetcwd, slowGetcwd},
	{on(seccomp.InotifyAddWatch), files, no, 1, no, quickPath, slowUnsupported},
	{on(seccomp.Getxattr), files, no, 0, no, quickPath, slowGetxattr},
	{on(seccomp.Lgetxattr), files, no, 0, no, quickPath, slowGetxattr},
	{on(seccomp.Listxattr), files, no, 0, no, quickPath, slowListxattr},
	{on(seccomp.Llistxattr), files, no, 0, no, quickPath, slowListxattr},
	{on(seccomp.Fgetxattr), files, 0, no, no, quickFD, slowGetxattr},
	{on(seccomp.Flistxattr), files, 0, no, no, quickFD, slowListxattr},
	{on(seccomp.Getxattrat), files, 0, 1, 2, quickEmptyPath, slowUnknown},
	{on(seccomp.Listxattrat), files, 0, 1, 2, quickEmptyPath, slowUnknown},
	{on(seccomp.NameToHandleAt), files, 0, 1, 4, quickEmptyPath, slowUnsupported},
	{on(seccomp.FanotifyMark), files, 3, 4, no, quickPath, slowUnsupported},

	{on(seccomp.Unlink), files, no, 0, no, quickPath, slowUnlink},
	{on(seccomp.Unlinkat), files, 0, 1, 2, quickPath, slowUnlink},
	{on(seccomp.Rmdir), files, no, 0, no, quickPath, slowUnlink},
	{on(seccomp.Chmod), files, no, 0, no, quickPath, slowMode},
	{on(seccomp.Fchmodat), files, 0, 1, no, quickPath, slowMode},
	{on(seccomp.Fchmodat2), files, 0, 1, 3, quickFileAt, slowMode},
	{on(seccomp.Fchmod), files, 0, no, no, quickFile, slowMode},
	{on(seccomp.Fchown), files, 0, no, no, quickFile, slowOwner},
	{on(seccomp.Chown), files, no, 0, no, quickPath, slowOwner},
	{on(seccomp.Lchown), files, no, 0, no, quickPath, slowOwner},
	{on(seccomp.Fchownat), files, 0, 1, 4, quickFileAt, slowOwner},
	{on(seccomp.Truncate), files, no, 0, no, quickPath, slowTruncate},
	{on(seccomp.Utime), files, no, 0, no, quickTimes, slowTimes},
	{on(seccomp.Utimes), files, no, 0, no, quickTimes, slowTimes},
	{on(seccomp.Futimesat), files, 0, 1, no, quickTimes, slowTimes},
	{on(seccomp.Utimensat), files, 0, 1, 3, quickTimes, slowTimes},
	{on(seccomp.Setxattr), files, no, 0, no, quickPath, slowChange},
	{on(seccomp.Lsetxattr), files, no, 0, no, quickPath, slowChange},
	{on(seccomp.Removexattr), files, no, 0, no, quickPath, slowChange},
	{on(seccomp.Lremovexattr), files, no, 0, no, quickPath, slowChange},
	{on(seccomp.Fsetxattr), files, 0, no, no, quickFD, slowChange},
	{on(seccomp.Fremovexattr), files, 0, no, no, quickFD, slowChange},
	{on(seccomp.Setxattrat), files, 0, 1, 2, quickEmptyPath, slowUnknown},
	{on(seccomp.Removexattrat), files, 0, 1, 2, quickEmptyPath, slowUnknown},
	{on(seccomp.Mkdir), files, no, 0, no, quickPath, slowMkdir},
	{on(seccomp.Mkdirat), files, 0, 1, no, quickPath, slowMkdir},
	{on(seccomp.Mknod), files, no, 0, no, quickPath, slowMknod},
	{on(seccomp.Mknodat), files, 0, 1, no, quickPath, slowMknod},
	{on(seccomp.Symlink), files, no, 1, no, quickSymlink, slowSymlink},
	{on(seccomp.Symlinkat), files, 1, 2, no, quickSymlink, slowSymlink},
	{on(seccomp.Rename), files, no, 0, no, quickTwoPaths, slowTwoPaths},
	{on(seccomp.Renameat), files, 0, 1, no, quickTwoPaths, slowTwoPaths},
	{on(seccomp.Renameat2), files, 0, 1, 4, quickTwoPaths, slowTwoPaths},
	{on(seccomp.Link), files, no, 0, no, quickTwoPaths, slowTwoPaths},
	{on(seccomp.Linkat), files, 0, 1, 4, quickTwoPaths, slowTwoPaths},

	{on(seccomp.Connect), outgoing, no, no, no, quickConnect, slowConnect},
	{seccomp.Rule{Call: seccomp.Sendto, Arg: 4, Test: seccomp.NotNull}, outgoing, no, no, no, quickSendto, slowSendto},
	{seccomp.Rule{Call: seccomp.Recvfrom, Arg: 4, Test: seccomp.NotNull}, outgoing, no, no, no, quickRecvfrom, slowRecvfrom},
	// Their addresses are in memory, which the program cannot see: all of them
	// are trapped, and those without an address carried on.
	{on(seccomp.Sendmsg), datagrams, no, no, no, quickSendmsg, slowSendmsg},
	{on(seccomp.Sendmmsg), datagrams, no, no, no, quickSendmmsg, slowSendmmsg},
	{on(seccomp.Recvmsg), datagrams, no, no, no, quickRecvfrom, slowRecvmsg},
	{on(seccomp.Recvmmsg), datagrams, no, no, no, quickRecvfrom, slowRecvmmsg},
	{on(seccomp.Getsockname), socketNames, no, no, no, quickName, slowName},
	{on(seccomp.Getpeername), socketNames, no, no, no, quickName, slowName},
	{on(seccomp.Bind), binds, no, no, no, quickBind, slowBind},
	{on(seccomp.Listen), incoming, no, no, no, quickListen, slowListen},
	{on(seccomp.Accept), incoming, no, no, no, quickAccept, slowAccept},
	{on(seccomp.Accept4), incoming, no, no, no, quickAccept, slowAccept},

	{on(seccomp.Execve), programs, no, 0, no, quickExec, slowExec},
	{on(seccomp.Execveat), programs, 0, 1, 4, quickExec, slowExec},

	{on(seccomp.Uname), names, no, no, no, quickUname, slowUname},
}
