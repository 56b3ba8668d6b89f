package config

import (
	"fmt"
	"slices"
	"strings"

	"mirrord/protocol"
	"mirrord/protocol/filter"
)

var filterSettings = []setting{
	{key: filterKey + ".header_filter", takes: text, doc: "Steal, or mirror, requests with a header that matches, as NAME: VALUE in any case.",
		set: only(func(f *protocol.Filter) *string { return &f.Header })},
	{key: filterKey + ".header_filter_jq", takes: text, doc: "Steal, or mirror, requests with a header for which jq says true: it is asked for each, as a text \"Name: value\".",
		set: only(func(f *protocol.Filter) *string { return &f.HeaderJQ })},
	{key: filterKey + ".path_filter", takes: text, doc: "Steal, or mirror, requests whose path matches, without or with its query, in any case.",
		set: only(func(f *protocol.Filter) *string { return &f.Path })},
	{key: filterKey + ".method_filter", takes: text, doc: "Steal, or mirror, requests of a method.",
		set: only(func(f *protocol.Filter) *string { return &f.Method })},
	{key: filterKey + ".server_name_filter", takes: text, doc: "mirrord's own: steal connections in TLS whose client asks for a server (SNI) that matches, as a whole; their requests, where tls opens them.",
		set: only(func(f *protocol.Filter) *string { return &f.ServerName })},
	{key: filterKey + ".body_filter", takes: anything,
		doc: `Steal, or mirror, requests by their JSON body: {"body": "json", "query": JSONPATH, "matches": REGEX}, or {"body": "jq", "query": JQ}. ` +
			"A body of more than 64 KiB, of gRPC, not there within a second, or that its client asks leave to send (Expect), does not match.",
		set: func(c *Config, v *node) error { return c.filter(bodyFilter(v)) }},
	{key: filterKey + ".all_of", takes: anything, doc: `Steal, or mirror, requests that all of these match: [{"header": REGEX}, {"path": REGEX}, {"method": NAME}, {"body": …}].`,
		set: func(c *Config, v *node) error {
			all, err := filters(v)
			return c.filter(protocol.Filter{All: all}, err)
		}},
	{key: filterKey + ".any_of", takes: anything, doc: "Steal, or mirror, requests that one of these matches, written as for all_of.",
		set: func(c *Config, v *node) error {
			all, err := filters(v)
			return c.filter(protocol.Filter{Any: all}, err)
		}},
	{key: filterKey + ".ports", takes: ports | wildcard, doc: "Take and filter only these ports, and unfiltered those of incoming.ports; else all are filtered.",
		set: setFilterPorts},
}

// only makes a setter of a filter that is one text.
func only(field func(*protocol.Filter) *string) func(*Config, *node) error {
	return func(c *Config, v *node) error {
		if v.text == "" { // lint tells it
			return nil
		}
		f, err := simple(v, field)
		return c.filter(f, err)
	}
}

// filter keeps what was read.
func (c *Config) filter(f protocol.Filter, err error) error {
	if err == nil {
		c.Incoming.Filter = &f
	}
	return err
}

func simple(v *node, field func(*protocol.Filter) *string) (f protocol.Filter, err error) {
	if v.kind != isText {
		return f, &positioned{v.pos, fmt.Sprintf("%v is not text", v)}
	}
	if v.text == "" {
		return f, &positioned{v.pos, "an empty filter matches nothing: leave it out"}
	}
	*field(&f) = v.text
	return f, compiles(v, f)
}

// compiles tells what is wrong with f at v's place.
func compiles(v *node, f protocol.Filter) error {
	if _, err := filter.Compile(f); err != nil {
		return &positioned{v.pos, err.Error()}
	}
	return nil
}

