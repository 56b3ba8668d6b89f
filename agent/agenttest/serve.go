package agenttest

import "testing"

// Serve runs a server until the test's end; then stop ends it, and it is waited for.
func Serve(t testing.TB, serve func() error, stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = serve()
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}
