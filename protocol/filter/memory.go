package filter

import (
	"strings"
	"sync"
)

// Limits of a memory.
const (
	maxKnown  = 1 << 10
	maxString = 256 // longer ones are not remembered
)

// A memory of what an expression said: clients say the same of themselves with
// each request.
type memory struct {
	match func(string) (bool, error)

	mu    sync.RWMutex
	known map[string]bool // guarded by mu
}

func (m *memory) Match(s string) (bool, error) {
	if len(s) > maxString {
		return m.match(s)
	}
	m.mu.RLock()
	yes, ok := m.known[s]
	m.mu.RUnlock()
	if ok {
		return yes, nil
	}
	yes, err := m.match(s)
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= maxKnown {
		clear(m.known)
	}
	m.known[strings.Clone(s)] = yes // and not what s is a part of
	return yes, nil
}