// filters reads a list of filters.
func filters(v *node) ([]protocol.Filter, error) {
	if v.kind != isList || len(v.list) == 0 {
		return nil, &positioned{v.pos, "it is not a list of filters, such as [{\"path\": \"^/orders\"}]"}
	}
	var all []protocol.Filter
	for _, item := range v.list {
		f, err := innerFilter(item)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// innerKinds are the keys of a filter in a list. A body's has others beside it.
var innerKinds = []string{"header", "header_jq", "path", "method", "server_name", "body", "all_of", "any_of"}

func innerFilter(v *node) (f protocol.Filter, err error) {
	var kind *field
	for i, one := range v.fields {
		if !slices.Contains(innerKinds, one.name) {
			continue
		}
		if kind != nil {
			return f, &positioned{one.pos, fmt.Sprintf("%q beside %q: give one of them, or a list", one.name, kind.name)}
		}
		kind = &v.fields[i]
	}
	if kind == nil {
		words := fmt.Sprintf("a filter in a list has one of %s", strings.Join(innerKinds, ", "))
		if len(v.fields) > 0 {
			words += fmt.Sprintf(", not %q", v.fields[0].name)
		}
		return f, &positioned{v.pos, words}
	}
	if kind.name == "body" {
		return bodyFilter(v)
	}
	if len(v.fields) > 1 {
		other := v.fields[slices.IndexFunc(v.fields, func(o field) bool { return o.name != kind.name })]
		return f, &positioned{other.pos, fmt.Sprintf("%q: unknown key of a filter", other.name)}
	}
	switch kind.name {
	case "header":
		return simple(kind.value, func(f *protocol.Filter) *string { return &f.Header })
	case "header_jq":
		return simple(kind.value, func(f *protocol.Filter) *string { return &f.HeaderJQ })
	case "path":
		return simple(kind.value, func(f *protocol.Filter) *string { return &f.Path })
	case "method":
		return simple(kind.value, func(f *protocol.Filter) *string { return &f.Method })
	case "server_name":
		return simple(kind.value, func(f *protocol.Filter) *string { return &f.ServerName })
	case "all_of":
		f.All, err = filters(kind.value)
	case "any_of":
		f.Any, err = filters(kind.value)
	}
	return f, err
}

func bodyFilter(v *node) (f protocol.Filter, err error) {
	if v.kind != isTable {
		return f, &positioned{v.pos, fmt.Sprintf("%v is not a table", v)}
	}
	body := protocol.BodyFilter{}
	for _, one := range v.fields {
		if one.value.kind != isText {
			return f, &positioned{one.value.pos, fmt.Sprintf("%s is %v, not text", one.name, one.value)}
		}
		switch one.name {
		case "body":
			body.JQ = one.value.text == "jq"
			if !body.JQ && one.value.text != "json" {
				return f, &positioned{one.value.pos, fmt.Sprintf("%v is none of json, jq", one.value)}
			}
		case "query":
			body.Query = one.value.text
		case "matches":
			body.Matches = one.value.text
		default:
			return f, &positioned{one.pos, fmt.Sprintf("%q: unknown key of a body filter, it has body, query, matches", one.name)}
		}
	}
	if v.field("body") == nil || v.field("query") == nil {
		return f, &positioned{v.pos, "a body filter needs body and query"}
	}
	if (v.field("matches") == nil) != body.JQ {
		return f, &positioned{v.pos, "a body filter of json needs matches, one of jq has none"}
	}
	f.Body = &body
	at := v.field("query")
	if _, err := filter.JSONPath(body.Query); err == nil && !body.JQ {
		at = v.field("matches")
	}
	return f, compiles(at, f)
}

func setPairs(to *[][2]uint16, v *node) error {
	*to = nil
	for _, item := range v.list {
		var pair [2]uint16
		for side := range pair {
			pair[side], _ = item.list[side].port() // check passed it
		}
		*to = append(*to, pair)
	}
	return nil
}

func setFilterPorts(c *Config, v *node) error {
	if len(v.list) == 0 {
		return fmt.Errorf("names no port: leave it out to filter all")
	}
	c.Incoming.FilterPorts = nil
	for _, item := range v.list {
		if item.text == "*" {
			c.Incoming.FilterPorts = nil
			return nil
		}
		port, _ := item.port() // check passed it
		c.Incoming.FilterPorts = append(c.Incoming.FilterPorts, port)
	}
	return nil
}

// FilterOf is the filter of what is taken from a port, nil for all of it.
func (in *Incoming) FilterOf(port uint16) *protocol.Filter {
	if len(in.FilterPorts) > 0 && !slices.Contains(in.FilterPorts, port) {
		return nil
	}
	return in.Filter
}

// listener is the debuggee's port for one of the target's.
func (in *Incoming) listener(port uint16) uint16 {
	for _, pair := range in.PortMapping {
		if pair[1] == port {
			return pair[0]
		}
	}
	return port
}

// taken are the debuggee's ports for which ports are taken, nil: all; or all but others.
func (in *Incoming) taken() (ports, not []uint16) {
	if in.Mode != "steal" || in.Filter == nil || len(in.FilterPorts) == 0 {
		return in.Ports, in.IgnorePorts
	}
	for _, port := range in.FilterPorts {
		ports = append(ports, in.listener(port))
	}
	ports = append(ports, in.Ports...)
	ports = slices.DeleteFunc(ports, func(p uint16) bool { return slices.Contains(in.IgnorePorts, p) })
	slices.Sort(ports)
	return slices.Compact(ports), nil
}
