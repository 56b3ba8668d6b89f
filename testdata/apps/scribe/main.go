// Command scribe does random things to a file and to its double, by two
// descriptors of each and by name, and compares what comes of them.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A scribe has one file twice: as it is tested, and as it should be.
type scribe struct {
	*rand.Rand
	names  [2]string
	opened [2]int // how often; where a name has %d, that is put there
	fds    [2][2]int
	max    int
	done   []string
}

const (
	tested = iota
	double
)

func main() {
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of what is random")
	ops := flag.Int("ops", 2000, "how many things to do")
	long := flag.Duration("for", 0, "for how long, instead")
	size := flag.Int("max", 300_000, "the file's greatest size")
	flag.Parse()
	s := &scribe{Rand: rand.New(rand.NewPCG(*seed, 0)), names: [2]string{flag.Arg(0), flag.Arg(1)}, max: *size}
	for i := range s.fds {
		s.open(i, unix.O_CREAT|unix.O_TRUNC)
	}
	begin := time.Now()
	n := 0
	for ; *long == 0 && n < *ops || time.Since(begin) < *long; n++ {
		if err := s.step(); err != nil {
			fail(*seed, n, s.done, err)
		}
		if n%100 == 99 {
			if err := s.compare(); err != nil {
				fail(*seed, n, s.done, err)
			}
		}
	}
	if err := s.compare(); err != nil {
		fail(*seed, n, s.done, err)
	}
	for i := range s.fds {
		s.close(i)
	}
	fmt.Println("alike after", n)
}

func fail(seed uint64, n int, done []string, err error) {
	fmt.Printf("seed %d, after %d: %v\n%s\n", seed, n, err, strings.Join(done[max(0, len(done)-12):], "\n"))
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func (s *scribe) open(i, flags int) {
	for which, name := range s.names {
		how := flags
		if strings.Contains(name, "%d") {
			s.opened[which]++
			name = fmt.Sprintf(name, s.opened[which])
			how &^= unix.O_CREAT | unix.O_TRUNC
		}
		fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC|how, 0o640)
		must(err)
		s.fds[i][which] = fd
	}
}

func (s *scribe) close(i int) {
	for _, fd := range s.fds[i] {
		must(unix.Close(fd))
	}
}

// both does f to either file, and tells where it differs.
func (s *scribe) both(i int, what string, f func(fd int) (int, error)) error {
	s.done = append(s.done, fmt.Sprintf("%d: %s", i, what))
	want, wantErr := f(s.fds[i][double])
	if wantErr == unix.EOPNOTSUPP {
		return nil
	}
	got, err := f(s.fds[i][tested])
	if got != want || err != wantErr {
		return fmt.Errorf("%s: %d, %v; want %d, %v", what, got, err, want, wantErr)
	}
	return nil
}

func (s *scribe) size(i int) int {
	var st unix.Stat_t
	must(unix.Fstat(s.fds[i][double], &st))
	return int(st.Size)
}

func (s *scribe) bytes(n int) []byte {
	b := make([]byte, n)
	for j := range b {
		b[j] = byte(s.Uint32())
	}
	return b
}

