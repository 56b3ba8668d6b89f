package endpoint

import (
	"bufio"
	"bytes"
	"context"
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
//
// These two are only for a client that has no command line of Delve's. To every
// one is told which request a goroutine that stops serves: of that Delve is asked
// in between.
//
// Goroutines: one that reads what the client says, and one for each stop; Close
// ends them, and wait waits.
type filter struct {
	net.Conn
	r       *bufio.Reader
	plain   bool    // Delve was started by the client
	serving Serving // nil: nobody knows of requests

	client chan said   // what the client says, until that is no message
	ours   chan []byte // our requests
	rest   []byte      // of the message that Delve reads
	raw    bool        // what follows is no message: Delve's to judge

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	out     []byte                // guarded by mu; what Delve has said of a message
	asked   int                   // guarded by mu; our requests
	answers map[int]chan response // guarded by mu; to those that wait, by their numbers
	shown   map[int64]uint64      // guarded by mu; the request that each goroutine was said to serve
}

type said struct {
	message
	err error
}

func newFilter(c net.Conn, r *bufio.Reader, plain bool, serving Serving, first ...message) *filter {
	f := &filter{
		Conn: c, r: r, plain: plain, serving: serving,
		client: make(chan said), ours: make(chan []byte), answers: map[int]chan response{}, shown: map[int64]uint64{},
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.wg.Go(func() { f.hear(first) })
	return f
}

// hear reads the client's messages, after those that were read already.
func (f *filter) hear(first []message) {
	for {
		var s said
		if len(first) > 0 {
			s.message, first = first[0], first[1:]
		} else {
			s.message, s.err = readMessage(f.r)
		}
		select {
		case f.client <- s:
		case <-f.ctx.Done():
			return
		}
		if s.err != nil {
			return
		}
	}
}

// Close ends the connection and what goes on for it.
func (f *filter) Close() error {
	f.cancel()
	return f.Conn.Close()
}

func (f *filter) wait() { f.wg.Wait() }

// Read is called by one goroutine, Delve's.
func (f *filter) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.raw {
			return f.r.Read(p)
		}
		select {
		case s := <-f.client:
			if s.err == nil {
				f.rest = f.pass(s.message)
				break
			}
			f.raw = true
			if len(s.raw) == 0 {
				return 0, s.err
			}
			f.rest = s.raw
		case f.rest = <-f.ours:
		case <-f.ctx.Done():
			return 0, net.ErrClosed
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// pass returns what Delve gets of a message, nothing where it is answered here.
func (f *filter) pass(m message) []byte {
	q, ok := m.request()
	if !ok || f.plain {
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
		if err := f.told(f.out[:head+n], f.out[head:head+n]); err != nil {
			return 0, err
		}
		if f.out = f.out[head+n:]; len(f.out) == 0 {
			f.out = nil
			return len(p), nil
		}
	}
}

// told passes on a message of Delve's. f.mu is held.
func (f *filter) told(raw, body []byte) error {
	if f.answered(body) {
		return nil
	}
	if _, err := f.Conn.Write(raw); err != nil {
		return err
	}
	if thread, ok := stopped(body); ok && f.serving != nil && f.ctx.Err() == nil {
		f.wg.Go(func() { f.look(thread) })
	}
	return nil
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
