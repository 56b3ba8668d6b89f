package endpoint

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// A script is a client that says all at once and hears what it is answered.
type script struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error) { return s.out.Write(p) }

// through has a client say in, and returns what Delve reads and the client hears.
func through(t *testing.T, in io.Reader) (read, heard string) {
	t.Helper()
	s := &script{in: in}
	r := bufio.NewReader(s)
	first, err := readMessage(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(newFilter(s, r, false, nil, first))
	if err != nil && err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	return string(b), s.out.String()
}

func framed(bodies ...string) string {
	var all []byte
	for _, b := range bodies {
		all = append(all, frame([]byte(b))...)
	}
	return string(all)
}

func TestFilter(t *testing.T) {
	const first = `{"seq":1,"type":"request","command":"initialize"}`
	const next = `{"seq":3, "type":"request", "command":"threads", "unknown":"<&>"}`
	refused := func(seq, command string) string {
		return `{"seq":0,"type":"response","request_seq":` + seq + `,"success":false,"command":"` + command + `",` +
			`"message":"Failed to attach: a process that runs already cannot be put into the context of a target; launch the program instead, or attach with Delve itself to debug it as it is",` +
			`"body":{"error":{"id":10002,"format":"mirrord: Failed to attach: a process that runs already cannot be put into the context of a target; launch the program instead, or attach with Delve itself to debug it as it is","showUser":true}}}`
	}
	for _, tt := range []struct{ name, in, want, heard string }{
		{name: "a launch", in: `{"seq":2,"type":"request","command":"launch","arguments":{"mode":"exec","program":"<a>"}}`,
			want: `{"arguments":{"mode":"exec","outputMode":"remote","program":"\u003ca\u003e"},"command":"launch","seq":2,"type":"request"}`},
		{name: "an empty outputMode", in: `{"seq":2,"type":"request","command":"launch","arguments":{"outputMode":""}}`,
			want: `{"arguments":{"outputMode":"remote"},"command":"launch","seq":2,"type":"request"}`},
		{name: "an outputMode", in: `{"seq":2, "type":"request", "command":"launch", "arguments":{"outputMode":"local", "noDebug":false}}`},
		{name: "no arguments", in: `{"seq":2, "type":"request", "command":"launch"}`},
		{name: "other arguments", in: `{"seq":2, "type":"request", "command":"launch", "arguments":[1]}`},
		{name: "an attach", in: `{"seq":2,"type":"request","command":"attach","arguments":{"mode":"local","processId":7}}`, want: "none", heard: refused("2", "attach")},
		{name: "an attach of no mode", in: `{"seq":2,"type":"request","command":"attach","arguments":{"processId":7}}`, want: "none", heard: refused("2", "attach")},
		{name: "an attach of nothing", in: `{"seq":2,"type":"request","command":"attach"}`, want: "none", heard: refused("2", "attach")},
		{name: "an attach to a server", in: `{"seq":2, "type":"request", "command":"attach", "arguments":{"mode":"remote"}}`},
		{name: "a response", in: `{"seq":2, "type":"response", "command":"attach", "success":true}`},
		{name: "an event", in: `{"seq":2, "type":"event", "event":"launch"}`},
		{name: "not JSON", in: `{"seq":2, `},
		{name: "nothing", in: ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := framed(first, tt.in, next)
			switch tt.want {
			case "":
			case "none":
				want = framed(first, next)
			default:
				want = framed(first, tt.want, next)
			}
			heard := ""
			if tt.heard != "" {
				heard = framed(tt.heard)
			}
			all := strings.NewReader(framed(first, tt.in, next))
			for _, in := range []io.Reader{all, iotest.OneByteReader(strings.NewReader(framed(first, tt.in, next)))} {
				got, told := through(t, in)
				if got != want {
					t.Errorf("Delve reads %s", cmp.Diff(want, got))
				}
				if told != heard {
					t.Errorf("the client hears %s", cmp.Diff(heard, told))
				}
			}
		})
	}
}

// What is no message is Delve's to judge, and so is all that follows it.
func TestFilterPassesOther(t *testing.T) {
	first := framed(`{"seq":1,"type":"request","command":"initialize"}`)
	attach := framed(`{"seq":2,"type":"request","command":"attach"}`)
	for _, rest := range []string{
		"", "\r\n\r\n" + attach, "Content-Length: -1\r\n\r\n" + attach, "Content-Length: 99999999\r\n\r\n" + attach,
		"Content-Length: 9\r\n\r\n{", "Content-Le", strings.Repeat("x", 3*maxHeader) + attach,
		"Content-Type: a\r\nContent-Length: 2\r\n\r\n{}",
	} {
		if got, heard := through(t, strings.NewReader(first+rest)); got != first+rest || heard != "" {
			t.Errorf("%.40q: Delve reads %.60q, the client hears %q", rest, got, heard)
		}
	}
}

// Delve's messages are passed on whole, however they are written.
func TestFilterWrites(t *testing.T) {
	large := framed(`"` + strings.Repeat("x", maxBody+1) + `"`)
	all := framed(`{"a":1}`, ``, `{"b":"é"}`) + large + framed(`{}`)
	for _, size := range []int{1, 3, 7, 1 << 20, len(all)} {
		s := &script{}
		f := newFilter(s, bufio.NewReader(strings.NewReader("")), false, nil)
		defer f.cancel()
		for b := []byte(all); len(b) > 0; {
			n := min(size, len(b))
			if got, err := f.Write(b[:n]); got != n || err != nil {
				t.Fatal(got, err)
			}
			if size == 3 && strings.HasPrefix(all, s.out.String()) {
				for r := bufio.NewReader(bytes.NewReader(s.out.Bytes())); r.Size() > 0; {
					if _, err := readMessage(r); err == io.EOF {
						break
					} else if err == errNoMessage { // the large one
						break
					} else if err != nil {
						t.Fatalf("a part of a message was passed on: %v", err)
					}
				}
				size = 1 << 18
			}
			b = b[n:]
		}
		if s.out.String() != all {
			t.Errorf("in pieces of %d: other bytes", size)
		}
	}
}

// What is read is what came, whatever it was.
func FuzzReadMessage(f *testing.F) {
	f.Add(framed(`{"seq":1}`, `{}`))
	f.Add("Content-Length: 3\n\nabcd")
	f.Fuzz(func(t *testing.T, in string) {
		r := bufio.NewReader(strings.NewReader(in))
		var got []byte
		for {
			m, err := readMessage(r)
			got = append(got, m.raw...)
			if err == nil && !bytes.HasSuffix(m.raw, m.body) {
				t.Errorf("%q ends with no %q", m.raw, m.body)
			}
			if err != nil {
				break
			}
		}
		rest, err := io.ReadAll(r)
		if err != nil || string(got)+string(rest) != in {
			t.Errorf("%q became %q and %q", in, got, rest)
		}
	})
}
