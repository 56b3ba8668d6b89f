package filter

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"mirrord/protocol"
)

func compiled(t *testing.T, text string) *Filter {
	t.Helper()
	var wire protocol.Filter
	if err := json.Unmarshal([]byte(text), &wire); err != nil {
		t.Fatal(err)
	}
	f, err := Compile(wire)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return f
}

func order(method, path, body string) *Request {
	return &Request{
		Method: method, Path: path, Body: []byte(body), Whole: true,
		Header: []Field{{Name: "Host", Value: "shop"}, {Name: "X-User", Value: "alice"}, {Name: "baggage", Value: "a=1,mirrord-session=alice,b=2"}},
	}
}

func TestMatch(t *testing.T) {
	const books = `{"library": {"books": [34555, "x<y", 1.50, {"a":null}], "open": true}}`
	for text, want := range map[string]Answer{
		`{"header": "^x-user: alice$"}`:                                                   Yes,
		`{"header": "X-USER: ALICE"}`:                                                     Yes,
		`{"header": "^x-user: bob$"}`:                                                     No,
		`{"header": "^baggage: (?=.*session=alice)(?!.*c=3)"}`:                            Yes,
		`{"header": "^baggage: (?=.*session=alice)(?!.*b=2)"}`:                            No,
		`{"header_jq": "test(\"^X-User: al\")"}`:                                          Yes,
		`{"header_jq": "startswith(\"X-User\")"}`:                                         Yes,
		`{"header_jq": ". / 2"}`:                                                          No, // each header is an error
		`{"header_jq": "\"true\""}`:                                                       No,
		`{"path": "^/ORDERS$"}`:                                                           Yes, // without the query
		`{"path": "id=7$"}`:                                                               Yes, // with it
		`{"path": "^/orders/"}`:                                                           No,
		`{"method": "post"}`:                                                              Yes,
		`{"method": "PUT"}`:                                                               No,
		`{"body": {"query": "$.library.books[*]", "matches": "^\\d{3,5}$"}}`:              Yes,
		`{"body": {"query": "$.library.books[*]", "matches": "^1\\.50$"}}`:                Yes,
		`{"body": {"query": "$.library.books[*]", "matches": "^x<Y$"}}`:                   No,
		`{"body": {"query": "$.library.books[*]", "matches": "^x<y$"}}`:                   Yes,
		`{"body": {"query": "$..a", "matches": "^null$"}}`:                                Yes,
		`{"body": {"query": "$.library", "matches": "\"open\":true"}}`:                    Yes,
		`{"body": {"query": "$.nothing", "matches": ""}}`:                                 No,
		`{"body": {"query": "$.library.books[?typeof(@) == 'string']", "matches": "^3"}}`: No,
		`{"body": {"query": "$.library.books[?typeof(@) == 'number']", "matches": "^3"}}`: Yes,
		`{"body": {"query": "$.library.books[?typeof(@) == 'object']", "matches": "^"}}`:  Yes,
		`{"body": {"query": "$.library[?typeof(@[*]) == 'number']", "matches": "^"}}`:     No,
		`{"body": {"query": ".library.books[0] == 34555", "jq": true}}`:                   Yes,
		`{"body": {"query": ".library.books | length > 9", "jq": true}}`:                  No,
		`{"all": [{"method": "POST"}, {"path": "orders"}]}`:                               Yes,
		`{"all": [{"method": "POST"}, {"path": "users"}]}`:                                No,
		`{"any": [{"method": "PUT"}, {"path": "orders"}]}`:                                Yes,
		`{"any": [{"method": "PUT"}, {"all": [{"path": "users"}]}]}`:                      No,
	} {
		if got := compiled(t, text).Match(order("POST", "/orders?id=7", books)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// Of a connection in TLS that is not opened its server's name is known, and nothing
// else matches, not even what matches all.
func TestServerName(t *testing.T) {
	sealed := &Request{ServerName: "shop.test", Unseen: true}
	for text, want := range map[string]Answer{
		`{"server_name": "^SHOP"}`:                               Yes,
		`{"server_name": "^test"}`:                               No,
		`{"path": "^(?!/health)"}`:                               No,
		`{"header": "^(?!x-user)"}`:                              No,
		`{"body": {"query": "$", "matches": ""}}`:                No,
		`{"any": [{"path": "^"}, {"server_name": "^shop"}]}`:     Yes,
		`{"all": [{"method": "GET"}, {"server_name": "^shop"}]}`: No,
	} {
		if got := compiled(t, text).Match(sealed); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	opened := order("POST", "/orders", "")
	opened.ServerName = "shop.test"
	if got := compiled(t, `{"all": [{"method": "POST"}, {"server_name": "^shop"}]}`).Match(opened); got != Yes {
		t.Errorf("opened: %v", got)
	}
	if got := compiled(t, `{"server_name": "^"}`).Match(order("POST", "/orders", "")); got != No {
		t.Errorf("without TLS: %v", got)
	}
}

// The body is waited for only where it decides.
func TestUnsure(t *testing.T) {
	const body = `{"body": {"query": "$.a", "matches": "1"}}`
	for text, want := range map[string][2]Answer{ // at first, and where it is never known
		body: {Unsure, No},
		`{"all": [` + body + `, {"method": "POST"}]}`: {Unsure, No},
		`{"all": [` + body + `, {"method": "PUT"}]}`:  {No, No},
		`{"any": [` + body + `, {"method": "POST"}]}`: {Yes, Yes},
		`{"any": [` + body + `, {"method": "PUT"}]}`:  {Unsure, No},
	} {
		for i, unseen := range []bool{false, true} {
			r := order("POST", "/", "")
			r.Whole, r.Unseen = false, unseen
			if got := compiled(t, text).Match(r); got != want[i] {
				t.Errorf("%s: %v, want %v", text, got, want[i])
			}
		}
	}
	for _, body := range []string{"", "{", `{"a":1} x`, `a=1`, `[1]`} {
		if got := compiled(t, `{"body": {"query": "$.a", "matches": "1"}}`).Match(order("POST", "/", body)); got != No {
			t.Errorf("%q: %v", body, got)
		}
	}
}

// What takes too long does not match.
func TestTooLong(t *testing.T) {
	r := order("GET", "/"+strings.Repeat("a", 60)+"!", `[]`)
	for _, text := range []string{
		`{"path": "^/(a+)+$"}`,
		`{"header_jq": "[range(1e12)] | length > 0"}`,
		`{"body": {"query": "[range(1e12)] | length > 0", "jq": true}}`,
	} {
		done := make(chan Answer, 1)
		go func() { done <- compiled(t, text).Match(r) }()
		select {
		case got := <-done:
			if got != No {
				t.Errorf("%s: %v", text, got)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: no answer", text)
		}
	}
}

func TestCompileFails(t *testing.T) {
	deep := protocol.Filter{Method: "GET"}
	for range maxNesting + 1 {
		deep = protocol.Filter{All: []protocol.Filter{deep}}
	}
	for want, f := range map[string]protocol.Filter{
		"of one kind":             {},
		"not of 2":                {Method: "GET", Path: "x"},
		"nested too deep":         deep,
		`"(x" is no regular expr`: {Header: "(x"},
		`"[" is no regular expr`:  {Any: []protocol.Filter{{Path: "["}}},
		`"$[" is no JSONPath`:     {Body: &protocol.BodyFilter{Query: "$["}},
		`"*x" is no regular expr`: {Body: &protocol.BodyFilter{Query: "$", Matches: "*x"}},
		"typeof takes one arg":    {Body: &protocol.BodyFilter{Query: "$[?typeof() == 'x']"}},
		`"a b" is no jq`:          {HeaderJQ: "a b"},
		`"nosuch" is no jq`:       {Body: &protocol.BodyFilter{Query: "nosuch", JQ: true}},
	} {
		if _, err := Compile(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
}

// Matching ends and gives the same answer twice, whatever a request says.
func FuzzMatch(f *testing.F) {
	f.Add("POST", "/a?b", "X-User: alice", `{"a": [1, {"b": "c"}]}`)
	var wire protocol.Filter
	err := json.Unmarshal([]byte(`{"any": [{"header": "^x-user: (?=al)"}, {"path": "^/(a|b)*c"}, {"header_jq": "test(\"a+b\")"},
		{"body": {"query": "$..b", "matches": "c"}}, {"body": {"query": ".a[0] == 2", "jq": true}}]}`), &wire)
	filter, failed := Compile(wire)
	if err := errors.Join(err, failed); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, header, body string) {
		name, value, _ := strings.Cut(header, ":")
		judge := func() Answer {
			return filter.Match(&Request{Method: method, Path: path, Header: []Field{{Name: name, Value: value}}, Body: []byte(body), Whole: true})
		}
		if one, two := judge(), judge(); one != two || one == Unsure {
			t.Errorf("%v, then %v", one, two)
		}
	})
}
