package protocol

import (
	"encoding/binary"
	"errors"
)

// A DirEntry is one name of a directory, as getdents64(2) tells it.
type DirEntry struct {
	Ino  uint64
	Type uint8 // DT_REG and its like
	Name string
}

// ErrDirEntry is a list of entries cut short or with an impossible name.
var ErrDirEntry = errors.New("malformed directory entry")

// AppendDirEntry appends e: ino 8 | type 1 | name length 1 | name.
func AppendDirEntry(b []byte, e DirEntry) []byte {
	b = binary.BigEndian.AppendUint64(b, e.Ino)
	b = append(b, e.Type, byte(len(e.Name)))
	return append(b, e.Name...)
}

// DirEntries decodes what AppendDirEntry made.
func DirEntries(b []byte) ([]DirEntry, error) {
	var list []DirEntry
	for len(b) > 0 {
		if len(b) < 10 || b[9] == 0 || len(b) < 10+int(b[9]) {
			return nil, ErrDirEntry
		}
		end := 10 + int(b[9])
		list = append(list, DirEntry{binary.BigEndian.Uint64(b), b[8], string(b[10:end])})
		b = b[end:]
	}
	return list, nil
}
