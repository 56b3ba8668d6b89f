package link

import (
	"encoding/binary"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// never is what yamux must not do by itself: the link knows when it has ended.
const never = 365 * 24 * time.Hour

// Mux is the configuration of the yamux session on c. The daemon is yamux's
// client on both links.
func (c *Conn) Mux() *yamux.Config {
	m := yamux.DefaultConfig()
	m.EnableKeepAlive = false
	m.ConnectionWriteTimeout = never
	m.StreamCloseTimeout = never
	m.StreamOpenTimeout = 0
	m.AcceptBacklog = 4096
	m.MaxStreamWindowSize = 256 << 10
	if c.channel == Bulk {
		m.MaxStreamWindowSize = 4 << 20
	}
	m.LogOutput = io.Discard
	return m
}

// announces tells whether p is the head of a yamux frame whose body comes in
// the next write: yamux writes them apart.
//
//	version 1 | type 1 (0: data) | flags 2 | stream 4 | length 4
func announces(p []byte) bool {
	return len(p) == 12 && p[0] == 0 && p[1] == 0 && binary.BigEndian.Uint32(p[8:]) > 0
}
