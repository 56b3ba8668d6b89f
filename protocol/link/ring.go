package link

// A ring holds the bytes [start, end) of a stream, by absolute offset. Its
// buffer grows by doubling up to max, and shrinks, so that an idle link is small.
type ring struct {
	buf        []byte
	max        int
	start, end uint64
}

const firstRing = 64 << 10

func newRing(max int) ring { return ring{buf: make([]byte, min(firstRing, max)), max: max} }

func (r *ring) used() int { return int(r.end - r.start) }

// append adds b, for which there is room below max.
func (r *ring) append(b []byte) {
	for r.used()+len(b) > len(r.buf) {
		r.grow()
	}
	for len(b) > 0 {
		n := copy(r.buf[r.end%uint64(len(r.buf)):], b)
		b, r.end = b[n:], r.end+uint64(n)
	}
}

// at returns a readable part of the buffer from offset off on, start <= off <= end.
func (r *ring) at(off uint64) []byte {
	n := uint64(len(r.buf))
	at := off % n
	return r.buf[at:min(n, at+r.end-off)]
}

// shrink takes an empty ring's buffer back to its first size.
func (r *ring) shrink() { r.buf = make([]byte, min(firstRing, r.max)) }

func (r *ring) grow() {
	bigger := make([]byte, min(2*len(r.buf), r.max))
	for off := r.start; off < r.end; {
		part := r.at(off)
		for len(part) > 0 {
			n := copy(bigger[off%uint64(len(bigger)):], part)
			part, off = part[n:], off+uint64(n)
		}
	}
	r.buf = bigger
}
