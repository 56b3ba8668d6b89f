package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// parseTOML lets the library judge the file and then walks its expressions,
// since only they know their places.
func parseTOML(src *source) (*node, error) {
	var judged map[string]any
	if err := toml.Unmarshal([]byte(src.text), &judged); err != nil {
		if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, column := bad.Position()
			msg := strings.TrimPrefix(bad.Error(), "toml: ")
			return nil, &positioned{src.at(src.offset(line, column)), "malformed TOML: " + msg}
		}
		return nil, fmt.Errorf("malformed TOML: %w", err)
	}
	r := tomlReader{src: src}
	r.p.Reset([]byte(src.text))
	root := &node{pos: pos{1, 1}, kind: isTable}
	table := root
	for r.p.NextExpression() {
		switch e := r.p.Expression(); e.Kind {
		case unstable.Table:
			table = r.table(root, e.Key(), false)
		case unstable.ArrayTable:
			table = r.table(root, e.Key(), true)
		case unstable.KeyValue:
			if err := r.keyValue(table, e, 0); err != nil {
				return nil, err
			}
		}
	}
	return root, r.p.Error()
}

type tomlReader struct {
	src *source
	p   unstable.Parser
}

func (r *tomlReader) at(raw unstable.Range) pos { return r.src.at(int(raw.Offset)) }

// table walks key from n on, making the tables that are not there yet; with
// array, the last step is one more element of a list.
func (r *tomlReader) table(n *node, key unstable.Iterator, array bool) *node {
	for key.Next() {
		k := key.Node()
		name, at := string(k.Data), r.at(k.Raw)
		child := n.field(name)
		if child == nil {
			child = &node{pos: at, kind: isTable}
			if array && key.IsLast() {
				child.kind = isList
			}
			n.fields = append(n.fields, field{name, at, child})
		}
		if n = child; n.kind == isList {
			if array && key.IsLast() {
				n.list = append(n.list, &node{pos: at, kind: isTable})
			}
			n = n.list[len(n.list)-1]
		}
	}
	return n
}

func (r *tomlReader) keyValue(n *node, e *unstable.Node, depth int) error {
	value, err := r.value(e.Value(), depth)
	if err != nil {
		return err
	}
	key := e.Key()
	for key.Next() {
		k := key.Node()
		name, at := string(k.Data), r.at(k.Raw)
		if key.IsLast() {
			if value.pos == (pos{}) {
				value.pos = at
			}
			n.fields = append(n.fields, field{name, at, value})
			return nil
		}
		child := n.field(name)
		if child == nil {
			child = &node{pos: at, kind: isTable}
			n.fields = append(n.fields, field{name, at, child})
		}
		n = child
	}
	return nil
}

func (r *tomlReader) value(v *unstable.Node, depth int) (*node, error) {
	n := &node{}
	if v.Raw.Length > 0 {
		n.pos = r.at(v.Raw)
	} else if len(v.Data) > 0 && v.Kind != unstable.String {
		n.pos = r.at(r.p.Range(v.Data))
	}
	if depth > maxDepth {
		return nil, &positioned{n.pos, fmt.Sprintf("more than %d levels", maxDepth)}
	}
	switch v.Kind {
	case unstable.Bool:
		n.kind, n.text = isBool, string(v.Data)
	case unstable.Integer, unstable.Float:
		n.kind, n.text = isNumber, strings.ReplaceAll(string(v.Data), "_", "")
	case unstable.Array:
		n.kind = isList
		for it := v.Children(); it.Next(); {
			item, err := r.value(it.Node(), depth+1)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, item)
		}
	case unstable.InlineTable:
		n.kind = isTable
		for it := v.Children(); it.Next(); {
			if err := r.keyValue(n, it.Node(), depth+1); err != nil {
				return nil, err
			}
		}
	default: // text, and the dates, which no setting takes
		n.kind, n.text = isText, string(v.Data)
	}
	return n, nil
}
