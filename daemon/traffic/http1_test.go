package traffic

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mirrord/protocol/ide"
)

// echo answers with what it got.
func echo(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/none":
		w.WriteHeader(http.StatusNoContent)
		return
	case "/same":
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Set-Cookie", "token=secret")
	if r.URL.Query().Has("chunked") {
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusCreated)
		for part := range bytes.SplitAfterSeq(body, []byte(" ")) {
			w.Write(part)
			http.NewResponseController(w).Flush()
		}
		w.Header().Set("X-Sum", "42")
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Write(body)
}

// What a real client and a real server say on one connection.
func TestHTTP1(t *testing.T) {
	w := serve(t, echo)
	c := w.client(false)
	big := strings.Repeat("0123456789", 100_000)
	w.do(c, "GET", "/a?b=c", nil, "Authorization", "Bearer secret", "X-Api-Key", "secret", "X-Other", "shown")
	w.do(c, "POST", "/length", strings.NewReader("hello"))
	w.do(c, "POST", "/all?chunked", io.MultiReader(strings.NewReader("some "), strings.NewReader("words")))
	w.do(c, "HEAD", "/head", nil)
	w.do(c, "GET", "/none", nil)
	w.do(c, "GET", "/same", nil)
	if got := w.do(c, "PUT", "/big", strings.NewReader(big), "Expect", "100-continue"); got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	if got := w.do(c, "PUT", "/big?chunked", io.MultiReader(strings.NewReader(big))); got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}

	peers := map[string]bool{}
	var got []string
	list := w.answers(8)
	for _, r := range list {
		peers[r.Peer] = true
		got = append(got, fmt.Sprint(r.Method, r.Path, " ", r.Status, r.Error, " ", r.RequestBytes, " ", r.ResponseBytes))
		if r.Port != port || r.Mirror || r.Host != w.addr || r.Proto != "HTTP/1.1" || r.GRPC || r.MS < 0 {
			t.Errorf("%+v %+v", r.Asked, r.Answered)
		}
	}
	want := []string{
		"GET/a?b=c 200 0 0", "POST/length 200 5 5", "POST/all?chunked 201 10 10", "HEAD/head 200 0 0", "GET/none 204 0 0", "GET/same 304 0 0",
		"PUT/big 200 1000000 1000000", "PUT/big?chunked 201 1000000 1000000",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(peers) != 1 {
		t.Errorf("they came on %d connections", len(peers))
	}

	ask := func(i int, reveal bool) ide.RequestResult {
		r, ok := w.source.Request(list[i].ID, reveal)
		if !ok {
			t.Fatalf("request %d is not kept", list[i].ID)
		}
		return r
	}
	r := ask(0, false)
	if r.Request.Method != "GET" || r.Request.Path != "/a?b=c" || r.Request.Host != w.addr || r.Peer != list[0].Peer || r.Port != port || !r.Done || r.Started == "" {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]string{"Authorization": masked, "X-Api-Key": masked, "X-Other": "shown"} {
		if got := field(r.Request.Headers, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := field(r.Response.Headers, "Set-Cookie"); got != masked {
		t.Errorf("Set-Cookie: %q", got)
	}
	if r := ask(0, true); field(r.Request.Headers, "Authorization") != "Bearer secret" || field(r.Response.Headers, "Set-Cookie") != "token=secret" {
		t.Errorf("revealed: %+v", r)
	}
	if r := ask(2, false); string(r.Request.Body) != "some words" || string(r.Response.Body) != "some words" || r.Request.Truncated ||
		r.Response.Truncated || field(r.Response.Trailers, "X-Sum") != "42" || r.Response.Status != 201 {
		t.Errorf("chunked: %+v", r)
	}
	for _, i := range []int{6, 7} {
		r := ask(i, false)
		if string(r.Request.Body) != big[:maxBody] || string(r.Response.Body) != big[:maxBody] || !r.Request.Truncated || !r.Response.Truncated {
			t.Errorf("of a large body %d and %d bytes are kept", len(r.Request.Body), len(r.Response.Body))
		}
	}
}

// What clients and servers of all kinds may say, word by word.
func TestHTTP1Words(t *testing.T) {
	type exchange struct{ ask, answer string }
	for name, tt := range map[string]struct {
		talk []exchange // each asked, then answered
		ends bool       // the server ends the connection
		want []string
	}{
		"pipelined": {
			talk: []exchange{{
				"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
				"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx",
			}},
			want: []string{"GET /1 200 0 2", "POST /2 201 3 0", "GET /3 404 0 1"},
		},
		"until the end": {
			talk: []exchange{{"GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nall of it"}}, ends: true,
			want: []string{"GET / 200 0 9"},
		},
		"hints before the answer": {
			talk: []exchange{{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"}},
			want: []string{"GET / 200 0 1"},
		},
		"a body that is not wanted": {
			talk: []exchange{
				{"PUT /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n", "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"},
				{"PUT /2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"},
				{"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
			},
			want: []string{"PUT /1 417 0 0", "PUT /2 417 0 0", "GET /3 200 0 0"},
		},
		"answered before all was asked": {
			talk: []exchange{
				{"PUT /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab", "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"},
				{"cdGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
			},
			want: []string{"PUT /1 413 2 0", "GET /2 200 0 0"},
		},
		"chunks with extensions and trailers": {
			talk: []exchange{{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}},
			want: []string{"POST / 200 13 0"},
		},
		"upgraded": {
			talk: []exchange{
				{"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello"},
				{"\x81\x85aaaahello", "GET / HTTP/1.1\r\n\r\n"},
			},
			want: []string{"GET /ws 101 0 0"},
		},
		"a tunnel": {
			talk: []exchange{{"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"}, {"\x16\x03\x01", "\x16\x03\x01"}},
			want: []string{"CONNECT b:443 200 0 0"},
		},
		"bare line feeds": {
			talk: []exchange{{"GET / HTTP/1.1\nHost: a\n\n", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx"}},
			want: []string{"GET / 200 0 1"},
		},
		"a server that tires of waiting": {
			talk: []exchange{{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 408 Request Timeout\r\nContent-Length: 3\r\n\r\nabc"}},
			want: []string{"GET / 200 0 0"},
		},
		"no answer that is one": {
			talk: []exchange{{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "SSH-2.0-OpenSSH\r\n\r\n"}},
			want: []string{"GET / 0 0 0 what follows is no HTTP that could be understood"},
		},
		"no length": {
			talk: []exchange{{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: much\r\n\r\n"}},
			want: []string{"GET / 0 0 0 what follows is no HTTP that could be understood"},
		},
		"a large head": {
			talk: []exchange{{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 200<<10) + "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}},
			want: []string{"GET / 200 0 0"},
		},
		"too large a head": {
			talk: []exchange{{"GET /x HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", "HTTP/1.1 431 No\r\nContent-Length: 0\r\n\r\n"}},
			want: []string{"GET /x 0 0 0 its head is too large to be followed"},
		},
		"never answered": {
			talk: []exchange{{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""}}, ends: true,
			want: []string{"GET / 0 0 0 the connection ended before the answer did"},
		},
		"half an answer": {
			talk: []exchange{{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"}}, ends: true,
			want: []string{"GET / 0 0 3 the connection ended before the answer did"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			w := converse(t, func(c net.Conn) {
				for _, x := range tt.talk {
					if _, err := io.ReadFull(c, make([]byte, len(x.ask))); err != nil {
						t.Error(err)
					}
					io.WriteString(c, x.answer)
				}
				if !tt.ends {
					<-ended
				}
			})
			c := w.dial()
			for _, x := range tt.talk {
				io.WriteString(c, x.ask)
				if _, err := io.ReadFull(c, make([]byte, len(x.answer))); err != nil {
					t.Error(err)
				}
			}
			if tt.ends {
				if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
					t.Errorf("read %q, %v", b, err)
				}
				c.Close()
			}
			list := w.answers(len(tt.want))
			close(ended)
			c.Close()
			var got []string
			for _, r := range list {
				got = append(got, strings.TrimSpace(fmt.Sprint(r.Method, " ", r.Path, " ", r.Status, " ", r.RequestBytes, " ", r.ResponseBytes, " ", r.Error)))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(w.all(), `"connection": {`) {
				t.Errorf("HTTP is told as a connection: %s", w.all())
			}
		})
	}
}

// A server that is killed while it answers.
func TestKilledMidBody(t *testing.T) {
	w := converse(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			t.Error(err)
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
		_, _ = c.Read(make([]byte, 1)) // until the client has it
		c.(*net.TCPConn).SetLinger(0)
	})
	c := w.dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Errorf("%q, %v", line, err)
	}
	io.WriteString(c, "x")
	r := w.answers(1)[0]
	if r.Status != 0 || r.Error != "the connection was reset" || r.ResponseBytes != 2 {
		t.Errorf("%+v", r.Answered)
	}
	if got := w.result(w.until(ide.EventRequest, 1)[0]); got.Response.Status != 200 || string(got.Response.Body) != "he" || got.Error == "" || !got.Done {
		t.Errorf("%+v", got)
	}
}

// What is not HTTP is told once it is known and when it has ended.
func TestNoHTTP(t *testing.T) {
	for name, tt := range map[string]struct {
		greeting, says string
		open           bool
	}{
		"the server speaks first": {"220 mail ESMTP\r\n", "EHLO me\r\n", true},
		"bytes":                   {"", "\x16\x03\x01\x02\x00\x01\x00\x01", true},
		"a text protocol":         {"", "PING\r\n", true},
		"another's request line":  {"", "OPTIONS rtsp://a/ RTSP/1.0\r\nCSeq: 1\r\n\r\n", true},
		"redis":                   {"", "*1\r\n$4\r\nPING\r\n", true},
		"nothing":                 {"", "", false},
		"half a request line":     {"", "GET /", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := converse(t, func(c net.Conn) {
				io.WriteString(c, tt.greeting)
				io.Copy(io.Discard, c)
				if tt.open {
					io.WriteString(c, "bye")
				}
			})
			c := w.dial()
			if _, err := io.ReadFull(c, make([]byte, len(tt.greeting))); err != nil {
				t.Error(err)
			}
			io.WriteString(c, tt.says)
			n := 1
			if tt.open {
				n = 2
				k := w.until(ide.EventConnection, 1)[0].Connection
				if !k.Open || k.Port != port || k.Peer != c.LocalAddr().String() {
					t.Errorf("%+v", k)
				}
			}
			more := strings.Repeat("x", 100_000)
			if tt.open {
				io.WriteString(c, more)
			} else {
				more = ""
			}
			c.CloseWrite()
			b, err := io.ReadAll(c)
			if (string(b) == "bye") != tt.open || err != nil {
				t.Errorf("read %q, %v", b, err)
			}
			k := w.until(ide.EventConnection, n)[n-1].Connection
			if k.Open || k.BytesIn != int64(len(tt.says)+len(more)) || k.BytesOut != int64(len(tt.greeting)+len(b)) {
				t.Errorf("%+v", k)
			}
			if first := w.until(ide.EventConnection, 1)[0].Connection; first.ID != k.ID {
				t.Errorf("it is told as %d and %d", first.ID, k.ID)
			}
		})
	}
}
