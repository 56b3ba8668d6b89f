package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A setting is one key. A key that has others below it takes a table of them,
// and what its own row says besides.
type setting struct {
	key   string // dotted
	doc   string
	takes shape
	enum  []string // the texts it takes; nil: any

	// One of them makes the setting served: field names the place in the
	// Config, and set, where a value is more than that, puts it there.
	field func(*Config) any
	set   func(*Config, *node) error

	// What holds for a setting that is not served.
	why  reason
	ours string // the value that this version acts by: it deserves no warning
}

// A reason says why a setting is not served.
type reason int

const (
	later    reason = iota // a later version will
	operator               // what it asks for needs the peer's paid operator
	moot                   // it is about a part that mirrord has not: nothing is missed
)

// A shape is a set of the kinds of value that a setting takes.
type shape int

const (
	boolean  shape = 1 << iota
	integer        // not negative
	seconds        // integer, as a duration
	text           //
	texts          // one text or a list of them
	table          // of texts, by name
	ports          // a list of port numbers
	pairs          // a list of pairs of port numbers
	wildcard       // or "*" among the ports
	anything       // not looked into
)

var shapeNames = []string{"true or false", "a number", "a number of seconds", "text", "text or a list of texts",
	"a table of texts", "a list of ports", "a list of pairs of ports", `"*" among them`, "anything"}

func (s shape) String() string {
	var names []string
	for i, name := range shapeNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func (s *setting) served() bool { return s.field != nil || s.set != nil }

// a says what s takes, for messages.
func (s *setting) a() string {
	takes := s.takes
	if s.enum != nil {
		takes &^= text
	}
	want := strings.Join(s.enum, ", ")
	if takes != 0 {
		want = strings.TrimSuffix(takes.String()+", "+want, ", ")
	}
	if hasFields(s.key) {
		want = strings.TrimPrefix(want+", a table", ", ")
	}
	return want
}

// check says what is wrong with v as a value of s.
func (s *setting) check(v *node) error {
	ok := s.takes&anything != 0
	switch v.kind {
	case isBool:
		ok = ok || s.takes&boolean != 0
	case isNumber:
		_, err := strconv.ParseUint(v.text, 10, 31)
		ok = ok || s.takes&(integer|seconds) != 0 && err == nil
	case isText:
		ok = ok || s.takes&(text|texts) != 0
		if ok && s.enum != nil && !slices.Contains(s.enum, v.text) {
			return fmt.Errorf("%v is none of %s", v, s.a())
		}
	case isTable:
		ok = ok || s.takes&table != 0
		for _, f := range v.fields {
			if s.takes&table != 0 && (f.value.kind == isList || f.value.kind == isTable) {
				return &positioned{f.value.pos, fmt.Sprintf("%s is %v, not text", f.name, f.value)}
			}
		}
	case isList:
		if !ok {
			return s.checkList(v)
		}
	}
	if !ok && strings.Contains(s.a(), ", ") {
		return fmt.Errorf("%v is none of %s", v, s.a())
	} else if !ok {
		return fmt.Errorf("%v is not %s", v, s.a())
	}
	return nil
}

func (s *setting) checkList(v *node) error {
	for i, item := range v.list {
		var err error
		switch {
		case s.takes&texts != 0 && item.kind != isText:
			err = fmt.Errorf("%v is not text", item)
		case s.takes&wildcard != 0 && item.kind == isText && item.text == "*":
		case s.takes&ports != 0:
			_, err = item.port()
		case s.takes&pairs != 0:
			if len(item.list) != 2 {
				err = fmt.Errorf("%v is not a pair of ports", item)
				break
			}
			_, err = item.list[0].port()
			if _, err2 := item.list[1].port(); err == nil {
				err = err2
			}
		}
		if err != nil {
			return &positioned{item.pos, fmt.Sprintf("entry %d: %v", i+1, err)}
		}
	}
	if s.takes&(texts|ports|pairs) == 0 {
		return fmt.Errorf("a list is none of %s", s.a())
	}
	return nil
}

// store puts v, which check passed, into the Config.
func (s *setting) store(c *Config, v *node) error {
	if s.set != nil {
		return s.set(c, v)
	}
	switch to := s.field(c).(type) {
	case *bool:
		*to = v.text == "true"
	case **bool:
		value := v.text == "true"
		*to = &value
	case *string:
		*to = v.text
	case *[]string:
		*to = v.texts()
	case *map[string]string:
		*to = map[string]string{}
		for _, f := range v.fields {
			(*to)[f.name] = f.value.text
		}
	case *[]Replacement:
		*to = nil
		for _, f := range v.fields {
			*to = append(*to, Replacement{f.name, f.value.text})
		}
	case *[]uint16:
		*to = nil
		for _, item := range v.list {
			port, _ := item.port() // check passed it
			*to = append(*to, port)
		}
	case *time.Duration:
		n, _ := strconv.Atoi(v.text) // check passed it
		*to = time.Duration(n) * time.Second
	default:
		panic(fmt.Sprintf("config: setting %s is kept in a %T", s.key, to))
	}
	return nil
}

func (n *node) texts() []string {
	if n.kind == isText {
		return []string{n.text}
	}
	var list []string
	for _, item := range n.list {
		list = append(list, item.text)
	}
	return list
}

func (n *node) port() (uint16, error) {
	port, err := strconv.ParseUint(n.text, 10, 16)
	if n.kind != isNumber || err != nil || port == 0 {
		return 0, fmt.Errorf("%v is not a port (1 to 65535)", n)
	}
	return uint16(port), nil
}
