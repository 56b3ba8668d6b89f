package layer

import (
	"runtime"
	"testing"
)

// The receiver looks sockets up, so that nobody may wait for a socket's own lock
// while the table is locked.
func TestSocketsAreClosedOutsideTheTable(t *testing.T) {
	for name, closing := range map[string]func(s *sockets){
		"drop":  func(s *sockets) { s.drop(1) },
		"close": func(s *sockets) { s.close() },
		"sweep": func(s *sockets) { s.sweep() },
	} {
		var s sockets
		s.init()
		k := &sock{}
		s.byInode[1] = k // born long ago
		k.mu.Lock()
		done := make(chan struct{})
		go func() { closing(&s); close(done) }()
		for s.get(1) != nil {
			runtime.Gosched()
		}
		select {
		case <-done:
			t.Errorf("%s did not wait for who accepts", name)
		default:
		}
		k.mu.Unlock()
		<-done
	}
}
