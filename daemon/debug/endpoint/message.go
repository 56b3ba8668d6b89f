package endpoint

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of a client's message; Delve's own for its body.
const (
	maxHeader = 4 << 10
	maxBody   = 4 << 20
)

// A message of DAP: a header that ends with an empty line, then JSON.
type message struct {
	raw  []byte // all of it, as it came
	body []byte
}

var errNoMessage = errors.New("not a message of DAP")

// readMessage reads the next one. With an error, raw is what was read of it.
func readMessage(r *bufio.Reader) (message, error) {
	var m message
	for {
		line, err := r.ReadSlice('\n')
		m.raw = append(m.raw, line...)
		if err == bufio.ErrBufferFull || err == nil && len(m.raw) > maxHeader {
			return m, errNoMessage
		}
		if err != nil {
			return m, err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	n, ok := length(m.raw)
	if !ok || n > maxBody {
		return m, errNoMessage
	}
	head := len(m.raw)
	m.raw = append(m.raw, make([]byte, n)...)
	got, err := io.ReadFull(r, m.raw[head:])
	m.raw = m.raw[:head+got]
	m.body = m.raw[head:]
	return m, err
}

// length is what a header says of the body.
func length(header []byte) (int, bool) {
	for line := range strings.SplitSeq(string(header), "\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Content-Length") {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

// A request is what the filter looks at in one.
type request struct {
	Seq       int             `json:"seq"`
	Type      string          `json:"type"`
	Command   string          `json:"command"`
	Arguments json.RawMessage `json:"arguments"`
}

func (m message) request() (request, bool) {
	var q request
	err := json.Unmarshal(m.body, &q)
	return q, err == nil && q.Type == "request"
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types, or JSON that was decoded
	}
	return frame(b)
}

func frame(b []byte) []byte {
	return append(fmt.Appendf(nil, "Content-Length: %d\r\n\r\n", len(b)), b...)
}

// Numbers of our errors, beside Delve's, which are below 10000.
const (
	inUse     = 10001
	noAttach  = 10002
	errorName = "mirrord"
)

// refusal is the answer to a request that fails, as the editor shows it.
func refusal(q request, id int, words string) []byte {
	type body struct {
		ID       int    `json:"id"`
		Format   string `json:"format"`
		ShowUser bool   `json:"showUser"`
	}
	type answer struct {
		Seq        int             `json:"seq"`
		Type       string          `json:"type"`
		RequestSeq int             `json:"request_seq"`
		Success    bool            `json:"success"`
		Command    string          `json:"command"`
		Message    string          `json:"message"`
		Body       map[string]body `json:"body"`
	}
	// Braces would be variables to the editor.
	format := strings.NewReplacer("{", "(", "}", ")").Replace(errorName + ": " + words)
	return encode(answer{
		Type: "response", RequestSeq: q.Seq, Command: q.Command, Message: words,
		Body: map[string]body{"error": {ID: id, Format: format, ShowUser: true}},
	})
}

// output is an event that tells the user something.
func output(words string) []byte { return outputEvent("important", errorName+": "+words+"\n", "") }

// console is an event with a text for the debug console; group: one that clients
// fold begins with it (startCollapsed) or has ended (end).
func console(text, group string) []byte { return outputEvent("console", text, group) }

func outputEvent(category, text, group string) []byte {
	type body struct {
		Category string `json:"category"`
		Output   string `json:"output"`
		Group    string `json:"group,omitempty"`
	}
	type event struct {
		Seq   int    `json:"seq"`
		Type  string `json:"type"`
		Event string `json:"event"`
		Body  body   `json:"body"`
	}
	return encode(event{Type: "event", Event: "output", Body: body{Category: category, Output: text, Group: group}})
}
