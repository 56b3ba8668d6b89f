package config

import (
	"encoding/json"
	"strconv"
)

// A node is a parsed value, whatever the file's format.
type node struct {
	pos    pos
	kind   kind
	text   string // of a scalar: its value, numbers as written
	list   []*node
	fields []field // of a table, in the order of the file
}

type field struct {
	name  string
	pos   pos // of the name
	value *node
}

// pos counts lines and columns (bytes) from 1.
type pos struct{ line, column int }

type kind int

const (
	isNull kind = iota
	isBool
	isNumber
	isText
	isList
	isTable
)

// String says what n is, for messages.
func (n *node) String() string {
	switch n.kind {
	case isText:
		return strconv.Quote(shorten(n.text))
	case isList:
		return "a list"
	case isTable:
		return "a table"
	case isNull:
		return "null"
	}
	return shorten(n.text)
}

func (n *node) field(name string) *node {
	for _, f := range n.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// value is n as encoding/json would have it.
func (n *node) value() any {
	switch n.kind {
	case isBool:
		return n.text == "true"
	case isNumber:
		if number := json.Number(n.text); json.Valid([]byte(n.text)) {
			return number
		}
		return n.text
	case isText:
		return n.text
	case isList:
		list := []any{}
		for _, item := range n.list {
			list = append(list, item.value())
		}
		return list
	case isTable:
		table := map[string]any{}
		for _, f := range n.fields {
			table[f.name] = f.value.value()
		}
		return table
	}
	return nil
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
