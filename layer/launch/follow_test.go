package launch

import (
	"os"
	"strings"
	"testing"

	wire "mirrord/protocol/layer"
)

// What is open and grows in the target is seen to grow, by a reader that does not
// open it again: with a lease, without one, and when it has become larger than
// what comes with an open. What is replaced stays as it was.
func TestGrowingFiles(t *testing.T) {
	for name, leases := range map[string]bool{"leases": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Leases = leases
			w.write(t, "/app/log", "one\n")
			w.write(t, "/app/replaced", "old\n")
			large := strings.Repeat("x", 1<<17) + "\n"
			steps := map[string]func() error{
				"/step/1": func() error { return add(w.Root+"/app/log", "two\n") },
				"/step/2": func() error { return add(w.Root+"/app/log", large) },
				"/step/3": func() error { return add(w.Root+"/app/log", "last\n") },
				"/step/4": func() error {
					if err := os.WriteFile(w.Root+"/app/new", []byte("new\n"), 0o644); err != nil {
						return err
					}
					return os.Rename(w.Root+"/app/new", w.Root+"/app/replaced")
				},
				"/step/5": func() error { return os.WriteFile(w.Root+"/app/log", []byte("again\n"), 0o644) },
			}
			w.Hold = func(q *wire.Request) {
				if step := steps[q.Path]; q.Op == wire.OpStatfs && step != nil {
					if err := step(); err != nil {
						t.Error(err)
					}
					w.Expire()
				}
			}
			w.want(t, "one two 131073 last 131086 old new again 6\n", "python3", "-c", `
import os, time
log, replaced = open("/app/log", "rb"), open("/app/replaced", "rb", 0)
def step(n):
    try: os.statvfs("/step/%d" % n)
    except OSError: pass
def line():
    text = b""
    end = time.monotonic() + 30
    while text[-1:] != b"\n" and time.monotonic() < end:
        text += log.readline()
        time.sleep(0.01)
    return text[:-1].decode()
seen = [line()]
step(1); seen.append(line())
step(2); seen.append(len(line()) + 1)
step(3); seen += [line(), os.fstat(log.fileno()).st_size]
step(4)
end = time.monotonic() + 30
while open("/app/replaced").read() != "new\n" and time.monotonic() < end: time.sleep(0.01)
seen += [replaced.read().decode()[:-1], open("/app/replaced").read()[:-1]]
step(5)
while os.fstat(log.fileno()).st_size != 6 and time.monotonic() < end: time.sleep(0.01)
log.seek(0)
seen += [line(), os.fstat(log.fileno()).st_size]
print(*seen)`)
		})
	}
}

func add(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// What has grown while it was open is still the target's to change, or nobody's.
func TestFollowedFilesAreChangedThere(t *testing.T) {
	for mode, want := range map[string]string{"read": "EROFS EROFS 0o644", "write": "done done 0o600"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			w.Leases = true
			w.policy.FSMode = mode
			w.write(t, "/app/log", "one\n")
			w.Hold = func(q *wire.Request) {
				if q.Op == wire.OpStatfs && q.Path == "/more" {
					if err := add(w.Root+"/app/log", "two\n"); err != nil {
						t.Error(err)
					}
					w.Expire()
				}
			}
			w.want(t, want+"\n", "python3", "-c", `
import errno, os, time
def do(f, *args):
    try: f(*args); return "done"
    except OSError as e: return errno.errorcode[e.errno]
log = os.open("/app/log", os.O_RDONLY)
do(os.statvfs, "/more")
end = time.monotonic() + 30
while os.pread(log, 9, 0) != b"one\ntwo\n" and time.monotonic() < end: time.sleep(0.01)
print(do(os.fchmod, log, 0o600), do(os.utime, log, (1, 2)), oct(os.fstat(log).st_mode & 0o777))`)
			st, err := os.Stat(w.Root + "/app/log")
			if err != nil || mode == "write" && (st.Mode().Perm() != 0o600 || st.ModTime().Unix() != 2) {
				t.Errorf("the target's is %v of %v, %v", st.Mode(), st.ModTime(), err)
			}
		})
	}
}

