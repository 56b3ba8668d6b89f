package mirrord_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The pod's files, which this machine has not.
const (
	podSmall = "/srv/pod/small"
	podLarge = "/srv/pod/large"
	podHuge  = "/srv/pod/huge" // more than is copied
	podDir   = "/srv/pod/dir"
)

// asHelper is main of the processes that the tests without a cluster start of this binary.
func asHelper() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case "be-user":
		fmt.Fprintln(os.Stderr, beUser(os.Args[2], os.Args[3] == "namespaces", os.Args[4:]))
		os.Exit(1)
	case "see-pod":
		if err := json.NewEncoder(os.Stdout).Encode(seePod()); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "write-pod":
		writePod(os.Args[2])
		os.Exit(0)
	case "suite":
		if err := json.NewEncoder(os.Stdout).Encode(asSuite(os.Args[2], os.Args[3])); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "read-tree":
		if err := readTree(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "serve-pod":
		fmt.Fprintln(os.Stderr, servePod(os.Args[2]))
		os.Exit(1)
	}
}

// beUser goes on as a user, who may make user namespaces or not.
func beUser(uid string, namespaces bool, args []string) error {
	id, err := strconv.Atoi(uid)
	if err != nil {
		return err
	}
	if !namespaces {
		// The limit is of the namespace that we are in, our own.
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			return err
		}
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(id), syscall.Setuid(id)); err != nil {
		return err
	}
	return unix.Exec(args[0], args, os.Environ())
}

// An inPod is what a debuggee sees. Errors are told in place of what they kept
// from being seen.
type inPod struct {
	UID          int
	Env          string
	Small        string
	SmallMode    string
	SmallOwner   uint32
	Large        string // its hash
	LargeMapped  string
	LargeSize    int64
	Huge         string // its size
	Names        []string
	FromDir      string // a file opened relative to its directory
	Write        string
	Name         string
	NoName       string
	Answer       string
	Refused      bool
	Child        string
	CleanedChild string
}

func seePod() (p inPod) {
	text := func(b []byte, err error) string {
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	p.UID, p.Env = os.Getuid(), os.Getenv("FROM_POD")
	p.Small = text(os.ReadFile(podSmall))
	if f, err := os.Open(podSmall); err == nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err == nil {
			p.SmallMode, p.SmallOwner = fmt.Sprintf("%o", st.Mode), st.Uid
		}
		f.Close()
	}
	large, err := os.ReadFile(podLarge)
	if p.Large = fmt.Sprintf("%x", sha256.Sum256(large)); err != nil {
		p.Large = err.Error()
	}
	p.LargeMapped, p.LargeSize = mapPod()
	if f, err := os.Open(podHuge); err != nil {
		p.Huge = err.Error()
	} else {
		size, err := f.Seek(0, io.SeekEnd)
		p.Huge = text(fmt.Append(nil, size), err)
		f.Close()
	}
	entries, err := os.ReadDir(podDir)
	for _, e := range entries {
		p.Names = append(p.Names, fmt.Sprint(e.Name(), " ", e.Type()))
	}
	slices.Sort(p.Names)
	if err != nil {
		p.Names = []string{err.Error()}
	}
	if dir, err := os.OpenRoot(podDir); err != nil {
		p.FromDir = err.Error()
	} else {
		p.FromDir = text(dir.ReadFile("sub/file"))
		dir.Close()
	}
	p.Write = text(nil, os.WriteFile(podSmall, []byte("x"), 0o644))
	addrs, err := net.LookupHost("other.example")
	p.Name = text(fmt.Append(nil, addrs), err)
	if _, err := net.LookupHost("none.example"); err != nil {
		dns, ok := errors.AsType[*net.DNSError](err)
		p.NoName = fmt.Sprint("not found: ", ok && dns.IsNotFound)
	}
	p.Answer = text(talk("other.example:8080"))
	_, err = talk(podAddr + ":1")
	p.Refused = errors.Is(err, unix.ECONNREFUSED)
	p.Child = text(exec.Command("cat", podSmall).CombinedOutput())
	cleaned := exec.Command("cat", podSmall)
	cleaned.Env = []string{}
	p.CleanedChild = text(cleaned.CombinedOutput())
	return p
}

func mapPod() (hash string, size int64) {
	f, err := os.Open(podLarge)
	if err != nil {
		return err.Error(), 0
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error(), 0
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return err.Error(), 0
	}
	return fmt.Sprintf("%x", sha256.Sum256(b)), info.Size()
}

// writePod changes files below a directory, and tells what came of each step.
func writePod(dir string) {
	unix.Umask(0o027)
	name := func(n string) string { return dir + "/" + n }
	step := func(what string, err error) bool {
		if fmt.Printf("%s: %v\n", what, cmp.Or[any](err, "done")); err != nil {
			return false
		}
		return true
	}
	defer fmt.Println("end")
	read := func(at string) {
		if b, err := os.ReadFile(name(at)); err != nil {
			step("read", err)
		} else {
			fmt.Printf("read: %s\n", strings.ReplaceAll(string(b), "\n", "\\n"))
		}
	}
	step("mkdir", os.Mkdir(dir, 0o777))
	f, err := os.OpenFile(name("new"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if !step("create", err) {
		step("mknod", unix.Mknod(name("new"), unix.S_IFREG|0o666, 0))
		step("rename", os.Rename(name("new"), name("renamed")))
		step("chmod", os.Chmod(name("renamed"), 0o604))
		read("renamed")
		return
	}
	_, err = f.WriteString("one\ntwo\n")
	step("write", err)
	more, err := os.OpenFile(name("new"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = more.WriteString("three\n")
		err = errors.Join(err, more.Close())
	}
	step("append", err)
	b, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil {
		b[1] = 'N'
		err = errors.Join(unix.Msync(b, unix.MS_SYNC), unix.Munmap(b))
	}
	step("map", err)
	step("truncate", f.Truncate(10))
	step("chmod", f.Chmod(0o640))
	step("chown", f.Chown(1234, 5678))
	step("sync", f.Sync())
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		step("of it", err)
	} else {
		fmt.Printf("of it: %o %d:%d %d\n", st.Mode&0o7777, st.Uid, st.Gid, st.Size)
	}
	step("close", f.Close())
	_, err = os.OpenFile(name("new"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	step("again", err)
	temporary, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if step("temporary", err) {
		_, err = temporary.WriteString("temporary")
		step("link", errors.Join(err, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", temporary.Fd()), unix.AT_FDCWD, name("linked"), unix.AT_SYMLINK_FOLLOW)))
		temporary.Close()
	}
	step("rename", os.Rename(name("new"), name("renamed")))
	read("renamed")
}

// talk reads what a server says.
func talk(addr string) ([]byte, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	return io.ReadAll(conn)
}

// servePod listens and has a child in a session of its own.
func servePod(addr string) error {
	child := exec.Command("sleep", "1000")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return say(l, fmt.Sprintf("user %d", os.Getuid()))
}

// say tells each connection the same.
func say(l net.Listener, words string) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		io.WriteString(c, words)
		c.Close()
	}
}
