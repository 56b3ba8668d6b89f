package incoming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of looking at a connection that may be a probe.
const (
	maxPeek      = 16 << 10
	maxGreeted   = 96 << 10    // of an HTTP/2 client: 64 KiB of a request's body may come before it acknowledges
	peekPatience = time.Second // for words that tell who it is
)

// An opening is what became of a connection's first bytes when they were
// looked at. Its zero value: nothing, all are still to be read.
type opening struct {
	probe bool
	skip  int    // bytes still to be read that head stands for
	head  []byte // what the connection's receiver is to get in their place
}

// replay reads what was answered here already, and writes what the receiver is to get of it.
func (o opening) replay(conn io.Reader, write func([]byte) error) error {
	if o.skip == 0 {
		return nil
	}
	if _, err := io.CopyN(io.Discard, conn, int64(o.skip)); err != nil {
		return fmt.Errorf("reading again what was looked at: %w", err)
	}
	return write(o.head)
}

// peek waits until the first bytes of a connection tell whether it is a probe.
// They stay to be read. Who is silent for too long is none: so a client that
// waits for its server's first words waits longer, by peekPatience.
//
// Where a client comes from tells nothing: kubelet's address is the pod's
// gateway in some networks, in others (OVN-Kubernetes) another of the node's.
//
// A gRPC client like kubelet's says who it is only after its server's
// settings. So it is sent some, which bind the server to nothing; the client's
// acknowledgement of them is then kept from the server, which would take it
// for an error.
func peek(offered context.Context, conn *net.TCPConn) (o opening, err error) {
	defer lookUntil(offered, conn)()
	buf := make([]byte, maxPeek)
	greeted := false
	for n := 0; ; {
		var ended bool
		n, ended, err = peekMore(conn, buf, n)
		seen := look(buf[:n])
		switch {
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return o, err
		case ended && n == 0: // a tcpSocket probe
			return opening{probe: true}, nil
		case seen == waits && !greeted && !ended && err == nil:
			if _, err := conn.Write([]byte{0, 0, 0, typeSettings, 0, 0, 0, 0, 0}); err != nil {
				return o, fmt.Errorf("greeting HTTP/2 client: %w", err)
			}
			greeted = true
			buf = append(buf[:n], make([]byte, maxGreeted-n)...)
			continue
		}
		over := ended || err != nil || seen == other || seen == prober
		o.probe = seen == prober
		if !greeted && over {
			return o, nil
		}
		if !greeted {
			continue
		}
		var acked bool
		o.head, o.skip, acked = withoutAck(buf[:n])
		switch {
		case acked && over:
			return o, nil
		case ended || err != nil:
			return o, fmt.Errorf("HTTP/2 client does not acknowledge settings: %w", unix.EPROTO)
		}
	}
}

// lookUntil ends the looking when ctx ends, or it takes too long; done is called when
// it is over.
func lookUntil(ctx context.Context, conn *net.TCPConn) (done func()) {
	cut := make(chan struct{})
	_ = conn.SetReadDeadline(time.Now().Add(peekPatience))
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-cut
		}
		_ = conn.SetReadDeadline(time.Time{})
	}
}

// peekMore waits for more than n bytes of conn and copies all to buf. It says
// whether no more can come, or go into buf.
func peekMore(conn *net.TCPConn, buf []byte, n int) (int, bool, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return n, false, err
	}
	ended := false
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		m, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return false
		case err != nil:
			failed = err
			return true
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, _ = unix.Poll(poll, 0)
		ended = m == 0 || m == len(buf) || poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
		more := m > n
		n = m
		return more || ended
	})
	if err := errors.Join(failed, err); err != nil {
		return n, ended, fmt.Errorf("looking at connection: %w", err)
	}
	return n, ended, nil
}
