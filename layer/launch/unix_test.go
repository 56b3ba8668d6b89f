package launch

import (
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
)

// serve is a server's life: it removes what is there, listens, has its socket's
// mode changed, serves one and is gone, by its last argument without a word.
const serve = `
import os, socket, stat, sys
at, first, last = sys.argv[1:]
if first == "remove":
    try: os.unlink(at)
    except FileNotFoundError: print("none")
elif first == "look":
    if os.path.exists(at): os.unlink(at)
s = socket.socket(socket.AF_UNIX)
s.bind(at)
s.listen()
st = os.stat(at)
os.chmod(at, 0o600)
assert stat.S_ISSOCK(st.st_mode) and stat.S_IMODE(os.lstat(at).st_mode) == 0o600
c = socket.socket(socket.AF_UNIX)
c.connect(at)
s.accept()[0].send(b"served")
print(c.recv(9).decode())
if last == "leave": os._exit(0)
os.unlink(at)
try: os.stat(at)
except FileNotFoundError: print("gone")
s = socket.socket(socket.AF_UNIX)
s.bind(at)
os.unlink(at)
`

// A unix socket is this machine's, and so is its path while it is there, though
// all about it is the target's: servers start, and start again.
func TestUnixSockets(t *testing.T) {
	for _, mode := range []string{"read", "write"} {
		w := newWorld(t)
		dir := t.TempDir()
		w.policy.FSMode, w.policy.Steal, w.policy.ReadOnly, w.policy.ReadWrite = mode, mode == "read", []string{"^" + dir + "/ro"}, []string{"^" + dir}
		for _, place := range []string{"/ro", "/rw"} {
			if err := os.Mkdir(dir+place, 0o755); err != nil {
				t.Fatal(err)
			}
			at := dir + place + "/app.sock"
			w.write(t, at+".theirs", "")
			w.want(t, "none\nserved\n", "python3", "-c", serve, at, "remove", "leave")
			if _, err := os.Lstat(at); err != nil {
				t.Errorf("%s: %v", mode, err)
			}
			w.want(t, "none\nserved\ngone\n", "python3", "-c", serve, at, "remove", "end")
			w.want(t, "served\n", "python3", "-c", serve, at, "look", "leave")
			w.want(t, "served\ngone\n", "python3", "-c", serve, at, "look", "end")
			if files, err := os.ReadDir(dir + place); err != nil || len(files) > 0 {
				t.Errorf("%s leaves %v, %v", place, files, err)
			}
		}
	}
}

// A socket that another process has stays its own, and is seen.
func TestUnixSocketInUse(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.policy.ReadOnly = []string{"^" + dir}
	stream, err := net.Listen("unix", dir+"/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	packets, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/packets", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	w.want(t, "none 98 there\nnone 98 there\n", "python3", "-c", `
import os, socket, sys
for at in sys.argv[1:]:
    print("there" if os.path.exists(at) else "none", end=" ")
    try: socket.socket(socket.AF_UNIX).bind(at)
    except OSError as e: print(e.errno, end=" ")
    print("there" if os.path.exists(at) else "none")`, dir+"/stream", dir+"/packets")
}

// Where the directory is the target's only, the user is told.
func TestUnixSocketWithoutDirectory(t *testing.T) {
	w := newWorld(t)
	w.write(t, "/nowhere/dir/file", "")
	r := w.run(t, "python3", "-c", `
import socket
try: socket.socket(socket.AF_UNIX).bind("/nowhere/dir/s")
except OSError as e: print(e.errno)`)
	want := fmt.Sprintf("the unix socket %s is made on this machine, which has no directory %[2]s: make it (mkdir -p %[2]s), or have the socket elsewhere", "/nowhere/dir/s", "/nowhere/dir")
	if r.out != "2\n" || !slices.Equal(r.messages, []string{want}) {
		t.Errorf("%+v, want %q", r, want)
	}
}
