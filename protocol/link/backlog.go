package link

import "slices"

// A backlog holds the bytes [start, end) of a stream, by absolute offset, in blocks of
// memory. What became free last is used first, while the processor's cache has it: to copy
// into a buffer that goes round takes half as long again.
type backlog struct {
	max        int
	start, end uint64
	first      uint64   // the offset where blocks begin
	blocks     [][]byte // of blockSize
	free       [][]byte
}

// blockSize is at least maxBody, so that a frame is in no more than two.
const blockSize = 256 << 10

func (l *backlog) used() int { return int(l.end - l.start) }

// append adds b, for which there is room below max.
func (l *backlog) append(b []byte) {
	for len(b) > 0 {
		at := int(l.end - l.first)
		if at == len(l.blocks)*blockSize {
			l.blocks = append(l.blocks, l.block())
		}
		n := copy(l.blocks[at/blockSize][at%blockSize:], b)
		b, l.end = b[n:], l.end+uint64(n)
	}
}

func (l *backlog) block() []byte {
	last := len(l.free) - 1
	if last < 0 {
		return make([]byte, blockSize)
	}
	b := l.free[last]
	l.free = l.free[:last]
	return b
}

// at returns a readable part from offset off on, start <= off < end.
func (l *backlog) at(off uint64) []byte {
	at := int(off - l.first)
	block := l.blocks[at/blockSize][at%blockSize:]
	return block[:min(len(block), int(l.end-off))]
}

// forget gives up what is before start, start <= end.
func (l *backlog) forget(start uint64) {
	l.start = start
	n := int(start-l.first) / blockSize
	if start == l.end {
		n = len(l.blocks)
	}
	l.free = append(l.free, l.blocks[:n]...)
	l.blocks = slices.Delete(l.blocks, 0, n)
	if l.first += uint64(n) * blockSize; len(l.blocks) == 0 {
		l.first = start
	}
}

// shrink gives back the memory of an empty backlog.
func (l *backlog) shrink() { l.blocks, l.free = nil, nil }
