package rpc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"github.com/sourcegraph/jsonrpc2"
)

// Limits of what a peer may send.
const (
	maxMessage = 16 << 20 // a client's environment may be megabytes
	maxHeader  = 4 << 10
)

// A stream is LSP's framing. The library's own codec stops at the first
// malformed message and believes any length; this one answers it as JSON-RPC
// asks, stays in step, and has limits.
type stream struct {
	c net.Conn
	r *bufio.Reader

	mu sync.Mutex // one message at a time
}

func newStream(c net.Conn) *stream { return &stream{c: c, r: bufio.NewReaderSize(c, maxHeader)} }

func (s *stream) Close() error { return s.c.Close() }

func (s *stream) WriteObject(obj any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := bufio.NewWriter(s.c)
	if err := (jsonrpc2.VSCodeObjectCodec{}).WriteObject(w, obj); err != nil {
		return err
	}
	return w.Flush()
}

// ReadObject reads the next message that is one, and answers those that are not.
func (s *stream) ReadObject(v any) error {
	for {
		n, err := s.header()
		if err != nil {
			if !errors.Is(err, io.EOF) { // nobody knows where the next message starts
				_ = s.refuse(jsonrpc2.CodeParseError, err) // the last words
			}
			return err
		}
		body, err := io.ReadAll(io.LimitReader(s.r, n))
		if err != nil {
			return err
		}
		if int64(len(body)) < n {
			return io.ErrUnexpectedEOF
		}
		bad := json.Unmarshal(body, v)
		switch _, syntax := errors.AsType[*json.SyntaxError](bad); {
		case bad == nil:
			return nil
		case syntax:
			err = s.refuse(jsonrpc2.CodeParseError, errors.New("the message is not JSON"))
		default:
			err = s.refuse(jsonrpc2.CodeInvalidRequest, fmt.Errorf("the message is no request: %w", bad))
		}
		if err != nil {
			return err
		}
	}
}

// header reads up to the empty line and returns the length of what follows.
func (s *stream) header() (int64, error) {
	length := int64(-1)
	for read := 0; ; {
		line, err := s.r.ReadSlice('\n')
		if read += len(line); err == bufio.ErrBufferFull || read > maxHeader {
			return 0, fmt.Errorf("the header is longer than %d bytes", maxHeader)
		}
		if err != nil {
			if read > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			break
		}
		name, value, _ := strings.Cut(text, ":")
		if textproto.CanonicalMIMEHeaderKey(name) != "Content-Length" {
			continue
		}
		if length, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil || length < 0 {
			return 0, fmt.Errorf("%q is not a length", strings.TrimSpace(value))
		}
	}
	switch {
	case length < 0:
		return 0, errors.New("the header has no Content-Length")
	case length > maxMessage:
		return 0, fmt.Errorf("a message of %d bytes is over the limit of %d", length, maxMessage)
	}
	return length, nil
}

// refuse answers what has no id that could be known.
func (s *stream) refuse(code int64, why error) error {
	return s.WriteObject(map[string]any{
		"jsonrpc": "2.0", "id": nil, "error": map[string]any{"code": code, "message": why.Error()},
	})
}
