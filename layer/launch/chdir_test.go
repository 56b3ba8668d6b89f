package launch

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

// canSteer skips the test where no directory of the target can be a working directory.
func canSteer(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("a thread is steered on amd64 only")
	}
}

// A directory of the target is a working directory: names are relative to it,
// children have it, and it is called as in the target.
func TestWorkingDirectory(t *testing.T) {
	canSteer(t)
	w := newWorld(t)
	w.policy.FSMode = "write"
	if err := os.MkdirAll(w.Root+"/app/deep/er", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("deep/er", w.Root+"/app/down"); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"cd /app/dir && cat b && ls":                                       "bba\nb\n",
		"cd /app/dir; /bin/pwd; cd ..; /bin/pwd; cat dir/a":                "/app/dir\n/app\na",
		"cd /app/dir && (cd / && /bin/pwd) && /bin/pwd && sh -c 'cat ./b'": "/\n/app/dir\nbb",
		"cd -P /app/down && /bin/pwd && cat ../../dir/a":                   "/app/deep/er\na",
		"cd /app/dir && readlink /proc/self/cwd":                           "/app/dir\n",
		"cd /app/dir && cat /proc/self/cwd/a /proc/$$/cwd/b && ls /proc/self/cwd /proc/self/cwd/ //proc/./self/cwd/../dir":  "abb//proc/./self/cwd/../dir:\na\nb\n\n/proc/self/cwd:\na\nb\n\n/proc/self/cwd/:\na\nb\n",
		"cd /app/dir && echo new > /proc/self/cwd/c && stat -Lc %F /proc/self/cwd && rm /proc/thread-self/cwd/c && ls":      "directory\na\nb\n",
		"cat /proc/self/root/app/dir/a; cd /app; cat /proc/self/root/proc/thread-self/root/app/dir/b /proc/self/cwd/dir/a":  "abba",
		"readlink /proc/self/root; test -e /proc/self/root/app/none || echo none; cd /proc/self && exec cat root/app/dir/a": "/\nnone\na",
		"mkdir -p /app/p/q/r && cd /app/p && ls -R . && rm -r q && ls":                                                      ".:\nq\n\n./q:\nr\n\n./q/r:\n",
		"cd /app/none 2>/dev/null; cd /app/big 2>/dev/null; pwd":                                                            w.dir + "\n",
		"cd /app && env -C dir cat a; find dir -name b":                                                                     "adir/b\n",
		`python3 -c 'import os; os.chdir(os.open("/app/dir", os.O_PATH)); print(os.getcwd(), os.stat("b").st_size)'`:        "/app/dir 2\n",
	} {
		w.want(t, want, "/bin/sh", "-c", command)
	}
	w.want(t, "/app/dir b ERANGE /app/dir 2 /app/dir\n", "python3", "-c", `
import ctypes, errno, os, subprocess, threading
fds = lambda: len(os.listdir("/proc/self/fd"))
before = fds()
t = threading.Thread(target=os.chdir, args=("/app/dir",)); t.start(); t.join()
libc = ctypes.CDLL(None, use_errno=True)
b = ctypes.create_string_buffer(5)
none = errno.errorcode[ctypes.get_errno()] if libc.getcwd(b, 5) is None or not libc.getcwd(b, 5) else "there"
out = subprocess.run(["pwd"], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}).stdout.strip()
print(os.getcwd(), sorted(os.listdir("."))[-1], none, out, os.stat("b").st_size, subprocess.run(["/bin/pwd"], cwd="/app/dir", capture_output=True, text=True).stdout.strip())
assert fds() == before, (fds(), before)`)
}

// A thread that goes to a directory while signals come has gone there, and has
// got its signals.
func TestWorkingDirectoryAndSignals(t *testing.T) {
	canSteer(t)
	w := newWorld(t)
	w.want(t, "done\n", "python3", "-c", `
import os, signal
count = 0
def tick(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
fds = len(os.listdir("/proc/self/fd"))
for i in range(200):
    for d in ("/app/dir", "/", "/app"):
        os.chdir(d)
        assert os.getcwd() == d, (os.getcwd(), d)
signal.setitimer(signal.ITIMER_REAL, 0)
assert count > 100, count
assert len(os.listdir("/proc/self/fd")) == fds, os.listdir("/proc/self/fd")
print("done")`)
}

// A process that is stopped on its way to a directory stops.
func TestWorkingDirectoryAndStops(t *testing.T) {
	canSteer(t)
	w := newWorld(t)
	w.want(t, "done\n", "python3", "-c", `
import os, signal, time
child = os.fork()
if not child:
    signal.alarm(60)
    while True:
        for d in ("/app/dir", "/app"):
            os.chdir(d)
            assert os.getcwd() == d, (os.getcwd(), d)
signal.alarm(30) # none of the stops may be lost
for i in range(1500):
    begin = time.perf_counter() # at any point of it
    while time.perf_counter() - begin < i % 100 * 2e-5: pass
    os.kill(child, signal.SIGSTOP)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, status
    os.kill(child, signal.SIGCONT)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print("done")`)
}

// What cannot be is said: under a debugger, and without room for a descriptor.
func TestNoWorkingDirectory(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, "python3", "-c", `
import ctypes, errno, os, resource
libc = ctypes.CDLL(None)
child = os.fork()
if not child:
    libc.ptrace(0, 0, 0, 0)
    try: os.chdir("/app/dir")
    except OSError as e: print(errno.errorcode[e.errno], os.getcwd() == os.environ["PWD"], flush=True)
    os._exit(0)
while True:
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status): break
    libc.ptrace(7, child, 0, os.WSTOPSIG(status))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
try: os.chdir("/app/dir")
except OSError as e: print(errno.errorcode[e.errno])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
os.chdir("/app/dir")`)
	want := "ENOTSUP True\nEMFILE\n"
	if runtime.GOARCH != "amd64" {
		want = "ENOTSUP True\nENOTSUP\n"
	}
	if r.out != want || !strings.Contains(strings.Join(r.messages, "\n"), "/app/dir cannot be a working directory") {
		t.Errorf("%+v, want %q", r, want)
	}
}
