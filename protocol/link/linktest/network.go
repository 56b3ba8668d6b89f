// Package linktest is a network between daemon and agent that a test can break.
package linktest

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"mirrord/protocol/link"
)

// A State is what a Network does to the connections of one channel.
type State int

const (
	Works    State = iota
	Refuses        // closes them, new ones at once
	Swallows       // loses what is sent, and tells nobody
)

const channelAt = 20 // the byte of an opening that says which link it is

// A Network leads to one address. It ends with the test.
type Network struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	to    string                 // guarded by mu
	state map[link.Channel]State // guarded by mu
	conns map[*conn]bool         // guarded by mu
}

// A conn is both halves of a connection.
type conn struct {
	near, far net.Conn
	channel   link.Channel
}

func (c *conn) close() {
	c.near.Close()
	c.far.Close()
}

// New makes a network that leads to addr and works.
func New(t testing.TB, addr string) *Network {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{l: l, to: addr, state: map[link.Channel]State{}, conns: map[*conn]bool{}}
	n.wg.Go(n.accept)
	t.Cleanup(func() {
		l.Close()
		n.Set(Refuses, link.Control, link.Bulk)
		n.wg.Wait()
	})
	return n
}

// Addr is where the network begins.
func (n *Network) Addr() string { return n.l.Addr().String() }

// Dial connects through the network.
func (n *Network) Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", n.Addr())
}

// Cut closes the connections of the channels; new ones work as before.
func (n *Network) Cut(channels ...link.Channel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut(channels)
}

func (n *Network) cut(channels []link.Channel) {
	for c := range n.conns {
		for _, ch := range channels {
			if c.channel == ch {
				c.close()
			}
		}
	}
}

// Set changes what happens to the channels' connections, of now and later.
func (n *Network) Set(s State, channels ...link.Channel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ch := range channels {
		n.state[ch] = s
	}
	if s != Swallows {
		n.cut(channels)
	}
}

// Lead cuts all connections; new ones go to addr.
func (n *Network) Lead(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to = addr
	n.cut([]link.Channel{link.Control, link.Bulk})
}

func (n *Network) accept() {
	for {
		near, err := n.l.Accept()
		if err != nil {
			return
		}
		n.wg.Go(func() { n.carry(near) })
	}
}

// carry brings one connection's bytes both ways.
func (n *Network) carry(near net.Conn) {
	defer near.Close()
	var opening [channelAt + 1]byte
	if _, err := io.ReadFull(near, opening[:]); err != nil {
		return
	}
	n.mu.Lock()
	to := n.to
	n.mu.Unlock()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	c := &conn{near, far, link.Channel(opening[channelAt])}
	n.mu.Lock()
	refused := n.state[c.channel] == Refuses
	n.conns[c] = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.conns, c)
	}()
	if refused {
		return
	}
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() { n.copy(c, near, far) })
	n.copy(c, far, io.MultiReader(bytes.NewReader(opening[:]), near))
}

func (n *Network) copy(c *conn, to io.Writer, from io.Reader) {
	defer c.close()
	buf := make([]byte, 32<<10)
	for {
		k, err := from.Read(buf)
		if err != nil {
			return
		}
		if !n.passes(c) {
			continue
		}
		if _, err := to.Write(buf[:k]); err != nil {
			return
		}
	}
}

func (n *Network) passes(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state[c.channel] != Swallows
}
