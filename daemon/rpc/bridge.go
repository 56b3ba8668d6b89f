package rpc

import (
	"context"
	"fmt"
	"io"
)

// Bridge carries in and out to the daemon in dir and back, for an IDE that
// talks to a process it started. It ends when the daemon's side does, which is soon
// after in ends.
func Bridge(ctx context.Context, dir string, command []string, in io.Reader, out io.Writer) error {
	c, err := Dial(ctx, dir, "bridge", command) // starts one, of this build
	if err != nil {
		return err
	}
	defer c.Close()
	conn, err := dialSocket(ctx, dir)
	if err != nil {
		return fmt.Errorf("connecting to the daemon: %w", err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// A read of in cannot be ended; the process ends with it waiting.
	go func() {
		_, _ = io.Copy(conn, in) // an error is the connection's end, which the other half tells
		conn.CloseWrite()
	}()
	_, err = io.Copy(out, conn)
	conn.Close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}
