package seccomp

// A Call is a system call by name, the same on every architecture.
type Call uint8

// The calls a program can name. Which of them are hooked is said by package layer.
const (
	Open Call = iota + 1
	Openat
	Openat2
	Creat
	Stat
	Lstat
	Fstat
	Newfstatat
	Statx
	Statfs
	Access
	Faccessat
	Faccessat2
	Readlink
	Readlinkat
	Chdir
	Fchdir
	Chroot
	Getcwd
	Unlink
	Unlinkat
	Rmdir
	Mkdir
	Mkdirat
	Mknod
	Mknodat
	Rename
	Renameat
	Renameat2
	Link
	Linkat
	Symlink
	Symlinkat
	Chmod
	Fchmodat
	Fchmodat2
	Fchmod
	Fchown
	Chown
	Lchown
	Fchownat
	Truncate
	Utime
	Utimes
	Futimesat
	Utimensat
	Getxattr
	Lgetxattr
	Listxattr
	Llistxattr
	Setxattr
	Lsetxattr
	Removexattr
	Lremovexattr
	Fgetxattr
	Flistxattr
	Fsetxattr
	Fremovexattr
	Getxattrat
	Listxattrat
	Setxattrat
	Removexattrat
	Fstatfs
	NameToHandleAt
	FanotifyMark
	InotifyAddWatch
	Connect
	Bind
	Listen
	Accept
	Accept4
	Getsockname
	Getpeername
	Sendto
	Recvfrom
	Sendmsg
	Recvmsg
	Sendmmsg
	Recvmmsg
	Execve
	Execveat
	Uname
	IoUringSetup
	numCalls
)

// none: the architecture does not have the call.
const none = -1

var calls = [numCalls]struct {
	name         string
	amd64, arm64 int16
}{
	Open:            {"open", 2, none},
	Openat:          {"openat", 257, 56},
	Openat2:         {"openat2", 437, 437},
	Creat:           {"creat", 85, none},
	Stat:            {"stat", 4, none},
	Lstat:           {"lstat", 6, none},
	Fstat:           {"fstat", 5, 80},
	Newfstatat:      {"newfstatat", 262, 79},
	Statx:           {"statx", 332, 291},
	Statfs:          {"statfs", 137, 43},
	Access:          {"access", 21, none},
	Faccessat:       {"faccessat", 269, 48},
	Faccessat2:      {"faccessat2", 439, 439},
	Readlink:        {"readlink", 89, none},
	Readlinkat:      {"readlinkat", 267, 78},
	Chdir:           {"chdir", 80, 49},
	Fchdir:          {"fchdir", 81, 50},
	Chroot:          {"chroot", 161, 51},
	Getcwd:          {"getcwd", 79, 17},
	Unlink:          {"unlink", 87, none},
	Unlinkat:        {"unlinkat", 263, 35},
	Rmdir:           {"rmdir", 84, none},
	Mkdir:           {"mkdir", 83, none},
	Mkdirat:         {"mkdirat", 258, 34},
	Mknod:           {"mknod", 133, none},
	Mknodat:         {"mknodat", 259, 33},
	Rename:          {"rename", 82, none},
	Renameat:        {"renameat", 264, 38},
	Renameat2:       {"renameat2", 316, 276},
	Link:            {"link", 86, none},
	Linkat:          {"linkat", 265, 37},
	Symlink:         {"symlink", 88, none},
	Symlinkat:       {"symlinkat", 266, 36},
	Chmod:           {"chmod", 90, none},
	Fchmodat:        {"fchmodat", 268, 53},
	Fchmodat2:       {"fchmodat2", 452, 452},
	Fchmod:          {"fchmod", 91, 52},
	Fchown:          {"fchown", 93, 55},
	Chown:           {"chown", 92, none},
	Lchown:          {"lchown", 94, none},
	Fchownat:        {"fchownat", 260, 54},
	Truncate:        {"truncate", 76, 45},
	Utime:           {"utime", 132, none},
	Utimes:          {"utimes", 235, none},
	Futimesat:       {"futimesat", 261, none},
	Utimensat:       {"utimensat", 280, 88},
	Getxattr:        {"getxattr", 191, 8},
	Lgetxattr:       {"lgetxattr", 192, 9},
	Listxattr:       {"listxattr", 194, 11},
	Llistxattr:      {"llistxattr", 195, 12},
	Setxattr:        {"setxattr", 188, 5},
	Lsetxattr:       {"lsetxattr", 189, 6},
	Removexattr:     {"removexattr", 197, 14},
	Lremovexattr:    {"lremovexattr", 198, 15},
	Fgetxattr:       {"fgetxattr", 193, 10},
	Flistxattr:      {"flistxattr", 196, 13},
	Fsetxattr:       {"fsetxattr", 190, 7},
	Fremovexattr:    {"fremovexattr", 199, 16},
	Getxattrat:      {"getxattrat", 464, 464},
	Listxattrat:     {"listxattrat", 465, 465},
	Setxattrat:      {"setxattrat", 463, 463},
	Removexattrat:   {"removexattrat", 466, 466},
	Fstatfs:         {"fstatfs", 138, 44},
	NameToHandleAt:  {"name_to_handle_at", 303, 264},
	FanotifyMark:    {"fanotify_mark", 301, 263},
	InotifyAddWatch: {"inotify_add_watch", 254, 27},
	Connect:         {"connect", 42, 203},
	Bind:            {"bind", 49, 200},
	Listen:          {"listen", 50, 201},
	Accept:          {"accept", 43, 202},
	Accept4:         {"accept4", 288, 242},
	Getsockname:     {"getsockname", 51, 204},
	Getpeername:     {"getpeername", 52, 205},
	Sendto:          {"sendto", 44, 206},
	Recvfrom:        {"recvfrom", 45, 207},
	Sendmsg:         {"sendmsg", 46, 211},
	Recvmsg:         {"recvmsg", 47, 212},
	Sendmmsg:        {"sendmmsg", 307, 269},
	Recvmmsg:        {"recvmmsg", 299, 243},
	Execve:          {"execve", 59, 221},
	Execveat:        {"execveat", 322, 281},
	Uname:           {"uname", 63, 160},
	IoUringSetup:    {"io_uring_setup", 425, 425},
}

func (c Call) String() string {
	if c == 0 || c >= numCalls {
		return "unknown"
	}
	return calls[c].name
}

// An Arch is the system call interface of one kind of machine.
type Arch struct {
	audit uint32 // AUDIT_ARCH_*, as seccomp_data.arch tells it
	x32   bool   // the same audit number also stands for x32's calls
	nr    func(Call) int
}

// The architectures the layer knows.
var (
	AMD64 = Arch{0xC000003E, true, func(c Call) int { return int(calls[c].amd64) }}
	ARM64 = Arch{0xC00000B7, false, func(c Call) int { return int(calls[c].arm64) }}
)

// Number returns c's number on a.
func (a Arch) Number(c Call) (nr int, ok bool) {
	n := a.nr(c)
	return n, n != none
}

// Numbers is one more than the highest number.
func (a Arch) Numbers() int {
	most := 0
	for c := Call(1); c < numCalls; c++ {
		most = max(most, a.nr(c))
	}
	return most + 1
}
