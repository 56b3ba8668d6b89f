// Package filter chooses HTTP requests, as a user's configuration and the peer's
// schema say it: by regular expressions of headers and paths, by method, by what
// a JSON body contains, and by all or any of these.
//
// The daemon compiles a filter to tell what is wrong with it, the agent to match
// requests by it. Its rule: whatever cannot be decided, because it takes too
// long or is no JSON, does not match, and so stays the pod's.
package filter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
	"github.com/itchyny/gojq"

	"mirrord/protocol"
	"mirrord/protocol/pattern"
)

// Limits of matching one request.
const (
	matchTimeout = 100 * time.Millisecond // of each expression
	jqTimeout    = 100 * time.Millisecond
	maxNesting   = 16 // of all and any
)

// An Answer is what a filter says of a request.
type Answer int

const (
	No     Answer = iota
	Unsure        // its body decides, and is not known yet
	Yes
)

// A Field is a header field.
type Field struct {
	Name, Value string
	Line        string // "Name: value", or empty
}

func (f *Field) line() string {
	if f.Line != "" {
		return f.Line
	}
	return f.Name + ": " + f.Value
}

// A Request is what is known of one. A connection in TLS that is not opened is one
// of which nothing is known but its server's name.
type Request struct {
	ServerName string // that its client asked for in TLS; "": none, or no TLS
	Method     string
	Path       string // with its query, without scheme and server; never empty
	Header     []Field
	Body       []byte // the whole
	Whole      bool   // Body is known
	Unseen     bool   // Body will never be known, as it is too large or too late

	json *document // of Body
}

// A Filter is compiled and may be used by any goroutine.
type Filter struct{ match func(*Request) Answer }

// Match judges a request.
func (f *Filter) Match(r *Request) Answer { return f.match(r) }

// Compile says what is wrong with a filter.
func Compile(f protocol.Filter) (*Filter, error) { return compile(f, 0) }

func compile(f protocol.Filter, depth int) (*Filter, error) {
	given := 0
	for _, is := range []bool{
		f.Header != "", f.HeaderJQ != "", f.Path != "", f.Method != "", f.Body != nil, f.ServerName != "", len(f.All) > 0, len(f.Any) > 0,
	} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, fmt.Errorf("a filter is of one kind, not of %d", given)
	case depth > maxNesting:
		return nil, errors.New("filters are nested too deep")
	case f.Header != "":
		return header(f.Header)
	case f.HeaderJQ != "":
		return headerJQ(f.HeaderJQ)
	case f.Path != "":
		return path(f.Path)
	case f.Method != "":
		return &Filter{func(r *Request) Answer { return answer(strings.EqualFold(r.Method, f.Method)) }}, nil
	case f.Body != nil:
		return body(*f.Body)
	case f.ServerName != "":
		return serverName(f.ServerName)
	case len(f.All) > 0:
		return several(f.All, depth, No)
	}
	return several(f.Any, depth, Yes)
}

func answer(yes bool) Answer {
	if yes {
		return Yes
	}
	return No
}

// several decides by the first that says what settles it, else by who is unsure.
func several(list []protocol.Filter, depth int, settles Answer) (*Filter, error) {
	var all []*Filter
	for _, one := range list {
		f, err := compile(one, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return &Filter{func(r *Request) Answer {
		result := Yes - settles
		for _, f := range all {
			switch f.match(r) {
			case settles:
				return settles
			case Unsure:
				result = Unsure
			}
		}
		return result
	}}, nil
}

func expression(text string, fold bool) (*regexp2.Regexp, error) {
	re, err := pattern.Compile(text, fold, matchTimeout)
	if err != nil {
		return nil, fmt.Errorf("%q is no regular expression: %w", text, err)
	}
	return re, nil
}

func header(text string) (*Filter, error) {
	re, err := expression(text, true)
	if err != nil {
		return nil, err
	}
	known := memory{match: re.MatchString, known: map[string]bool{}}
	return &Filter{func(r *Request) Answer { return r.anyField(known.Match) }}, nil
}

// anyField asks ok about each field as "Name: value"; an error ends it.
func (r *Request) anyField(ok func(string) (bool, error)) Answer {
	for i := range r.Header {
		yes, err := ok(r.Header[i].line())
		if yes || err != nil {
			return answer(yes)
		}
	}
	return No
}

func headerJQ(query string) (*Filter, error) {
	code, err := jq(query)
	if err != nil {
		return nil, err
	}
	return &Filter{func(r *Request) Answer {
		return r.anyField(func(field string) (bool, error) { return says(code, field) })
	}}, nil
}

// path matches the path, and the path with its query.
func path(text string) (*Filter, error) {
	re, err := expression(text, true)
	if err != nil {
		return nil, err
	}
	return &Filter{func(r *Request) Answer {
		if r.Path == "" {
			return No
		}
		alone, _, _ := strings.Cut(r.Path, "?")
		yes, err := re.MatchString(alone)
		if !yes && err == nil && alone != r.Path {
			yes, err = re.MatchString(r.Path)
		}
		return answer(yes && err == nil)
	}}, nil
}

// serverName matches what a client that speaks TLS wants to speak to.
func serverName(text string) (*Filter, error) {
	re, err := expression(text, true)
	if err != nil {
		return nil, err
	}
	return &Filter{func(r *Request) Answer {
		if r.ServerName == "" {
			return No
		}
		yes, err := re.MatchString(r.ServerName)
		return answer(yes && err == nil)
	}}, nil
}

func jq(query string) (*gojq.Code, error) {
	q, err := gojq.Parse(query)
	if err != nil {
		return nil, fmt.Errorf("%q is no jq query: %w", query, err)
	}
	code, err := gojq.Compile(q)
	if err != nil {
		return nil, fmt.Errorf("%q is no jq query: %w", query, err)
	}
	return code, nil
}

// says reports whether the first result of a query is true.
func says(code *gojq.Code, input any) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), jqTimeout)
	defer cancel()
	v, ok := code.RunWithContext(ctx, input).Next()
	if err, failed := v.(error); ok && failed {
		if ctx.Err() != nil {
			return false, err
		}
		return false, nil // of this input
	}
	return v == true, nil
}
