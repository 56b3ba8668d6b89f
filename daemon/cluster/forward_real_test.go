package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestForward(t *testing.T) {
	c := openShop(t)
	a := startEcho(t, c, echoSpec(t))
	for _, protocol := range []string{"spdy", "websocket"} {
		t.Run(protocol, func(t *testing.T) {
			c.spdyRefused.Store(protocol == "websocket")
			defer c.spdyRefused.Store(false)
			t.Run("echo", func(t *testing.T) { testEcho(t, a) })
			t.Run("read deadline", func(t *testing.T) { testDeadline(t, a) })
			t.Run("closed port", func(t *testing.T) { testClosedPort(t, a) })
			t.Run("close unblocks", func(t *testing.T) { testClose(t, a) })
			t.Run("close on a stuck path", func(t *testing.T) { testStuck(t, a) })
			t.Run("no such pod", func(t *testing.T) {
				b := *a
				b.Pod = "absent"
				if _, err := b.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), `pods "absent" not found`) {
					t.Errorf("Dial = %v", err)
				}
			})
			t.Run("abandoned", func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := a.Dial(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("Dial = %v, want context.Canceled", err)
				}
			})
		})
	}
}

func dial(t *testing.T, a *Agent) net.Conn {
	t.Helper()
	conn, err := a.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func testEcho(t *testing.T, a *Agent) {
	began := time.Now()
	conn := dial(t, a)
	if err := hello(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	t.Logf("dial and first answer: %v", time.Since(began))
	sent := make([]byte, 8<<20)
	rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- err
	}()
	began = time.Now()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	t.Logf("8 MiB there and back: %v", time.Since(began))
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Error("what came back is not what was sent")
	}
}

func testDeadline(t *testing.T, a *Agent) {
	conn := dial(t, a)
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read = %v, want a deadline", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := hello(t.Context(), conn); err != nil {
		t.Errorf("after a deadline: %v", err)
	}
}

func testClosedPort(t *testing.T, a *Agent) {
	b := *a
	b.port = 1
	conn := dial(t, &b)
	for range 2 { // the error stays
		if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Read = %v", err)
		}
	}
}

func testClose(t *testing.T, a *Agent) {
	conn := dial(t, a)
	if err := hello(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	conn.Close()
	if err := <-read; err == nil {
		t.Error("Read succeeded after Close")
	}
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("Write succeeded after Close")
	}
}

// testStuck closes while a Write waits for a reader that never comes.
func testStuck(t *testing.T, a *Agent) {
	conn := dial(t, a)
	wrote := make(chan error, 1)
	go func() {
		block := make([]byte, 64<<10)
		for {
			if _, err := conn.Write(block); err != nil { // its echo is never read
				wrote <- err
				return
			}
		}
	}()
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write = %v, want a deadline", err)
	}
	began := time.Now()
	conn.Close()
	if d := time.Since(began); d > 100*time.Millisecond {
		t.Errorf("Close took %v", d)
	}
}

// A role may allow only one of the two verbs that the protocols need.
func TestForwardRights(t *testing.T) {
	admin := openShop(t)
	a := startEcho(t, admin, echoSpec(t))
	for _, test := range []struct{ verbs, want string }{
		{"create", ""},
		{"get", ""},
		{"", "kubectl auth can-i create pods --subresource=portforward -n " + shop.namespace},
	} {
		t.Run("verbs "+test.verbs, func(t *testing.T) {
			user := restricted(t, shop.namespace, rule("", "pods/portforward", test.verbs))
			b := *a
			b.c = user
			conn, err := b.Dial(t.Context())
			if test.want != "" {
				if !IsKind(err, Forbidden) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Dial = %v\nwant Forbidden and %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := hello(t.Context(), conn); err != nil {
				t.Error(err)
			}
			if want := test.verbs == "get"; user.spdyRefused.Load() != want {
				t.Errorf("websocket used: %v, want %v", !want, want)
			}
		})
	}
}