func (s *scribe) step() error {
	i, size := s.IntN(2), 0
	size = s.size(i)
	off := s.IntN(s.max)
	n := 1 + s.IntN(min(1<<s.IntN(18), s.max-off))
	ops := 24
	if s.named() {
		ops = 31
	}
	switch op := s.IntN(ops); op {
	case 0, 1, 2, 3, 4:
		b := s.bytes(n)
		if size+n > s.max { // it may append
			return s.truncate(i, s.IntN(s.max/2))
		}
		return s.both(i, fmt.Sprintf("write %d at %d", n, off), func(fd int) (int, error) { return unix.Pwrite(fd, b, int64(off)) })
	case 5, 6, 7, 8:
		return s.read(i, off, n)
	case 9:
		return s.truncate(i, off)
	case 10:
		return s.both(i, "fsync", func(fd int) (int, error) { return 0, unix.Fsync(fd) })
	case 11:
		return s.both(i, "fdatasync", func(fd int) (int, error) { return 0, unix.Fdatasync(fd) })
	case 12, 13, 14:
		return s.mapped(i, off, n, size, true)
	case 15, 16:
		return s.mapped(i, off, n, size, false)
	case 17:
		mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE}[s.IntN(4)]
		return s.both(i, fmt.Sprintf("fallocate %d %d at %d", mode, n, off), func(fd int) (int, error) {
			return 0, unix.Fallocate(fd, mode, int64(off), int64(n))
		})
	case 18:
		return s.copy(i, off, n, size)
	case 19:
		s.done = append(s.done, fmt.Sprintf("%d: fstat", i))
		return s.fstat(i, nil)
	case 20:
		return s.both(i, "lseek to the end", func(fd int) (int, error) {
			off, err := unix.Seek(fd, 0, 2)
			return int(off), err
		})
	case 21:
		mode := uint32(0o600 + s.IntN(0o200))
		return s.both(i, fmt.Sprintf("fchmod %o", mode), func(fd int) (int, error) {
			var st unix.Stat_t
			err := unix.Fchmod(fd, mode)
			if err == nil {
				err = unix.Fstat(fd, &st)
			}
			return int(st.Mode), err
		})
	case 22, 23:
		s.reopen(i)
		return nil
	default:
		return s.byName(i, op, off)
	}
}

func (s *scribe) reopen(i int) {
	s.done = append(s.done, fmt.Sprintf("%d: reopen", i))
	s.close(i)
	s.open(i, unix.O_CREAT|[]int{0, 0, unix.O_APPEND, unix.O_DSYNC}[s.IntN(4)])
}

// named tells whether the files have names to do things by.
func (s *scribe) named() bool { return !strings.Contains(s.names[tested], "%d") }

// byName does something to whatever has the name, which the descriptors may not be of
// any more, and compares what they tell.
func (s *scribe) byName(i, op, size int) error {
	var what string
	var do func(name string) error
	var mtime *unix.Timespec
	switch op {
	case 24:
		what = fmt.Sprintf("truncate to %d", size)
		do = func(name string) error { return unix.Truncate(name, int64(size)) }
	case 25:
		mode := uint32(0o600 + s.IntN(0o200))
		what = fmt.Sprintf("chmod %o", mode)
		do = func(name string) error { return unix.Chmod(name, mode) }
	case 26:
		mtime = &unix.Timespec{Sec: s.Int64N(1 << 30), Nsec: s.Int64N(1e9)}
		what = fmt.Sprintf("utimens %v", *mtime)
		do = func(name string) error { return unix.UtimesNano(name, []unix.Timespec{*mtime, *mtime}) }
	case 27:
		what = "link"
		do = func(name string) error { return unix.Link(name, name+".link") }
	case 28:
		what = "unlink the link"
		do = func(name string) error { return unix.Unlink(name + ".link") }
	case 29:
		b := s.bytes(1 + s.IntN(100))
		what = fmt.Sprintf("rename another of %d over it", len(b))
		do = func(name string) error {
			if err := os.WriteFile(name+".new", b, 0o640); err != nil {
				return err
			}
			return unix.Rename(name+".new", name)
		}
	default:
		what = "unlink"
		do = unix.Unlink
	}
	s.done = append(s.done, what+" by name")
	want, got := do(s.names[double]), do(s.names[tested])
	if got != want {
		return fmt.Errorf("%s by name: %v; want %v", what, got, want)
	}
	for fds := range s.fds {
		if err := s.fstat(fds, mtime); err != nil {
			return err
		}
	}
	if op == 30 { // or the rest has no name
		s.reopen(i)
	}
	return nil
}

