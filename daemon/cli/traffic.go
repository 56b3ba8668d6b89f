package cli

import (
	"fmt"
	"strings"

	"mirrord/protocol/ide"
)

// A narrator tells events to a person, and of an answer to which request it is.
type narrator map[string]string // by session and id

// maxAsked bounds the requests whose answers are to come.
const maxAsked = 4096

func (n narrator) words(e ide.SessionEvent) string {
	switch {
	case e.Kind == ide.EventRequest && e.Request != nil && e.Request.Asked != nil:
		return n.asked(e)
	case e.Kind == ide.EventResponse && e.Request != nil && e.Request.Answered != nil:
		return n.answered(e)
	case e.Kind == ide.EventConnection && e.Connection != nil:
		return connectionWords(e.Connection)
	case e.Kind == ide.EventOutgoing && e.Outgoing != nil:
		return outgoingWords(e.Outgoing)
	case e.Kind == ide.EventFile && e.File != nil:
		return fileWords(e.File)
	case e.Kind == ide.EventServing && e.Serving != nil:
		return servingWords(e.Serving)
	}
	return wordsOf(e)
}

func (n narrator) asked(e ide.SessionEvent) string {
	r := e.Request
	what := fmt.Sprintf("request %d: %s %s", r.ID, r.Method, r.Path)
	if len(n) >= maxAsked {
		clear(n)
	}
	n[key(e)] = what
	return fmt.Sprintf("%s%s at port %d from %s, %s to %s", what, copied(r.Mirror), r.Port, r.Peer, r.Proto, r.Host)
}

func (n narrator) answered(e ide.SessionEvent) string {
	r := e.Request
	what, ok := n[key(e)]
	if !ok {
		what = fmt.Sprintf("request %d", r.ID)
	}
	delete(n, key(e))
	if r.Error != "" {
		return fmt.Sprintf("%s, not answered in full after %v ms: %s", what, r.MS, r.Error)
	}
	if r.GRPCStatus != nil {
		what = fmt.Sprintf("%s, gRPC status %d", what, *r.GRPCStatus)
	}
	return fmt.Sprintf("%s: %d in %v ms, %d bytes for %d", what, r.Status, r.MS, r.ResponseBytes, r.RequestBytes)
}

func servingWords(s *ide.Serving) string {
	from := s.Peer
	if s.Pod != "" {
		from = fmt.Sprintf("pod %s (%s)", s.Pod, s.Peer)
	}
	return fmt.Sprintf("thread %d stands in request %d: %s %s from %s", s.Thread, s.ID, s.Method, s.Path, from)
}

func key(e ide.SessionEvent) string { return fmt.Sprint(e.Session, " ", e.Request.ID) }

func copied(mirror bool) string {
	if mirror {
		return ", a copy,"
	}
	return ""
}

func connectionWords(c *ide.Connection) string {
	what := fmt.Sprintf("connection %d%s at port %d from %s", c.ID, copied(c.Mirror), c.Port, c.Peer)
	if c.Open {
		return what + " is not HTTP"
	}
	return fmt.Sprintf("%s has ended after %v ms, %d bytes in, %d out", what, c.MS, c.BytesIn, c.BytesOut)
}

func outgoingWords(o *ide.Outgoing) string {
	to := o.Address
	if o.Name != "" {
		to = o.Name + " (" + o.Address + ")"
	}
	what := fmt.Sprintf("process %d, %s to %s", o.PID, o.Proto, to)
	switch {
	case o.Error != "":
		return fmt.Sprintf("%s failed after %v ms: %s", what, o.MS, o.Error)
	case o.Ended:
		return fmt.Sprintf("%s has ended after %v ms, %d bytes in, %d out", what, o.MS, o.BytesIn, o.BytesOut)
	}
	return fmt.Sprintf("%s is open after %v ms", what, o.MS)
}

func fileWords(f *ide.File) string {
	what := "opens"
	if f.Op == "list" {
		what = "lists"
	}
	if f.Write {
		what += " for writing"
	}
	words := fmt.Sprintf("process %d %s %s", f.PID, what, f.Path)
	if f.Count > 1 {
		words += fmt.Sprintf(", %d times", f.Count)
	}
	return strings.TrimSuffix(words+": "+f.Error, ": ")
}
