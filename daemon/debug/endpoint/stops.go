package endpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mirrord/protocol/ide"
)

// Serving asks the daemon which request is served by who has a connection.
type Serving func(ctx context.Context, p ide.ServingParams) (ide.ServingResult, error)

// lookTime bounds the look at a stop: what comes later is of no use.
const lookTime = 2 * time.Second

// ownSeq is the number before that of our first request to Delve, beyond all that
// clients count to.
const ownSeq = 1 << 30

// maxShown goroutines are remembered, with what they serve.
const maxShown = 1000

// maxFrames of a stack are looked at.
const maxFrames = 256

// A server is a function that is on the stack of whoever serves a request, and
// what in its frame says which. In an optimized program what HTTP/2's has is in
// registers that are used for other things by then: nothing is told there.
type server struct {
	frame  string
	peer   string // a string "IP:port", as the listener saw it
	stream string // a number; "": it is not HTTP/2
}

// Delve names functions by the last element of their package's path: net/http,
// and golang.org/x/net/http2.
var servers = []server{
	{frame: "http.(*conn).serve", peer: "c.remoteAddr"},
	{frame: "http.(*http2serverConn).runHandler", peer: "sc.remoteAddrStr", stream: "rw.rws.stream.id"},
	{frame: "http2.(*serverConn).runHandler", peer: "sc.remoteAddrStr", stream: "rw.rws.stream.id"},
}

// An event is what is looked at in one.
type event struct {
	Type  string `json:"type"`
	Event string `json:"event"`
	Body  struct {
		ThreadID int64 `json:"threadId"` // Delve: the goroutine
	} `json:"body"`
}

// stopped returns the goroutine that a message tells has stopped.
func stopped(body []byte) (thread int64, ok bool) {
	var e event
	if !bytes.Contains(body, []byte(`"stopped"`)) || json.Unmarshal(body, &e) != nil {
		return 0, false
	}
	return e.Body.ThreadID, e.Type == "event" && e.Event == "stopped" && e.Body.ThreadID > 0
}

// A response is what is looked at in one.
type response struct {
	Type       string          `json:"type"`
	RequestSeq int             `json:"request_seq"`
	Success    bool            `json:"success"`
	Body       json.RawMessage `json:"body"`
}

// look tells the client which request the goroutine that has stopped serves,
// where that is known for certain.
func (f *filter) look(thread int64) {
	ctx, cancel := context.WithTimeout(f.ctx, lookTime)
	defer cancel()
	p, err := f.connection(ctx, thread)
	if err != nil {
		return // it serves none, or goes on already
	}
	r, err := f.serving(ctx, p)
	if err != nil {
		return
	}
	f.mu.Lock()
	again := f.shown[r.Thread] == r.ID
	if len(f.shown) > maxShown {
		clear(f.shown)
	}
	f.shown[r.Thread] = r.ID
	f.mu.Unlock()
	if !again { // as at each step within a handler
		f.write(shown(r))
	}
}

var errNoRequest = errors.New("it serves no request")

// connection reads from a stopped goroutine's stack whose request it serves.
func (f *filter) connection(ctx context.Context, thread int64) (ide.ServingParams, error) {
	p := ide.ServingParams{Thread: thread}
	var stack struct {
		Frames []struct {
			ID   int    `json:"id"`
			Name string `json:"name"`
		} `json:"stackFrames"`
	}
	if err := f.ask(ctx, "stackTrace", map[string]any{"threadId": thread, "levels": maxFrames}, &stack); err != nil {
		return p, err
	}
	for _, frame := range stack.Frames {
		i := slices.IndexFunc(servers, func(s server) bool { return s.frame == frame.Name })
		if i < 0 {
			continue
		}
		text, err := f.evaluate(ctx, frame.ID, servers[i].peer)
		if err != nil {
			return p, err
		}
		if p.Peer, err = strconv.Unquote(text); err != nil || servers[i].stream == "" {
			return p, err
		}
		if text, err = f.evaluate(ctx, frame.ID, servers[i].stream); err != nil {
			return p, err
		}
		text, _, _ = strings.Cut(text, " ") // "3 = 0x3"
		stream, err := strconv.ParseUint(text, 10, 32)
		p.Stream = uint32(stream)
		return p, err
	}
	return p, errNoRequest
}

func (f *filter) evaluate(ctx context.Context, frame int, expression string) (string, error) {
	var value struct {
		Result string `json:"result"`
	}
	err := f.ask(ctx, "evaluate", map[string]any{"expression": expression, "frameId": frame, "context": "watch"}, &value)
	return value.Result, err
}

// ask has Delve answer a request that is not the client's.
func (f *filter) ask(ctx context.Context, command string, args, into any) error {
	answer := make(chan response, 1)
	f.mu.Lock()
	f.asked++
	seq := ownSeq + f.asked
	f.answers[seq] = answer
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.answers, seq)
	}()
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	select {
	case f.ours <- encode(request{Seq: seq, Type: "request", Command: command, Arguments: raw}):
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case r := <-answer:
		if !r.Success {
			return fmt.Errorf("Delve refuses %s", command)
		}
		return json.Unmarshal(r.Body, into)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answered takes a message of Delve's that answers a request of ours, which the
// client does not know. f.mu is held.
func (f *filter) answered(body []byte) bool {
	if f.asked == 0 {
		return false
	}
	var r response
	if json.Unmarshal(body, &r) != nil || r.Type != "response" || r.RequestSeq <= ownSeq {
		return false
	}
	if answer := f.answers[r.RequestSeq]; answer != nil {
		answer <- r
	}
	return true
}

// shown is what a client shows of a request: a line, below which the headers are.
func shown(r ide.ServingResult) []byte {
	from := r.Peer
	if r.Pod != "" {
		from = fmt.Sprintf("pod %s (%s)", r.Pod, r.Peer)
	}
	line := fmt.Sprintf("%s: goroutine %d serves %s %s from %s\n", errorName, r.Thread, r.Method, r.Path, from)
	if len(r.Headers) == 0 {
		return console(line, "")
	}
	var headers strings.Builder
	for _, h := range r.Headers {
		fmt.Fprintf(&headers, "%s: %s\n", h[0], h[1])
	}
	return slices.Concat(console(line, "startCollapsed"), console(headers.String(), ""), console("", "end"))
}
