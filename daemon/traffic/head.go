package traffic

import (
	"bytes"
	"strconv"
	"strings"
)

// maxHead is the most that is looked at of a message's head.
const maxHead = 256 << 10

// headEnd is where the head that b begins with ends, with its empty line; -1:
// it goes on. The first looked bytes have been looked at before.
func headEnd(b []byte, looked int) int {
	for at := max(0, looked-2); ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return -1
		}
		at += i + 1
		rest := b[at:]
		if len(rest) > 0 && rest[0] == '\r' {
			rest = rest[1:]
		}
		if len(rest) > 0 && rest[0] == '\n' {
			return len(b) - len(rest) + 1
		}
	}
}

// firstLine cuts a head's first line off.
func firstLine(head []byte) (line string, rest []byte) {
	first, rest, _ := bytes.Cut(head, []byte("\n"))
	return strings.TrimSuffix(string(first), "\r"), rest
}

// parseFields reads header lines, in their order. What is no header is left out.
func parseFields(lines []byte) (fields [][2]string) {
	for line := range bytes.SplitSeq(lines, []byte("\n")) {
		text := strings.TrimSuffix(string(line), "\r")
		if text == "" {
			continue
		}
		if folded := text[0] == ' ' || text[0] == '\t'; folded && len(fields) > 0 {
			fields[len(fields)-1][1] += " " + strings.TrimSpace(text)
			continue
		}
		if name, value, ok := strings.Cut(text, ":"); ok && token(name) {
			fields = append(fields, [2]string{name, strings.TrimSpace(value)})
		}
	}
	return fields
}

// field is the value of the first header of a name.
func field(fields [][2]string, name string) string {
	for _, f := range fields {
		if strings.EqualFold(f[0], name) {
			return f[1]
		}
	}
	return ""
}

// token tells whether s is one, as names and methods are.
func token(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// parseRequestLine reads "GET /path HTTP/1.1".
func parseRequestLine(line string) (method, path, proto string, ok bool) {
	method, rest, ok := strings.Cut(line, " ")
	i := strings.LastIndexByte(rest, ' ')
	if !ok || i <= 0 || len(line) > maxRequestLine || len(method) > maxMethod || !token(method) || !printable(rest) {
		return "", "", "", false
	}
	path, proto = rest[:i], rest[i+1:]
	return method, path, proto, proto == "HTTP/1.1" || proto == "HTTP/1.0"
}

// parseStatusLine reads "HTTP/1.1 200 OK".
func parseStatusLine(line string) (status int, ok bool) {
	proto, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	return status, strings.HasPrefix(proto, "HTTP/1.") && err == nil && len(code) == 3 && status >= 100
}

// Limits of a request line.
const (
	maxMethod      = 32
	maxRequestLine = 32 << 10
)

// isRequest judges the beginning of a connection by its first bytes.
func isRequest(b []byte) (yes, known bool) {
	line, _, whole := bytes.Cut(b, []byte("\n"))
	method, _, ended := bytes.Cut(line, []byte(" "))
	if len(method) > maxMethod || len(method) > 0 && !token(string(method)) || len(method) == 0 && len(b) > 0 {
		return false, true
	}
	if whole {
		_, _, _, ok := parseRequestLine(strings.TrimSuffix(string(line), "\r"))
		return ok, true
	}
	if len(line) > maxRequestLine+1 {
		return false, true
	}
	if !ended {
		return false, false
	}
	return false, !printable(strings.TrimSuffix(string(line), "\r"))
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// A framing says where a body ends.
type framing struct {
	chunked bool
	length  int64 // -1: with its direction
}

func framingOf(fields [][2]string, otherwise int64) (f framing, ok bool) {
	for _, h := range fields {
		if strings.EqualFold(h[0], "Transfer-Encoding") {
			last := h[1][strings.LastIndexByte(h[1], ',')+1:]
			f.chunked = strings.EqualFold(strings.TrimSpace(last), "chunked")
			if !f.chunked && otherwise == 0 {
				return f, false // of a request: nobody knows where it ends
			}
			f.length = -1
		}
	}
	if f.chunked || f.length < 0 {
		return f, true
	}
	f.length = otherwise
	if text := field(fields, "Content-Length"); text != "" {
		text, _, _ = strings.Cut(text, ",") // some say it twice
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 63)
		if err != nil {
			return f, false
		}
		f.length = int64(n)
	}
	return f, true
}

func grpcStatus(m *message) *int {
	for _, list := range [][][2]string{m.trailers, m.fields} {
		if n, err := strconv.Atoi(field(list, "Grpc-Status")); err == nil {
			return &n
		}
	}
	return nil
}
