package layer

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"mirrord/layer/seccomp"
)

//go:generate go test -run TestCallsTable -update .

var update = flag.Bool("update", false, "write docs/calls.md anew")

const callsTable = "../docs/calls.md"

// words say what a hook does about what is Remote: in mode read, and in mode
// write (or with fs.read_write) where that is something else.
type words struct{ read, write string }

const (
	erofs   = "EROFS, or what else is wrong with it"
	asOwner = "done in the target, as its user"
	opens   = "opens the target's file: a real descriptor. For writing: EROFS"
	opensRW = "for writing as well"
	tells   = "the target's attributes"
)

var said = map[seccomp.Call]words{
	seccomp.Open:            {opens, opensRW},
	seccomp.Openat:          {opens, opensRW},
	seccomp.Openat2:         {opens + ". RESOLVE_BENEATH, IN_ROOT, NO_SYMLINKS, NO_XDEV, NO_MAGICLINKS as here, in the target; CACHED: EAGAIN. Below a path that is mapped to another: ENOSYS", opensRW},
	seccomp.Creat:           {"EROFS", "makes the file"},
	seccomp.Stat:            {tells, ""},
	seccomp.Lstat:           {tells, ""},
	seccomp.Fstat:           {"of a descriptor of the target's file: its attributes there", ""},
	seccomp.Newfstatat:      {tells, ""},
	seccomp.Statx:           {tells, ""},
	seccomp.Statfs:          {"the target's, for reading only", "the target's"},
	seccomp.Fstatfs:         {"as statfs", ""},
	seccomp.Access:          {"asks for the target's user; W_OK: EROFS", "W_OK too"},
	seccomp.Faccessat:       {"as access", "as access"},
	seccomp.Faccessat2:      {"as access, with AT_EMPTY_PATH of a descriptor", "as access"},
	seccomp.Readlink:        {"the target's link; of /proc/self/fd/N the target's path", ""},
	seccomp.Readlinkat:      {"as readlink, with an empty path of an O_PATH descriptor", ""},
	seccomp.Chdir:           {"goes there, on x86-64; under a debugger ENOTSUP, and the user is told", ""},
	seccomp.Fchdir:          {"as chdir, to an O_PATH descriptor", ""},
	seccomp.Getcwd:          {"of a directory of the target: its path there", ""},
	seccomp.Chroot:          {"ENOTSUP, and the user is told", ""},
	seccomp.InotifyAddWatch: {"ENOTSUP: changes in the target are not told; programs poll (`tail -f`)", ""},
	seccomp.FanotifyMark:    {"ENOTSUP", ""},
	seccomp.NameToHandleAt:  {"ENOTSUP, so that nothing is there for open_by_handle_at", ""},
	seccomp.Getxattr:        {"the target's, as its user may read them", ""},
	seccomp.Lgetxattr:       {"as getxattr", ""},
	seccomp.Fgetxattr:       {"as getxattr, by the path that was opened", ""},
	seccomp.Listxattr:       {"the target's, as its user may know them", ""},
	seccomp.Llistxattr:      {"as listxattr", ""},
	seccomp.Flistxattr:      {"as listxattr, by the path that was opened", ""},
	seccomp.Getxattrat:      {"ENOSYS: programs use getxattr", ""},
	seccomp.Listxattrat:     {"ENOSYS: programs use listxattr", ""},
	seccomp.Setxattrat:      {"ENOSYS: programs use setxattr", ""},
	seccomp.Removexattrat:   {"ENOSYS: programs use removexattr", ""},
	seccomp.Setxattr:        {erofs, "ENOTSUP"},
	seccomp.Lsetxattr:       {erofs, "ENOTSUP"},
	seccomp.Fsetxattr:       {erofs, "ENOTSUP"},
	seccomp.Removexattr:     {erofs, "ENOTSUP"},
	seccomp.Lremovexattr:    {erofs, "ENOTSUP"},
	seccomp.Fremovexattr:    {erofs, "ENOTSUP"},
	seccomp.Unlink:          {erofs, asOwner},
	seccomp.Unlinkat:        {erofs, asOwner},
	seccomp.Rmdir:           {erofs, asOwner},
	seccomp.Mkdir:           {erofs, asOwner},
	seccomp.Mkdirat:         {erofs, asOwner},
	seccomp.Mknod:           {erofs, asOwner + "; devices and sockets: EPERM"},
	seccomp.Mknodat:         {erofs, asOwner},
	seccomp.Rename:          {erofs + "; between the target and this machine EXDEV", asOwner + ", in the target only: else EXDEV, as between what may be changed there and what may not"},
	seccomp.Renameat:        {"as rename", asOwner},
	seccomp.Renameat2:       {"as rename", asOwner},
	seccomp.Link:            {"as rename", asOwner},
	seccomp.Linkat:          {"as rename", asOwner + "; of a file that has no name (O_TMPFILE), too"},
	seccomp.Symlink:         {erofs, asOwner},
	seccomp.Symlinkat:       {erofs, asOwner},
	seccomp.Chmod:           {erofs, asOwner},
	seccomp.Fchmodat:        {erofs, asOwner},
	seccomp.Fchmodat2:       {erofs, asOwner},
	seccomp.Fchmod:          {"of a descriptor of the target's file: " + erofs, asOwner},
	seccomp.Fchown:          {"as fchmod", asOwner},
	seccomp.Chown:           {erofs, asOwner},
	seccomp.Lchown:          {erofs, asOwner},
	seccomp.Fchownat:        {erofs, asOwner},
	seccomp.Truncate:        {erofs, asOwner},
	seccomp.Utime:           {erofs, asOwner},
	seccomp.Utimes:          {erofs, asOwner},
	seccomp.Futimesat:       {erofs, asOwner},
	seccomp.Utimensat:       {erofs + "; of a descriptor, too", asOwner},

	seccomp.Connect:     {"connects from the target: the socket itself, to a loopback endpoint. A unix socket: on this machine", ""},
	seccomp.Sendto:      {"with an address: sends from the target", ""},
	seccomp.Recvfrom:    {"with room for an address: tells the real peer's", ""},
	seccomp.Sendmsg:     {"as sendto", ""},
	seccomp.Sendmmsg:    {"as sendto", ""},
	seccomp.Recvmsg:     {"as recvfrom", ""},
	seccomp.Recvmmsg:    {"as recvfrom, one message at a time", ""},
	seccomp.Getsockname: {"the address that the socket has in the target", ""},
	seccomp.Getpeername: {"the peer that the target sees", ""},
	seccomp.Bind:        {"binds on loopback. A unix socket is made on this machine, whosever its directory is, and while it is there its path is this machine's for every call; where such a path has a socket that no process has, it is removed before", ""},
	seccomp.Listen:      {"waits until the target's port is taken, or copied; of two listeners of a port, one for each family, each gets its family's clients", ""},
	seccomp.Accept:      {"tells the real client's address; of an IPv6 client, where the debuggee listens on IPv4 alone, 0.0.0.0 and its port", ""},
	seccomp.Accept4:     {"as accept", ""},
	seccomp.Execve:      {"of a program that is the target's: EACCES, or ENOENT where it has none, and the user is told", ""},
	seccomp.Execveat:    {"as execve", ""},
	seccomp.Uname:       {"the target's host name", ""},
}

