package endpoint

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 60 * time.Second

// serve runs an endpoint whose Delve echoes its client's bytes until that is
// gone. done is closed when it has ended.
func serve(t *testing.T, addr string, wait time.Duration) (name string, over func(), done <-chan struct{}) {
	t.Helper()
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	stop, end := make(chan struct{}), make(chan struct{})
	s := &Server{Listener: l, ClientTime: wait, Debug: func(client net.Conn, over <-chan struct{}) {
		defer client.Close()
		var reader sync.WaitGroup
		defer reader.Wait()
		gone := make(chan struct{})
		reader.Go(func() {
			defer close(gone)
			_, _ = io.Copy(writer{client}, client)
		})
		select {
		case <-over:
			client.Close()
		case <-gone:
		}
	}}
	go func() {
		defer close(end)
		s.Serve(stop, "it is over")
	}()
	over = sync.OnceFunc(func() { close(stop) })
	t.Cleanup(func() { over(); <-end })
	return Name(l), over, end
}

// A writer has no more than that method.
type writer struct{ w io.Writer }

func (w writer) Write(p []byte) (int, error) { return w.w.Write(p) }

func socket(t *testing.T) string {
	t.Helper()
	return Unix + ":" + filepath.Join(t.TempDir(), "dap")
}

func dial(t *testing.T, name string) (net.Conn, *bufio.Reader) {
	t.Helper()
	network, addr := TCP, name
	if path, ok := strings.CutPrefix(name, Unix+":"); ok {
		network, addr = Unix, path
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c, bufio.NewReader(c)
}

func send(t *testing.T, w io.Writer, body string) {
	t.Helper()
	if _, err := io.WriteString(w, framed(body)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	m, err := readMessage(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(m.body)
}

const initialize = `{"seq":7,"type":"request","command":"initialize"}`

// The first who speaks is the client; who only looks is nobody, and who comes
// later is told.
func TestOneClient(t *testing.T) {
	for _, addr := range []string{socket(t), TCP + ":"} {
		name, _, done := serve(t, addr, patience)
		silent, silentIn := dial(t, name)
		looks, _ := dial(t, name)
		looks.Close()
		broken, brokenIn := dial(t, name)
		if _, err := io.WriteString(broken, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := brokenIn.ReadByte(); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("who does not speak DAP: %v", err)
		}
		c, in := dial(t, name)
		send(t, c, initialize)
		if got := receive(t, in); got != initialize {
			t.Errorf("the client is answered %s", got)
		}
		for range 3 {
			second, secondIn := dial(t, name)
			send(t, second, initialize)
			send(t, second, strings.Repeat(" ", 1<<16)) // is not read before the answer
			var answer struct {
				Seq     int    `json:"request_seq"`
				Success bool   `json:"success"`
				Command string `json:"command"`
				Message string `json:"message"`
			}
			if err := json.Unmarshal([]byte(receive(t, secondIn)), &answer); err != nil {
				t.Fatal(err)
			}
			if answer.Seq != 7 || answer.Success || answer.Command != "initialize" || !strings.Contains(answer.Message, "has another client") {
				t.Errorf("the second client is answered %+v", answer)
			}
			if _, err := secondIn.ReadByte(); err != io.EOF {
				t.Errorf("the second client then gets %v", err)
			}
		}
		send(t, silent, initialize)
		if got := receive(t, silentIn); !strings.Contains(got, "has another client") {
			t.Errorf("who spoke late is answered %s", got)
		}
		send(t, c, `{"seq":8}`)
		if got := receive(t, in); got != `{"seq":8}` {
			t.Errorf("the client is then answered %s", got)
		}
		c.Close()
		<-done
		if path, ok := strings.CutPrefix(name, Unix+":"); ok {
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is left: %v", err)
			}
		}
	}
}

// Whoever debugs is told why the session's end ends it.
func TestOver(t *testing.T) {
	name, over, done := serve(t, socket(t), patience)
	c, in := dial(t, name)
	send(t, c, initialize)
	receive(t, in)
	over()
	if got := receive(t, in); !strings.Contains(got, `"event":"output"`) || !strings.Contains(got, "mirrord: it is over") {
		t.Errorf("the client is told %s", got)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("then it gets %v", err)
	}
	<-done
}

// Nobody comes, or nobody who says anything.
func TestNoClient(t *testing.T) {
	name, _, done := serve(t, socket(t), 10*time.Millisecond)
	if c, err := net.Dial(Unix, strings.TrimPrefix(name, Unix+":")); err == nil {
		defer c.Close()
	}
	<-done
}

func TestSocketIsOurs(t *testing.T) {
	name, _, _ := serve(t, socket(t), patience)
	info, err := os.Stat(strings.TrimPrefix(name, Unix+":"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if _, err := Listen("pipe:x"); err == nil {
		t.Error("any transport will do")
	}
	if _, err := Listen(Unix + ":" + filepath.Join(t.TempDir(), "no", "such")); err == nil {
		t.Error("any directory will do")
	}
}

// A port is for this user only, however the socket was made.
func TestPortIsOurs(t *testing.T) {
	name, _, _ := serve(t, TCP+":", patience)
	addr := netip.MustParseAddrPort(name)

	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: netip.AddrFrom16(addr.Addr().As16()).As16()}); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "both families")
	defer f.Close()
	send(t, f, initialize)
	if got := receive(t, bufio.NewReader(f)); got != initialize {
		t.Errorf("a socket of both families is answered %s", got)
	}

	if os.Getuid() != 0 {
		t.Skip("needs root: to be another user")
	}
	heard := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends as the other user
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			heard <- errno
			return
		}
		c, err := net.Dial("tcp", name)
		if err != nil {
			heard <- err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		heard <- err
	}()
	if err := <-heard; err != io.EOF {
		t.Errorf("another user gets %v", err)
	}
}
