package endpoint

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
)

// Main is the life of the process behind an endpoint: it tells the daemon when
// it is ready, and returns the exit code.
func Main(args []string, serving Serving, debug func(client net.Conn, over <-chan struct{})) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	l, err := Listen(args[1])
	if err != nil {
		_ = Say(os.Stdout, Words{Failed: &ide.Error{Code: ide.CodeUnsupported, Msg: err.Error()}}) // or nobody wants to know
		return 1
	}
	defer l.Close()
	err = Say(os.Stdout, Words{Endpoint: Name(l)})
	if err == nil {
		// The daemon reads no more, and may be gone: what still goes to standard
		// output goes to the log.
		err = unix.Dup3(unix.Stderr, unix.Stdout, 0)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "mirrord: starting the debugger: %v\n", err)
		return 1
	}
	over := make(chan struct{})
	go func() {
		<-signals
		close(over)
	}()
	s := &Server{Listener: l, Serving: serving, Debug: debug}
	s.Serve(over, "the session has ended, and the debug session with it")
	return 0
}
