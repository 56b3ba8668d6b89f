package files

import (
	"testing"
	"time"
)

func newTestPool(t *testing.T) *pool {
	a, memory, err := newArena()
	if err != nil {
		t.Fatal(err)
	}
	memory.Close()
	p := newPool(nil, a, time.Minute)
	t.Cleanup(func() {
		p.resting.Stop() // else it would trim what is mapped there next
		a.unmap()
	})
	return p
}

// A slot that is free again is used before those that never were, so that a
// reader's memory stays small.
func TestPoolUsesFewSlots(t *testing.T) {
	p := newTestPool(t)
	seen := map[uint32]bool{}
	for range 10 * slots {
		one, _ := p.take(nil, nil)
		other, _ := p.take(nil, nil)
		seen[one], seen[other] = true, true
		p.put(one)
		p.put(other)
	}
	if len(seen) != 2 {
		t.Errorf("%d slots were used by two at a time", len(seen))
	}
}

// Memory is given back when nobody uses it, and no slot is lost by that.
func TestPoolTrim(t *testing.T) {
	p := newTestPool(t)
	slot, _ := p.take(nil, nil)
	data := p.arena.slot(slot)
	data[0] = 7
	p.used.Store(slots)
	p.trim()
	if data[0] != 7 {
		t.Error("a slot lost its data while it was used")
	}
	p.put(slot)
	p.trim()
	if data[0] != 0 {
		t.Error("memory was kept")
	}
	taken := map[uint32]bool{}
	for range slots {
		slot, _ := p.take(nil, nil)
		taken[slot] = true
	}
	if len(taken) != slots {
		t.Errorf("%d slots are left", len(taken))
	}
}
