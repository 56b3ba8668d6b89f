package endpoint

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"sync"
	"time"
)

// A filter is the client's connection as Delve sees it. What passes is the same
// bytes, but for what follows from where Delve runs:
//
//   - launch without an outputMode gets "remote": there is no terminal, so the
//     debuggee's output is told in events.
//   - attach to a process of this machine is refused.
type filter struct {
	net.Conn
	r     *bufio.Reader
	first *message // was read already
	rest  []byte   // of the message that Delve reads
	raw   bool     // what follows is no message: Delve's to judge

	mu  sync.Mutex
	out []byte // guarded by mu; what Delve has said of a message
}

func newFilter(c net.Conn, r *bufio.Reader, first message) *filter {
	return &filter{Conn: c, r: r, first: &first}
}

// Read is called by one goroutine, Delve's.
func (f *filter) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.raw {
			return f.r.Read(p)
		}
		m, err := f.next()
		if err != nil {
			f.raw = true
			if len(m.raw) == 0 {
				return 0, err
			}
			f.rest = m.raw
			break
		}
		f.rest = f.pass(m)
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *filter) next() (message, error) {
	if m := f.first; m != nil {
		f.first = nil
		return *m, nil
	}
	return readMessage(f.r)
}

// pass returns what Delve gets of a message, nothing where it is answered here.
func (f *filter) pass(m message) []byte {
	q, ok := m.request()
	if !ok {
		return m.raw
	}
	switch q.Command {
	case "launch":
		return launch(m)
	case "attach":
		var args struct {
			Mode string `json:"mode"`
		}
		if json.Unmarshal(q.Arguments, &args) == nil && args.Mode != "" && args.Mode != "local" {
			return m.raw
		}
		f.write(refusal(q, noAttach, "Failed to attach: a process that runs already cannot be put into the context of a target; "+
			"launch the program instead, or attach with Delve itself to debug it as it is"))
		return nil
	}
	return m.raw
}

// launch returns the launch request m as Delve is to read it.
func launch(m message) []byte {
	var all, args map[string]json.RawMessage
	if json.Unmarshal(m.body, &all) != nil || json.Unmarshal(all["arguments"], &args) != nil || args == nil {
		return m.raw
	}
	if mode := string(args["outputMode"]); mode != "" && mode != "null" && mode != `""` {
		return m.raw
	}
	args["outputMode"] = json.RawMessage(`"remote"`)
	b, err := json.Marshal(args)
	if err != nil {
		return m.raw
	}
	all["arguments"] = b
	return encode(all)
}

// Write takes what Delve says, in pieces, and passes on whole messages: we may
// have something to say in between.
func (f *filter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out = append(f.out, p...)
	for {
		head := bytes.Index(f.out, []byte("\r\n\r\n"))
		if head < 0 {
			return len(p), nil
		}
		head += len("\r\n\r\n")
		n, ok := length(f.out[:head])
		if !ok {
			n = len(f.out) - head // none that we know: as it is
		}
		if len(f.out) < head+n {
			return len(p), nil
		}
		if _, err := f.Conn.Write(f.out[:head+n]); err != nil {
			return 0, err
		}
		if f.out = f.out[head+n:]; len(f.out) == 0 {
			f.out = nil
			return len(p), nil
		}
	}
}

func (f *filter) write(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.Conn.Write(b) // a client that is gone is noticed by reading
}

// sayTime bounds the wait for a client that reads nothing.
const sayTime = time.Second

// say shows the user something, as the last thing that is said.
func (f *filter) say(words string) {
	f.Conn.SetWriteDeadline(time.Now().Add(sayTime))
	f.write(output(words))
}
