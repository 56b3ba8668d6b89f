package rpc

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// samePeer refuses a connection whose other end is another user's.
func samePeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctlErr != nil {
		return ctlErr
	}
	if err != nil {
		return fmt.Errorf("asking who is connected: %w", err)
	}
	if cred.Uid != uint32(os.Getuid()) {
		return fmt.Errorf("process %d is of user %d, not of %d", cred.Pid, cred.Uid, os.Getuid())
	}
	return nil
}
