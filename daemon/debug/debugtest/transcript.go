package debugtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-dap"
)

// Transcript is all that the server sent, a message a line, in terms that are
// the same for each run of one script: ids are numbered as they appear, addresses,
// processes and generated names have none. What the debuggee printed comes when
// it likes, and so stands at the end, each stream by itself.
func (c *Client) Transcript() string {
	n := normaliser{ids: map[string]map[string]int{}}
	var lines []string
	var printed [2]string
	stopped := false // the last message told of a pause
	for _, m := range c.all {
		if e, ok := m.(*dap.OutputEvent); ok {
			if i := slices.Index([]string{"stdout", "stderr"}, e.Body.Category); i >= 0 {
				printed[i] += e.Body.Output
				continue
			}
		}
		paused := false
		if e, ok := m.(*dap.OutputEvent); ok && stopped && strings.HasPrefix(e.Body.Output, "Detaching") {
			lines = lines[:len(lines)-1] // the stop to detach, of which Delve may tell
		}
		if e, ok := m.(*dap.StoppedEvent); ok && e.Body.Reason == "pause" {
			anywhere := *e
			anywhere.Body.ThreadId = 0
			m, paused = &anywhere, true
		}
		lines = append(lines, n.line(m))
		if _, ok := m.(*dap.PauseResponse); ok && stopped { // either may come first
			last := len(lines) - 1
			lines[last], lines[last-1] = lines[last-1], lines[last]
			paused = true
		}
		stopped = paused
	}
	for i, name := range []string{"stdout", "stderr"} {
		lines = append(lines, fmt.Sprintf("%s: %q", name, Normal(printed[i])))
	}
	return strings.Join(lines, "\n")
}

// A normaliser replaces what differs between two runs.
type normaliser struct {
	ids map[string]map[string]int // by kind: an id's number
}

func (n *normaliser) line(m dap.Message) string {
	b, err := json.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		return err.Error()
	}
	for _, name := range []string{"seq", "request_seq", "type"} {
		delete(v, name)
	}
	b, err = json.Marshal(n.value("", v))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// kinds are the fields that hold an id, by what it is of.
var kinds = map[string]string{
	"threadId": "goroutine", "frameId": "frame", "variablesReference": "variables", "systemProcessId": "process",
	"instructionPointerReference": "address", "memoryReference": "address", "instructionReference": "address",
}

func (n *normaliser) value(name string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range sorted(v) {
			v[name] = n.value(name, v[name])
		}
	case []any:
		if name == "threads" {
			return n.threads(v)
		}
		for i := range v {
			v[i] = n.value(name, v[i])
		}
	case float64:
		if kind := kinds[name]; kind != "" && v != 0 {
			return n.id(kind, fmt.Sprint(v))
		}
		if name == "id" { // of a frame or breakpoint
			return n.id("id", fmt.Sprint(v))
		}
	case string:
		if kinds[name] == "address" {
			return "ADDRESS"
		}
		return Normal(v)
	}
	return v
}

// threads keeps main's goroutines: how many the runtime has depends on the time.
func (n *normaliser) threads(all []any) []any {
	var names []any
	for _, th := range all {
		if name := fmt.Sprint(th.(map[string]any)["name"]); strings.Contains(name, " main.") {
			names = append(names, Normal(name))
		}
	}
	slices.SortFunc(names, func(a, b any) int { return cmp.Compare(a.(string), b.(string)) })
	return names
}

func (n *normaliser) id(kind, id string) string {
	if n.ids[kind] == nil {
		n.ids[kind] = map[string]int{}
	}
	if _, ok := n.ids[kind][id]; !ok {
		n.ids[kind][id] = len(n.ids[kind]) + 1
	}
	return fmt.Sprintf("%s %d", kind, n.ids[kind][id])
}

var varying = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`0x[0-9a-f]+`), "ADDRESS"},
	{regexp.MustCompile(`(?i)\b(process|thread|goroutine|go|pid)( ?=? ?)[0-9]+`), "$1${2}N"},
	{regexp.MustCompile(`__debug_bin[0-9]+`), "__debug_bin"},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`\b[0-9][0-9.]*(ns|µs|ms|s)\b`), "TIME"},
}

// Normal is text without what differs between two runs.
func Normal(s string) string {
	for _, v := range varying {
		s = v.pattern.ReplaceAllString(s, v.instead)
	}
	return s
}

func sorted(m map[string]any) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