// What stands for a small file is nobody's to write to, by whatever way it is
// opened anew, and is still seen to grow.
func TestFilesInMemoryAreNotWritten(t *testing.T) {
	w := newWorld(t)
	w.write(t, "/app/log", "one\n")
	if err := os.Chmod(w.Root+"/app/log", 0o666); err != nil {
		t.Fatal(err)
	}
	w.Hold = func(q *wire.Request) {
		if q.Op == wire.OpStatfs && q.Path == "/more" {
			if err := add(w.Root+"/app/log", "two\n"); err != nil {
				t.Error(err)
			}
		}
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to be refused as root and as another")
	}
	dir, err := os.MkdirTemp("", "links")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	refused := strings.Repeat("EPERM ", 5) + "EPERM\n"
	for _, id := range []string{"0", "1000"} {
		w.write(t, "/app/log", "one\n")
		w.want(t, refused+"b'one\\ntwo\\n' True 0o100666 0o100444\n"+refused, "python3", "-c", `
import errno, os, sys, time
log = os.open("/app/log", os.O_RDONLY)
link, way = "%s/link%s" % tuple(sys.argv[1:]), "%s/way%s" % tuple(sys.argv[1:])
os.symlink("/proc/self/fd/%d" % log, link); os.symlink("/proc/self/fd", way)
os.setresuid(*3 * [int(sys.argv[2])])
def do(f, *args):
    try: f(*args); return "done"
    except OSError as e: return errno.errorcode[e.errno]
def writes():
    print(*(do(os.open, p, flags) for p in (link, "%s/%d" % (way, log)) for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC)), do(os.truncate, link, 0), do(os.chmod, link, 0o777))
writes()
do(os.statvfs, "/more")
end = time.monotonic() + 30
while os.pread(log, 9, 0) != b"one\ntwo\n" and time.monotonic() < end: time.sleep(0.01)
print(os.pread(log, 9, 0), open(link).read() == open("/app/log").read(), oct(os.fstat(log).st_mode), oct(os.stat(link).st_mode))
writes()
`, dir, id)
	}
}

// coreutils' tail polls what it cannot watch.
func TestTail(t *testing.T) {
	w := newWorld(t)
	w.Leases = true
	w.write(t, "/app/log", "one\n")
	seen := 0
	w.Hold = func(q *wire.Request) {
		if q.Op == wire.OpStatfs && q.Path == "/more" {
			if seen++; seen == 1 {
				if err := add(w.Root+"/app/log", "two\nthree\n"); err != nil {
					t.Error(err)
				}
				w.Expire()
			}
		}
	}
	w.want(t, "one\ntwo\nthree\n", "bash", "-c", `
timeout 30 tail -f /app/log > out & 
until [ -s out ]; do sleep 0.05; done
stat -f /more
until [ $(wc -l < out) = 3 ]; do sleep 0.05; kill -0 $! || exit 1; done
kill $!; cat out; true`)
}

// The debuggee cannot change what it was given, whatever it calls it.
func TestFollowedFilesAreNotWritten(t *testing.T) {
	w := newWorld(t)
	w.Leases = true
	w.want(t, "30 9 "+strings.Repeat("30 30 ", 10)+"color: blue\n", "python3", "-c", `
import os, threading
fd = os.open("/etc/shop/config.yaml", 0)
def errno(call, *args):
    try: call(*args); return "done"
    except OSError as e: return e.errno
print(errno(os.open, "/proc/self/fd/%d" % fd, os.O_RDWR), errno(os.write, fd, b"x"), end=" ", flush=True)
def each(names):
    for name in names: print(errno(os.open, name % fd, os.O_RDWR), errno(os.truncate, name % fd, 0), end=" ", flush=True)
me = os.getpid()
each(["/dev/fd/%d", "/proc//self/./fd/%d", f"/proc/{me}/task/{me}/fd/%d", "/proc/self/task/%d/fd/%%d" % me, "/proc/thread-self/fd/%d"])
t = threading.Thread(target=each, args=(["/proc/thread-self/fd/%d", f"/proc/self/task/{me}/fd/%d"],)); t.start(); t.join()
if not (child := os.fork()):
    os.close(fd)
    each([f"/proc/{me}/fd/%d", f"/proc/{me}/task/{me}/fd/%d"])
    os._exit(0)
os.waitpid(child, 0)
os.chdir("/proc/self/fd")
each(["%d"])
print(open("/etc/shop/config.yaml").read(), end="")`)
}

// What is known is kept no longer than the configuration says.
func TestCacheTime(t *testing.T) {
	for limit, want := range map[int]int{0: 3, 3600: 1} {
		w := newWorld(t)
		w.Leases = true
		w.policy.CacheTime = &limit
		w.want(t, "bbbbbb", "python3", "-c", `
import os
for _ in range(3): os.write(1, open("/app/dir/b", "rb", 0).read())`)
		if n := w.Asked(wire.OpOpen, "/app/dir/b"); n != want {
			t.Errorf("kept for %d s: asked %d times for 3 opens, want %d", limit, n, want)
		}
	}
}
