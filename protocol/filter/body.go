package filter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/theory/jsonpath"
	"github.com/theory/jsonpath/registry"
	"github.com/theory/jsonpath/spec"

	"mirrord/protocol"
)

// A document is a body that was parsed, or that is no JSON.
type document struct {
	value any
	ok    bool
}

func (r *Request) document() *document {
	if r.json == nil {
		r.json = new(document)
		d := json.NewDecoder(bytes.NewReader(r.Body))
		d.UseNumber() // as they are written, for expressions
		if err := d.Decode(&r.json.value); err == nil {
			_, err = d.Token()
			r.json.ok = err == io.EOF
		}
	}
	return r.json
}

// body matches a JSON document: by jq, or by an expression of what JSONPath finds.
func body(f protocol.BodyFilter) (*Filter, error) {
	match, err := query(f)
	if err != nil {
		return nil, err
	}
	return &Filter{func(r *Request) Answer {
		switch {
		case r.Unseen:
			return No
		case !r.Whole:
			return Unsure
		case !r.document().ok:
			return No
		}
		return answer(match(r.document().value))
	}}, nil
}

func query(f protocol.BodyFilter) (func(any) bool, error) {
	if f.JQ {
		code, err := jq(f.Query)
		if err != nil {
			return nil, err
		}
		return func(v any) bool {
			yes, err := says(code, v)
			return yes && err == nil
		}, nil
	}
	p, err := JSONPath(f.Query)
	if err != nil {
		return nil, err
	}
	re, err := expression(f.Matches, false)
	if err != nil {
		return nil, err
	}
	return func(v any) bool {
		for node := range p.Select(v).All() {
			if yes, err := re.MatchString(words(node)); yes || err != nil {
				return yes && err == nil
			}
		}
		return false
	}, nil
}

// words is a value as an expression sees it.
func words(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return ""
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// JSONPath parses a query of RFC 9535, which may use the peer's typeof().
func JSONPath(q string) (*jsonpath.Path, error) {
	functions := registry.New()
	if err := functions.Register("typeof", spec.FuncValue, oneArgument, typeOf); err != nil {
		return nil, err
	}
	p, err := jsonpath.NewParser(jsonpath.WithRegistry(functions)).Parse(q)
	if err != nil {
		return nil, fmt.Errorf("%q is no JSONPath: %w", q, err)
	}
	return p, nil
}

func oneArgument(args []spec.FuncExprArg) error {
	if len(args) != 1 {
		return fmt.Errorf("typeof takes one argument, not %d", len(args))
	}
	if !args[0].ConvertsTo(spec.FuncNodes) {
		return fmt.Errorf("typeof takes a path")
	}
	return nil
}

// typeOf names the type that all nodes have, if they have one.
func typeOf(args []spec.PathValue) spec.PathValue {
	name := ""
	for _, v := range spec.NodesFrom(args[0]) {
		t := jsonType(v)
		if name != "" && t != name {
			return nil
		}
		name = t
	}
	if name == "" {
		return nil
	}
	return spec.Value(name)
}

func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "bool"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return "number"
}
