package crew

import (
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// All run at one time, however many, and more than are kept do not stay.
func TestAllRunAtOnce(t *testing.T) {
	c := New()
	for range 3 {
		const many = 4 * maxIdle
		began, all := make(chan struct{}), make(chan struct{})
		for range many {
			c.Go(func() {
				began <- struct{}{}
				<-all
			})
		}
		for range many {
			<-began
		}
		close(all)
	}
	c.Wait()
	if n := c.idle.Load(); n > maxIdle {
		t.Errorf("%d were kept", n)
	}
}

// What is begun by others of the crew, also while it is waited for, is done.
func TestWait(t *testing.T) {
	c := New()
	var done atomic.Int32
	more := make(chan struct{})
	var begin func(left int)
	begin = func(left int) {
		c.Go(func() {
			<-more
			if left > 0 {
				begin(left - 1)
			}
			done.Add(1)
		})
	}
	begin(100)
	go close(more)
	c.Wait()
	if n := done.Load(); n != 101 {
		t.Errorf("%d of 101 were done", n)
	}
}

// Who comes next has the stack of who was there.
func BenchmarkGo(b *testing.B) {
	deep := func(done chan<- struct{}) { down(64); done <- struct{}{} }
	b.Run("crew", func(b *testing.B) {
		c, done := New(), make(chan struct{})
		defer c.Wait()
		for b.Loop() {
			c.Go(func() { deep(done) })
			<-done
		}
	})
	b.Run("new", func(b *testing.B) {
		done := make(chan struct{})
		for b.Loop() {
			go deep(done)
			<-done
		}
	})
}

//go:noinline
func down(n int) (sum byte) {
	var room [100]byte
	room[n] = byte(n)
	if n > 0 {
		sum = down(n - 1)
	}
	return sum + room[n]
}
