package config

import (
	"fmt"
	"strings"
)

// A source is a file's text after its templates were filled in, and the way
// back from a place in it to the place in the file.
type source struct {
	name   string // as messages call the file
	text   string // rendered
	raw    string // as in the file
	pieces []piece
}

// A piece of text that starts at offset text stands at offset raw of the file;
// where a template stood, fixed: all of its text stands at that one place.
type piece struct {
	text, raw int
	fixed     bool
}

// positioned is something wrong at one place, still without its file's name.
type positioned struct {
	pos pos
	msg string
}

func (e *positioned) Error() string { return fmt.Sprintf("%d:%d: %s", e.pos.line, e.pos.column, e.msg) }

// at tells the line and column in the file of an offset in the rendered text.
func (s *source) at(offset int) pos {
	raw := offset
	for _, p := range s.pieces {
		if p.text > offset {
			break
		}
		if raw = p.raw; !p.fixed {
			raw += offset - p.text
		}
	}
	raw = min(max(raw, 0), len(s.raw))
	before := s.raw[:raw]
	return pos{1 + strings.Count(before, "\n"), raw - strings.LastIndexByte(before, '\n')}
}

// offset is the place in the rendered text of a line and column of it.
func (s *source) offset(line, column int) int {
	off := 0
	for ; line > 1; line-- {
		i := strings.IndexByte(s.text[off:], '\n')
		if i < 0 {
			return len(s.text)
		}
		off += i + 1
	}
	return min(off+max(column-1, 0), len(s.text))
}
