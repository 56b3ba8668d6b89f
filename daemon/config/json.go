package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const maxDepth = 64 // of tables and lists in each other

// A jsonReader makes nodes from encoding/json's tokens, whose places it knows.
type jsonReader struct {
	src  *source
	dec  *json.Decoder
	path []string // keys of the value being read, for messages
}

func parseJSON(src *source) (*node, error) {
	r := jsonReader{src: src, dec: json.NewDecoder(strings.NewReader(src.text))}
	r.dec.UseNumber()
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, _, err := r.token(); !errors.Is(err, io.EOF) {
		return nil, &positioned{r.src.at(r.start()), "something follows the end of the configuration"}
	}
	return n, nil
}

// start is the offset of the next token.
func (r *jsonReader) start() int {
	off := int(r.dec.InputOffset())
	return off + len(r.src.text[off:]) - len(strings.TrimLeft(r.src.text[off:], " \t\r\n:,"))
}

func (r *jsonReader) token() (json.Token, pos, error) {
	at := r.start()
	tok, err := r.dec.Token()
	switch {
	case err == nil:
		return tok, r.src.at(at), nil
	case errors.Is(err, io.EOF) && at >= len(r.src.text):
		return nil, r.src.at(at), io.EOF
	}
	if syn, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, pos{}, r.malformed(r.src.at(r.fault(at)), syn.Error())
	}
	return nil, pos{}, r.malformed(r.src.at(at), err.Error())
}

// fault finds where the text stops being JSON: Decoder's own offsets are those
// of its buffer.
func (r *jsonReader) fault(at int) int {
	var raw json.RawMessage
	err := json.Unmarshal([]byte(r.src.text), &raw)
	if syn, ok := errors.AsType[*json.SyntaxError](err); ok {
		return max(int(syn.Offset)-1, 0)
	}
	return at
}

func (r *jsonReader) value(depth int) (*node, error) {
	tok, at, err := r.token()
	if errors.Is(err, io.EOF) {
		return nil, r.malformed(at, "it ends too early")
	}
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, &positioned{at, fmt.Sprintf("more than %d levels", maxDepth)}
	}
	n := &node{pos: at}
	switch tok := tok.(type) {
	case nil:
	case bool:
		n.kind, n.text = isBool, fmt.Sprint(tok)
	case json.Number:
		n.kind, n.text = isNumber, tok.String()
	case string:
		n.kind, n.text = isText, tok
	case json.Delim:
		return n, r.inside(n, tok, depth)
	}
	return n, nil
}

// inside reads a list or table up to its closing delimiter.
func (r *jsonReader) inside(n *node, open json.Delim, depth int) error {
	n.kind = isList
	if open == '{' {
		n.kind = isTable
	}
	base := len(r.path)
	for r.dec.More() {
		var f field
		if open == '{' {
			tok, at, err := r.token()
			if err != nil {
				return r.early(at, err)
			}
			f.name, f.pos = tok.(string), at // Token checked that it is one
			r.path = append(r.path[:base], f.name)
			if n.field(f.name) != nil {
				return &positioned{at, strings.Join(r.path, ".") + ": given twice"}
			}
		}
		v, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		if f.value = v; open == '{' {
			n.fields = append(n.fields, f)
		} else {
			n.list = append(n.list, v)
		}
	}
	_, at, err := r.token()
	if err == nil {
		r.path = r.path[:base]
	}
	return r.early(at, err)
}

func (r *jsonReader) early(at pos, err error) error {
	if errors.Is(err, io.EOF) {
		return r.malformed(at, "it ends too early")
	}
	return err
}

// malformed names the key, too, in or after which the text stops being JSON.
func (r *jsonReader) malformed(at pos, why string) error {
	if len(r.path) > 0 {
		return &positioned{at, fmt.Sprintf("%s: malformed JSON: %s", strings.Join(r.path, "."), why)}
	}
	return &positioned{at, "malformed JSON: " + why}
}
