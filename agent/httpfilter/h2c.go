package httpfilter

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"strings"

	"golang.org/x/net/http2"
)

// An offer is a request that asks to go on in HTTP/2, its answer being the first
// stream's. Whether that can be only its receiver knows. So the pod is asked, and
// what it goes on with is split from there; a holder is not told of it, as other
// streams of the connection are not his.
type offer struct {
	settings  []byte // the client's, as the payload of a frame
	head      bool   // of a request HEAD
	conn      Conn   // the pod's, which has agreed
	rest      []byte // what it has said since
	tableSize uint32 // of HPACK, that the pod may use
	window    int64  // that the pod has for the first stream
}

// offers tells whether a request offers to go on in HTTP/2, in a way that we can.
func offers(h *head) *offer {
	if !h.upgrades || !strings.EqualFold(h.upgrade, "h2c") || h.framing.kind != noBody {
		return nil
	}
	o := &offer{head: h.method == "HEAD", tableSize: tableSize, window: initialWindow}
	for _, f := range h.fields {
		if !strings.EqualFold(f.Name, "http2-settings") {
			continue
		}
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(f.Value, "="))
		if err != nil || len(b)%6 != 0 || o.settings != nil {
			return nil
		}
		o.settings = b
	}
	if o.settings == nil {
		return nil
	}
	for b := o.settings; len(b) > 0; b = b[6:] {
		s := http2.Setting{ID: http2.SettingID(binary.BigEndian.Uint16(b)), Val: binary.BigEndian.Uint32(b[2:])}
		switch {
		case s.Valid() != nil || s.ID == http2.SettingHeaderTableSize && s.Val > maxHead:
			return nil
		case s.ID == http2.SettingHeaderTableSize:
			o.tableSize = max(tableSize, s.Val)
		case s.ID == http2.SettingInitialWindowSize:
			o.window = int64(s.Val)
		}
	}
	return o
}

// withoutOffer is a head without what offers to go on in HTTP/2.
func withoutOffer(b []byte) []byte {
	var out []byte
	for line := range bytes.SplitAfterSeq(b, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch strings.ToLower(string(name)) {
		case "upgrade", "http2-settings":
			continue
		case "connection":
			var words []string
			all := strings.Split(strings.TrimRight(string(value), "\r\n"), ",")
			for _, word := range all {
				word = strings.Trim(word, " \t")
				if !strings.EqualFold(word, "upgrade") && !strings.EqualFold(word, "http2-settings") {
					words = append(words, word)
				}
			}
			switch len(words) {
			case 0:
				continue
			case len(all):
				out = append(out, line...)
				continue
			}
			line = []byte(string(name) + ": " + strings.Join(words, ", ") + "\r\n")
		}
		out = append(out, line...)
	}
	return out
}

// adopt makes the pod's connection a side, on which the first stream is under way.
func (c *conn2) adopt(o *offer) {
	s := newSide(c, nil)
	s.conn, s.nextID = o.conn, 3
	st := &stream{id: 1, up: s, upID: 1, head: o.head}
	st.request.ended, st.request.sent = true, true
	st.answer.room, st.answer.grant = max(streamWindow, o.window), streamWindow
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = 1
	c.streams[1], s.byID[1], s.streams[st] = st, st, true
	c.sides[nil], c.open[s] = s, true
	for b := o.settings; len(b) > 0; b = b[6:] {
		c.client.setting(http2.Setting{ID: http2.SettingID(binary.BigEndian.Uint16(b)), Val: binary.BigEndian.Uint32(b[2:])})
	}
	st.answer.window = c.client.initial
	s.greet()
	c.wg.Go(s.write)
	c.wg.Go(func() {
		err := s.readWith(io.MultiReader(bytes.NewReader(o.rest), o.conn), o.tableSize)
		c.mu.Lock()
		defer c.mu.Unlock()
		s.gone(err)
	})
}
