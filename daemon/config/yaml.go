package config

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// A yamlReader makes nodes of goccy's syntax tree. An alias is its anchor's
// node itself, so a file cannot grow by aliases of aliases.
type yamlReader struct {
	src     *source
	anchors map[string]*node
}

func parseYAML(src *source) (*node, error) {
	r := yamlReader{src, map[string]*node{}}
	file, err := parser.ParseBytes([]byte(src.text), 0)
	if err != nil {
		if syn, ok := errors.AsType[*yaml.SyntaxError](err); ok && syn.Token != nil {
			return nil, &positioned{r.at(syn.Token), "malformed YAML: " + syn.Message}
		}
		return nil, fmt.Errorf("malformed YAML: %w", err)
	}
	if len(file.Docs) > 1 {
		return nil, &positioned{r.at(file.Docs[1].GetToken()), "a second document"}
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return &node{pos: pos{1, 1}}, nil
	}
	return r.node(file.Docs[0].Body, 0)
}

func (r *yamlReader) at(t *token.Token) pos {
	if t == nil || t.Position == nil {
		return pos{1, 1}
	}
	return r.src.at(r.src.offset(t.Position.Line, t.Position.Column))
}

func (r *yamlReader) node(from ast.Node, depth int) (*node, error) {
	n := &node{pos: r.at(from.GetToken())}
	if depth > maxDepth {
		return nil, &positioned{n.pos, fmt.Sprintf("more than %d levels", maxDepth)}
	}
	switch from := from.(type) {
	case *ast.NullNode:
	case *ast.BoolNode:
		n.kind, n.text = isBool, fmt.Sprint(from.Value)
	case *ast.IntegerNode:
		n.kind, n.text = isNumber, fmt.Sprint(from.Value)
	case *ast.FloatNode:
		n.kind, n.text = isNumber, from.Token.Value
	case *ast.StringNode:
		n.kind, n.text = isText, from.Value
	case *ast.LiteralNode:
		n.kind, n.text = isText, from.Value.Value
	case *ast.SequenceNode:
		n.kind = isList
		for _, v := range from.Values {
			item, err := r.node(v, depth+1)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, item)
		}
	case *ast.MappingNode:
		n.kind = isTable
		return n, r.fields(n, from.Values, depth)
	case *ast.MappingValueNode:
		n.kind, n.pos = isTable, r.at(from.Key.GetToken())
		return n, r.fields(n, []*ast.MappingValueNode{from}, depth)
	case *ast.AnchorNode:
		v, err := r.node(from.Value, depth+1)
		if err == nil {
			r.anchors[from.Name.String()] = v
		}
		return v, err
	case *ast.AliasNode:
		if v := r.anchors[from.Value.String()]; v != nil {
			return v, nil
		}
		return nil, &positioned{n.pos, fmt.Sprintf("malformed YAML: no anchor %s before its alias", from.Value)}
	default:
		return nil, &positioned{n.pos, fmt.Sprintf("YAML's %v is not served", from.Type())}
	}
	return n, nil
}

func (r *yamlReader) fields(n *node, values []*ast.MappingValueNode, depth int) error {
	var merged []field
	for _, v := range values {
		value, err := r.node(v.Value, depth+1)
		if err != nil {
			return err
		}
		if v.Key.IsMergeKey() {
			merged = append(merged, value.fields...)
			continue
		}
		key, err := r.node(v.Key, depth+1)
		if err != nil {
			return err
		}
		if n.field(key.text) != nil {
			return &positioned{key.pos, key.text + ": given twice"}
		}
		n.fields = append(n.fields, field{key.text, key.pos, value})
	}
	for _, f := range merged { // what the table says itself wins
		if n.field(f.name) == nil {
			n.fields = append(n.fields, f)
		}
	}
	return nil
}
