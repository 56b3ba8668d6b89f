package incoming

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// A claim is the lock on a port: an abstract unix socket of the target's
// network namespace. Agents exclude each other by it, whatever build and pod
// they are of, and the kernel drops it with its process. Whoever connects to
// it is told the holder's name.
//
// Goroutines: one that answers, gone when Release returns.
type claim struct {
	listener net.Listener
	holder   func() string
	done     chan struct{}
	users    int // guarded by Incoming.claims
}

// Limits of a talk with another holder.
const (
	claimPatience = time.Second
	maxHolderName = 512
)

func claimName(port uint16) string { return fmt.Sprintf("@mirrord-steal/%d", port) }

// claimPort takes the lock. EADDRINUSE: askHolder tells who has it.
func claimPort(port uint16, holder func() string) (*claim, error) {
	l, err := net.Listen("unix", claimName(port))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, unix.EADDRINUSE
	}
	if err != nil {
		return nil, fmt.Errorf("claiming port %d: %w", port, err)
	}
	c := &claim{listener: l, holder: holder, done: make(chan struct{})}
	go c.answer()
	return c, nil
}

func (c *claim) answer() {
	defer close(c.done)
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(claimPatience))
		_, _ = io.WriteString(conn, c.holder())
		conn.Close()
	}
}

func (c *claim) Release() {
	c.listener.Close()
	<-c.done
}

// askHolder says who holds a port. It may take a while.
func askHolder(port uint16) string {
	conn, err := net.DialTimeout("unix", claimName(port), claimPatience)
	if err != nil {
		return "somebody who does not answer"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(claimPatience))
	name, err := io.ReadAll(io.LimitReader(conn, maxHolderName))
	if err == nil && len(name) > 0 {
		return string(name)
	}
	// Not one of our agents, perhaps, but the kernel knows it.
	var cred *unix.Ucred
	if raw, err := conn.(*net.UnixConn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		})
	}
	if cred == nil {
		return "somebody who does not say who he is"
	}
	return fmt.Sprintf("process %d, which does not say who it is", cred.Pid)
}
