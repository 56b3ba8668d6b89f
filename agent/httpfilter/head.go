package httpfilter

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"mirrord/protocol/filter"
)

var (
	errMore    = errors.New("the head is not complete")
	errForeign = errors.New("not understood as HTTP/1") // or too dangerous to be
)

// A head is the beginning of a request or an answer.
type head struct {
	size     int // in bytes
	method   string
	target   string
	status   int
	minor    byte // of the version, HTTP/1.x
	fields   []filter.Field
	framing  framing
	close    bool // Connection: close
	keep     bool // Connection: keep-alive
	upgrades bool // Connection: upgrade
	upgrade  string
	expects  bool
	lengths  int // fields that say how long the body is
	encoded  bool
}

// keeps tells whether the connection may be used for more after it.
func (h *head) keeps() bool { return !h.close && (h.minor == '1' || h.keep) }

// split cuts off b, which begins with a head, its first line and the others, up
// to the empty one.
func split(b []byte) (first, rest string, size int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if i := bytes.IndexByte(b, '\n'); i == 0 || i > 0 && b[i-1] != '\r' {
			return "", "", 0, errForeign
		}
		return "", "", 0, errMore
	}
	first, rest, _ = strings.Cut(string(b[:end+2]), "\r\n")
	return first, rest, end + 4, nil
}

// request reads the request that b begins with. It keeps its fields in place of
// those that h has.
func (h *head) request(b []byte) error {
	first, rest, size, err := split(b)
	if err != nil {
		if !mayBegin(b) {
			err = errForeign
		}
		return err
	}
	*h = head{size: size, fields: h.fields[:0]}
	var version string
	var ok, whole bool
	h.method, version, ok = strings.Cut(first, " ")
	h.target, version, whole = strings.Cut(version, " ")
	if !ok || !whole || !isToken(h.method) || !isTarget(h.target) || !h.version(version) {
		return errForeign
	}
	if h.fields == nil {
		h.fields = make([]filter.Field, 0, usualFields)
	}
	if err := h.read(rest); err != nil {
		return err
	}
	if h.lengths == 0 && !h.encoded {
		h.framing.kind = noBody
	}
	return nil
}

// answer reads the answer that b begins with, to a request of a method.
func (h *head) answer(b []byte, method string) error {
	first, fields, size, err := split(b)
	if err != nil {
		const version = "HTTP/1."
		if n := min(len(b), len(version)); string(b[:n]) != version[:n] {
			err = errForeign
		}
		return err
	}
	*h = head{size: size}
	version, rest, ok := strings.Cut(first, " ")
	code, _, _ := strings.Cut(rest, " ")
	h.status, err = strconv.Atoi(code)
	if !ok || !h.version(version) || err != nil || len(code) != 3 || h.status < 100 || !isText(rest) {
		return errForeign
	}
	if err := h.read(fields); err != nil {
		return err
	}
	switch {
	case h.status < 200, h.status == 204, h.status == 304, method == "HEAD":
		h.framing = framing{kind: noBody}
	case h.lengths == 0 && !h.encoded:
		h.framing.kind = untilEnd
	}
	return nil
}

func (h *head) version(s string) bool {
	if s != "HTTP/1.1" && s != "HTTP/1.0" {
		return false
	}
	h.minor = s[7]
	return true
}

// usualFields of a request need no more memory.
const usualFields = 12

// read reads the fields and what they say of the body. It keeps them where there
// is a place for them.
func (h *head) read(lines string) error {
	for lines != "" {
		end := strings.IndexByte(lines, '\r')
		if lines[end+1] != '\n' {
			return errForeign
		}
		line := lines[:end]
		lines = lines[end+2:]
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) { // so is a folded line
			return errForeign
		}
		raw := value
		value = trim(value)
		if !isText(value) {
			return errForeign
		}
		if h.fields != nil {
			f := filter.Field{Name: name, Value: value}
			if len(raw) == len(value)+1 && raw[0] == ' ' && value != "" {
				f.Line = line
			}
			h.fields = append(h.fields, f)
		}
		if err := h.field(name, value); err != nil {
			return err
		}
	}
	if h.lengths > 1 || h.lengths > 0 && h.encoded {
		return errForeign
	}
	return nil
}

func (h *head) field(name, value string) error {
	switch len(name) {
	case len("expect"):
		h.expects = h.expects || strings.EqualFold(name, "expect")
	case len("upgrade"):
		if strings.EqualFold(name, "upgrade") {
			h.upgrade = value
		}
	case len("connection"):
		if strings.EqualFold(name, "connection") {
			for word := range strings.SplitSeq(value, ",") {
				switch strings.ToLower(trim(word)) {
				case "close":
					h.close = true
				case "keep-alive":
					h.keep = true
				case "upgrade":
					h.upgrades = true
				}
			}
		}
	case len("content-length"):
		if strings.EqualFold(name, "content-length") {
			return h.length(value)
		}
	case len("transfer-encoding"):
		if strings.EqualFold(name, "transfer-encoding") {
			if h.encoded || h.minor != '1' || !strings.EqualFold(value, "chunked") {
				return errForeign
			}
			h.encoded = true
			h.framing = framing{kind: chunked}
		}
	}
	return nil
}

func (h *head) length(value string) error {
	const digits = 18 // fit an int64
	if value == "" || len(value) > digits || strings.Trim(value, "0123456789") != "" {
		return errForeign
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return errForeign
	}
	h.lengths++
	h.framing = framing{kind: length, left: n}
	if n == 0 {
		h.framing.kind = noBody
	}
	return nil
}

// mayBegin tells whether b may be how a request begins.
func mayBegin(b []byte) bool {
	line, _, whole := strings.Cut(string(b), "\n")
	method, rest, spaced := strings.Cut(line, " ")
	const longest = 32
	if len(method) > longest || (method != "" || spaced || whole) && !isToken(method) {
		return false
	}
	target, version, ok := strings.Cut(rest, " ")
	if !spaced || !ok {
		return !whole && (target == "" || isTarget(target))
	}
	const one, zero = "HTTP/1.1\r", "HTTP/1.0\r"
	if whole {
		return isTarget(target) && (version == one || version == zero)
	}
	return isTarget(target) && (strings.HasPrefix(one, version) || strings.HasPrefix(zero, version))
}

// isToken tells whether s is a token of RFC 9110.
func isToken(s string) bool {
	for i := range len(s) {
		if !tokens[s[i]] {
			return false
		}
	}
	return s != ""
}

var tokens = func() (t [256]bool) {
	for c := range t {
		t[c] = '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c))
	}
	return t
}()

// isTarget tells whether s has neither spaces nor controls.
func isTarget(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != ""
}

// trim is s without the blanks around it.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// isText tells whether s has no controls but tabs.
func isText(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' || c == 0x7f) && c != '\t' {
			return false
		}
	}
	return true
}