// docs/calls.md has every hook, and says what it does.
func TestCallsTable(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`<!-- Code generated by go generate ./layer; DO NOT EDIT. -->
# What is done with a call

mirrord looks at these calls of a debuggee and its children, and at no others: reading, writing and waiting
go on at the kernel's own speed. What is yours (Local) the kernel carries out as it is, as if nobody had asked; so
it does everything with ` + "`--fs-mode local`" + `, but for the resolver's files. The tables say what comes of what is the
target's (Remote); ` + "`mirrord explain`" + ` tells which of both something is, whichever call asks.

A path is judged as it is asked for, and its links are followed on the side where it is: a link of your machine
leads to files of your machine, and one of the target to the target's. ` + "`..`" + ` out of a directory of the target
stays there. A path that is mapped to one of this machine is opened, looked at (stat, access, readlink) and listed
here; all else that is done to it fails with EIO, and the user is told. A path through a descriptor of the target's file (` + "`/proc/self/fd/3`" + `, ` + "`/dev/fd/3/x`" + `, an empty path with
AT_EMPTY_PATH) or through the working directory (` + "`/proc/self/cwd`" + `) is the target's, if they are; one through
` + "`/proc/self/root`" + ` is judged as without it. O_PATH gives a descriptor that does all this and cannot be read; only
` + "`fcntl(F_GETFL)`" + ` tells another thing of it. On doubt a call fails with EIO, and is never carried out here.

io_uring_setup is answered ENOSYS always: what a ring opens and connects nobody sees. Programs then do without.
`)
	title := map[group]string{files: "Files", outgoing: "Network", programs: "Programs", names: "Names"}
	known := map[seccomp.Call]bool{}
	for _, h := range hooks {
		w, ok := said[h.Call]
		if !ok || w.read == "" {
			t.Errorf("nothing is said of %v: add it to said", h.Call)
		}
		if known[h.Call] {
			t.Errorf("%v has two hooks", h.Call)
		}
		known[h.Call] = true
		if text := title[h.group]; text != "" {
			delete(title, h.group)
			fmt.Fprintf(&b, "\n## %s\n\n", text)
			if h.group == files {
				b.WriteString("| call | mode read | mode write |\n|---|---|---|\n")
			} else {
				b.WriteString("| call | what is done |\n|---|---|\n")
			}
		}
		fmt.Fprintf(&b, "| %v | %s |", h.Call, w.read)
		if h.group == files {
			if w.write == "" {
				w.write = "the same"
			}
			fmt.Fprintf(&b, " %s |", w.write)
		}
		b.WriteString("\n")
	}
	for c := range said {
		if !known[c] {
			t.Errorf("of %v something is said, and it has no hook", c)
		}
	}
	if *update {
		if err := os.WriteFile(callsTable, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(callsTable)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not what the hooks say: go generate ./layer writes it", strings.TrimPrefix(callsTable, "../"))
	}
}
