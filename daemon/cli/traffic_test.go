package cli

import (
	"testing"

	"mirrord/protocol/ide"
)

// Events are told one line each, and an answer with its request.
func TestTrafficWords(t *testing.T) {
	five := 5
	n := narrator{}
	for _, tt := range []struct {
		event ide.SessionEvent
		want  string
	}{
		{
			ide.SessionEvent{Kind: ide.EventRequest, Request: &ide.Request{ID: 7, Asked: &ide.Asked{Port: 8080, Peer: "10.1.2.3:4711", Method: "GET", Path: "/a?b", Host: "web", Proto: "HTTP/1.1"}}},
			"request 7: GET /a?b at port 8080 from 10.1.2.3:4711, HTTP/1.1 to web",
		},
		{
			ide.SessionEvent{Kind: ide.EventResponse, Request: &ide.Request{ID: 7, Answered: &ide.Answered{Status: 200, MS: 1.5, ResponseBytes: 12, GRPCStatus: &five}}},
			"request 7: GET /a?b, gRPC status 5: 200 in 1.5 ms, 12 bytes for 0",
		},
		{
			ide.SessionEvent{Kind: ide.EventRequest, Request: &ide.Request{ID: 8, Asked: &ide.Asked{Port: 80, Mirror: true, Peer: "p", Method: "GET", Path: "/", Host: "web", Proto: "HTTP/2"}}},
			"request 8: GET /, a copy, at port 80 from p, HTTP/2 to web",
		},
		{
			ide.SessionEvent{Session: "other", Kind: ide.EventResponse, Request: &ide.Request{ID: 8, Answered: &ide.Answered{MS: 2, Error: "the connection was reset"}}},
			"request 8, not answered in full after 2 ms: the connection was reset",
		},
		{ide.SessionEvent{Kind: ide.EventConnection, Connection: &ide.Connection{ID: 1, Port: 6379, Peer: "p", Open: true}}, "connection 1 at port 6379 from p is not HTTP"},
		{
			ide.SessionEvent{Kind: ide.EventConnection, Connection: &ide.Connection{ID: 1, Port: 6379, Peer: "p", MS: 3, BytesIn: 1, BytesOut: 2}},
			"connection 1 at port 6379 from p has ended after 3 ms, 1 bytes in, 2 out",
		},
		{
			ide.SessionEvent{Kind: ide.EventOutgoing, Outgoing: &ide.Outgoing{Proto: "tcp", Address: "10.96.0.12:80", Name: "inventory", PID: 5, MS: 1, Error: "ECONNREFUSED", Ended: true}},
			"process 5, tcp to inventory (10.96.0.12:80) failed after 1 ms: ECONNREFUSED",
		},
		{ide.SessionEvent{Kind: ide.EventOutgoing, Outgoing: &ide.Outgoing{Proto: "udp", Address: "10.96.0.10:53", PID: 5, MS: 1}}, "process 5, udp to 10.96.0.10:53 is open after 1 ms"},
		{
			ide.SessionEvent{Kind: ide.EventOutgoing, Outgoing: &ide.Outgoing{Proto: "udp", Address: "10.96.0.10:53", PID: 5, MS: 9, Ended: true, BytesIn: 1, BytesOut: 2}},
			"process 5, udp to 10.96.0.10:53 has ended after 9 ms, 1 bytes in, 2 out",
		},
		{ide.SessionEvent{Kind: ide.EventFile, File: &ide.File{Path: "/etc/shop", Op: "list", PID: 5, Count: 3}}, "process 5 lists /etc/shop, 3 times"},
		{
			ide.SessionEvent{Kind: ide.EventServing, Serving: &ide.Serving{Thread: 9, ID: 7, Method: "GET", Path: "/cart", Peer: "10.1.2.3:4711", Pod: "shop/client"}},
			"thread 9 stands in request 7: GET /cart from pod shop/client (10.1.2.3:4711)",
		},
		{ide.SessionEvent{Kind: ide.EventFile, File: &ide.File{Path: "/a", Op: "open", Write: true, PID: 5, Error: "EROFS"}}, "process 5 opens for writing /a: EROFS"},
		{ide.SessionEvent{Kind: ide.EventTaken, Port: 80}, "port 80 is stolen"},
		{ide.SessionEvent{Kind: ide.EventTaken, Port: 80, Message: "header ^x-user: alice$"}, "port 80 is stolen by header ^x-user: alice$"},
	} {
		if got := n.words(tt.event); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	if len(n) != 1 {
		t.Errorf("kept: %v", n)
	}
}
