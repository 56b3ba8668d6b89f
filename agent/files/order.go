package files

import (
	"cmp"
	"slices"
	"strings"
)

// An order is one in which a program may go through the files of a directory:
// as it lists them, or sorted, with or without regard to numbers.
type order struct {
	names []string
	index map[string]int
}

func newOrder(names []string) *order {
	o := &order{names: names, index: make(map[string]int, len(names))}
	for i, name := range names {
		o.index[name] = i
	}
	return o
}

// orders are those of a directory that lists names.
func orders(names []string) []*order {
	return []*order{
		newOrder(names),
		newOrder(slices.Sorted(slices.Values(names))),
		newOrder(slices.SortedFunc(slices.Values(names), compareNumbers)),
	}
}

// follows tells whether names, in the order of asking, are neighbours in o. Those
// who ask at one time may overtake each other.
func (o *order) follows(names []string) bool {
	lowest, highest := len(o.names), -1
	for _, name := range names {
		i, ok := o.index[name]
		if !ok {
			return false
		}
		lowest, highest = min(lowest, i), max(highest, i)
	}
	return highest-lowest < 2*len(names) && o.index[names[0]] < o.index[names[len(names)-1]]
}

// compareNumbers compares names as people count: page9 comes before page10.
func compareNumbers(a, b string) int {
	for a != "" && b != "" {
		x, y := number(a), number(b)
		if x == "" || y == "" {
			if c := cmp.Compare(a[0], b[0]); c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
			continue
		}
		a, b = a[len(x):], b[len(y):]
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// number is the decimal number that s begins with, "" if it begins with none.
func number(s string) string {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return s[:n]
}
