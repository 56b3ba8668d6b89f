package ide

import (
	"encoding/hex"
	"errors"
	"strings"
	"unicode/utf8"
)

// escape begins what stands for a byte in a Name: no file's name has one.
const escape = "\x00"

// Name spells a file's name, path or link's text, which need not be UTF-8, in a
// string that is: a byte that is not is NUL and two hexadecimal digits.
func Name(bytes string) string {
	if utf8.ValidString(bytes) {
		return bytes
	}
	var name strings.Builder
	for len(bytes) > 0 {
		r, n := utf8.DecodeRuneInString(bytes)
		if r == utf8.RuneError && n == 1 {
			name.WriteString(escape + hex.EncodeToString([]byte(bytes[:1])))
		} else {
			name.WriteString(bytes[:n])
		}
		bytes = bytes[n:]
	}
	return name.String()
}

var errName = errors.New("NUL is not followed by two hexadecimal digits of a byte that UTF-8 has no use for")

// Bytes is what a Name spells.
func Bytes(name string) (string, error) {
	bytes, rest, escaped := strings.Cut(name, escape)
	for escaped {
		if len(rest) < 2 {
			return "", errName
		}
		b, err := hex.DecodeString(rest[:2])
		if err != nil || b[0] < utf8.RuneSelf {
			return "", errName
		}
		var next string
		next, rest, escaped = strings.Cut(rest[2:], escape)
		bytes += string(b) + next
	}
	return bytes, nil
}
