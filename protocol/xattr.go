package protocol

import (
	"bytes"
	"encoding/binary"
)

// AppendXattr appends an extended attribute: name | NUL | value length 2 | value.
func AppendXattr(b []byte, name string, value []byte) []byte {
	b = append(append(b, name...), 0)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(value))), value...)
}

// CutXattr cuts off the first of what AppendXattr made.
func CutXattr(b []byte) (name string, value, rest []byte, ok bool) {
	head, b, ok := bytes.Cut(b, []byte{0})
	if !ok || len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return "", nil, nil, false
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	return string(head), b[2:end], b[end:], true
}
