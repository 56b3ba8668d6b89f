package httpfilter

// A framing tells where a body ends.
type framing struct {
	kind  kind
	left  int64 // of the body, or of the chunk
	state chunkState
	line  int     // bytes of the line, or of the trailer
	data  *[]byte // nil, or what collects the body itself
}

type kind uint8

const (
	noBody kind = iota
	length
	chunked
	untilEnd
)

type chunkState uint8

const (
	inSize    chunkState = iota // of a chunk, in hexadecimal
	inExtra                     // what may follow it
	afterSize                   // its line feed
	inChunk
	afterChunk   // its carriage return
	afterChunk2  // and line feed
	inTrailer    // at the begin of a line
	inField      // of the trailer
	afterField   // its line feed
	afterTrailer // the last line feed
	atEnd
)

// Limits of what a chunked body has beside its bytes.
const (
	maxDigits  = 15
	maxExtra   = 4 << 10
	maxTrailer = maxHead
)

// take goes on through b. It returns how many bytes of it are the body's, with
// all that frames it, and whether that is complete.
func (f *framing) take(b []byte) (n int, done bool, err error) {
	switch f.kind {
	case noBody:
		return 0, true, nil
	case untilEnd:
		f.collect(b)
		return len(b), false, nil
	case length:
		n = int(min(f.left, int64(len(b))))
		f.collect(b[:n])
		f.left -= int64(n)
		return n, f.left == 0, nil
	}
	for n < len(b) && f.state != atEnd {
		if f.state == inChunk {
			m := int(min(f.left, int64(len(b)-n)))
			f.collect(b[n : n+m])
			n += m
			if f.left -= int64(m); f.left == 0 {
				f.state = afterChunk
			}
			continue
		}
		if !f.step(b[n]) {
			return n, false, errForeign
		}
		n++
	}
	return n, f.state == atEnd, nil
}

// step takes one byte of what frames chunks; false: it may not be there.
func (f *framing) step(c byte) bool {
	switch f.state {
	case inSize:
		return f.size(c)
	case inExtra:
		if f.line++; c == '\r' {
			f.state = afterSize
			return true
		}
		return f.line < maxExtra && (c >= ' ' || c == '\t') && c != 0x7f
	case afterSize:
		f.line = 0
		if f.state = inChunk; f.left == 0 {
			f.state = inTrailer
		}
		return c == '\n'
	case afterChunk:
		f.state = afterChunk2
		return c == '\r'
	case afterChunk2:
		f.state = inSize
		return c == '\n'
	case inTrailer:
		if f.line++; c == '\r' {
			f.state = afterTrailer
			return true
		}
		f.state = inField
		return tokens[c] // neither a folded line nor a nameless field
	case inField:
		if f.line++; c == '\r' {
			f.state = afterField
			return true
		}
		return f.line < maxTrailer && (c >= ' ' || c == '\t') && c != 0x7f
	case afterField:
		f.state = inTrailer
		return c == '\n'
	case afterTrailer:
		f.state = atEnd
		return c == '\n'
	}
	return false
}

func (f *framing) size(c byte) bool {
	var digit byte
	switch {
	case '0' <= c && c <= '9':
		digit = c - '0'
	case 'a' <= c && c <= 'f':
		digit = c - 'a' + 10
	case 'A' <= c && c <= 'F':
		digit = c - 'A' + 10
	case f.line == 0:
		return false
	case c == '\r':
		f.state, f.line = afterSize, 0
		return true
	case c == ';':
		f.state, f.line = inExtra, 0
		return true
	default: // also spaces, which some skip and others do not
		return false
	}
	if f.line == 0 {
		f.left = 0
	}
	f.line++
	f.left = f.left<<4 | int64(digit)
	return f.line <= maxDigits
}

func (f *framing) collect(b []byte) {
	if f.data != nil {
		*f.data = append(*f.data, b...)
	}
}
