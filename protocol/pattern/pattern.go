// Package pattern reads the regular expressions of the configuration. Their
// dialect is that of the other mirrord, Rust's with look-around, as far as
// regexp2 has it: what it does not know is an error, and nothing means another
// thing silently.
package pattern

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
)

// Compile reads text. fold: in any case. Look-around can backtrack without end, so
// a match that takes longer than limit fails.
func Compile(text string, fold bool, limit time.Duration) (*regexp2.Regexp, error) {
	if err := Check(text); err != nil {
		return nil, err
	}
	options := regexp2.RegexOptions(regexp2.RE2) // for [[:alpha:]] and (?P<name>…)
	if fold {
		options |= regexp2.IgnoreCase
	}
	re, err := regexp2.Compile(text, options)
	if err != nil {
		return nil, err
	}
	re.MatchTimeout = limit
	return re, nil
}

var errNested = errors.New(`a class within a class, or && in one, is not supported; a bracket in a class is written \[`)

// escapes are the letters that mean something behind a backslash.
const escapes = "aAbBcdDeEfGknpPQrsStuvwWxzZ"

// Check finds what means something in Rust's dialect, and silently another thing
// in those that we have.
func Check(text string) error {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			if i++; i < len(text) && isLetter(text[i]) && !strings.Contains(escapes, text[i:i+1]) {
				return fmt.Errorf(`\%c is not supported`, text[i])
			}
		case '[':
			end, err := class(text, i+1)
			if err != nil {
				return err
			}
			i = end
		}
	}
	return nil
}

func isLetter(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

// class returns where the class ends that begins before i.
func class(text string, i int) (end int, err error) {
	if strings.HasPrefix(text[i:], "^") {
		i++
	}
	for first := i; i < len(text); i++ {
		rest := text[i:]
		switch {
		case rest[0] == '\\':
			i++
		case rest[0] == ']' && i > first:
			return i, nil
		case strings.HasPrefix(rest, "[:"):
			name := strings.Index(rest, ":]")
			if name < 0 {
				return 0, errNested
			}
			i += name + 1
		case rest[0] == '[', strings.HasPrefix(rest, "&&"):
			return 0, errNested
		}
	}
	return i, nil // who compiles it says that it has no end
}
