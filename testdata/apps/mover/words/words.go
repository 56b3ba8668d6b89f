// Package words is content that shows what is lost, doubled or out of place:
// 8-byte words that count from 0.
package words

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A Source reads as counted words, without end.
type Source struct{ n uint64 }

func (s *Source) Read(p []byte) (int, error) {
	fill(p, s.n)
	s.n += uint64(len(p))
	return len(p), nil
}

// A Sink takes nothing but counted words.
type Sink struct {
	n    uint64
	want []byte
}

func (s *Sink) Write(p []byte) (int, error) {
	if len(s.want) < len(p) {
		s.want = make([]byte, len(p))
	}
	want := s.want[:len(p)]
	if fill(want, s.n); !bytes.Equal(want, p) {
		for i := range p {
			if p[i] != want[i] {
				return 0, fmt.Errorf("byte %d is %#x, not %#x", s.n+uint64(i), p[i], want[i])
			}
		}
	}
	s.n += uint64(len(p))
	return len(p), nil
}

// fill writes what is at an offset.
func fill(p []byte, at uint64) {
	var word [8]byte
	for len(p) > 0 {
		if at%8 == 0 && len(p) >= 8 {
			binary.LittleEndian.PutUint64(p, at/8)
			p, at = p[8:], at+8
			continue
		}
		binary.LittleEndian.PutUint64(word[:], at/8)
		n := copy(p, word[at%8:])
		p, at = p[n:], at+uint64(n)
	}
}