// fstat compares what is told of either file: mtime, where it was set to that.
func (s *scribe) fstat(i int, mtime *unix.Timespec) error {
	var st [2]unix.Stat_t
	for which, fd := range s.fds[i] {
		if err := unix.Fstat(fd, &st[which]); err != nil {
			return fmt.Errorf("fstat: %w", err)
		}
	}
	got, want := st[tested], st[double]
	if got.Mode != want.Mode || got.Size != want.Size || got.Nlink != want.Nlink {
		return fmt.Errorf("fstat of %d: mode %o, %d bytes, %d links; want %o, %d, %d", i, got.Mode, got.Size, got.Nlink, want.Mode, want.Size, want.Nlink)
	}
	if mtime != nil && want.Mtim == *mtime && got.Mtim != *mtime {
		return fmt.Errorf("fstat of %d: mtime %v, want %v", i, got.Mtim, *mtime)
	}
	return nil
}

func (s *scribe) truncate(i, size int) error {
	return s.both(i, fmt.Sprintf("truncate to %d", size), func(fd int) (int, error) { return 0, unix.Ftruncate(fd, int64(size)) })
}

func (s *scribe) read(i, off, n int) error {
	var got [2][]byte
	err := s.both(i, fmt.Sprintf("read %d at %d", n, off), func(fd int) (int, error) {
		b := make([]byte, n)
		n, err := unix.Pread(fd, b, int64(off))
		which := tested
		if fd == s.fds[i][double] {
			which = double
		}
		got[which] = b[:max(n, 0)]
		return n, err
	})
	if err != nil {
		return err
	}
	return alike(got, off)
}

// mapped writes or reads what is there of a range, by a mapping.
func (s *scribe) mapped(i, off, n, size int, write bool) error {
	n = min(n, size-off)
	if n <= 0 {
		return nil
	}
	begin := off &^ (os.Getpagesize() - 1)
	b := s.bytes(n)
	sync, private := s.IntN(3) == 0, !write && s.IntN(2) == 0
	s.done = append(s.done, fmt.Sprintf("%d: map %d at %d, write %v, sync %v", i, n, off, write, sync))
	var got [2][]byte
	for which, fd := range s.fds[i] {
		flags := unix.MAP_SHARED
		if private {
			flags = unix.MAP_PRIVATE
		}
		m, err := unix.Mmap(fd, int64(begin), off-begin+n, unix.PROT_READ|unix.PROT_WRITE, flags)
		if err != nil {
			return fmt.Errorf("mmap: %w", err)
		}
		if write {
			copy(m[off-begin:], b)
		}
		if sync {
			if err := unix.Msync(m, unix.MS_SYNC); err != nil {
				return fmt.Errorf("msync: %w", err)
			}
		}
		got[which] = bytes.Clone(m[off-begin:])
		must(unix.Munmap(m))
	}
	return alike(got, off)
}

func (s *scribe) copy(i, off, n, size int) error {
	n = min(n, size-off)
	to := s.IntN(s.max)
	if n <= 0 || to < off+n && off < to+n || to+n > s.max {
		return nil
	}
	return s.both(i, fmt.Sprintf("copy %d from %d to %d", n, off, to), func(fd int) (int, error) {
		out := fd // an appending one is refused
		from, at := int64(off), int64(to)
		left := n
		for left > 0 {
			done, err := unix.CopyFileRange(fd, &from, out, &at, left, 0)
			if err != nil || done == 0 {
				return n - left, err
			}
			left -= done
		}
		return n, nil
	})
}

func (s *scribe) compare() error {
	for i := range s.fds {
		if err := s.read(i, 0, s.max+1); err != nil {
			return err
		}
	}
	return nil
}

func alike(got [2][]byte, off int) error {
	if bytes.Equal(got[tested], got[double]) {
		return nil
	}
	if len(got[tested]) != len(got[double]) {
		return fmt.Errorf("%d bytes at %d, want %d", len(got[tested]), off, len(got[double]))
	}
	for j := range got[tested] {
		if got[tested][j] != got[double][j] {
			return fmt.Errorf("byte %d of %d at %d is %#x, want %#x", off+j, len(got[tested]), off, got[tested][j], got[double][j])
		}
	}
	return nil
}
