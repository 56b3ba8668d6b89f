package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	constants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/websocket"
)

// maxRefusal bounds the text of a refused upgrade.
const maxRefusal = 64 << 10

// forward opens one connection to a port of a pod's loopback: by SPDY, which is
// faster, or in a WebSocket where a role or a proxy on the way refuses that.
func (c *Cluster) forward(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	r := request{verb: "create", kind: pods, namespace: namespace, name: pod, sub: "portforward"}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	addr := forwardAddr(fmt.Sprintf("pod/%s/%s:%d", namespace, pod, port))
	target := c.rest.Get().AbsPath(r.path()...).URL()

	var err error
	if !c.spdyRefused.Load() {
		var conn net.Conn
		if conn, err = c.forwardSPDY(limited, target, port, addr); err == nil {
			return conn, nil
		}
		if !mayBeSPDY(err) || limited.Err() != nil {
			return nil, c.explain(ctx, r, err)
		}
	}
	conn, wsErr := c.forwardWebSocket(limited, target, port, addr)
	if wsErr == nil {
		c.spdyRefused.Store(true)
		return conn, nil
	}
	if err == nil || !apierrors.IsForbidden(err) {
		err = wsErr
		r.verb = "get"
	}
	return nil, c.explain(ctx, r, err)
}

// errNotUpgraded is an answer that is not the API server's.
var errNotUpgraded = errors.New("the upgrade to SPDY was refused")

// mayBeSPDY says whether another protocol could do better. A WebSocket starts
// with a GET, for which a role has another verb.
func mayBeSPDY(err error) bool {
	return errors.Is(err, errNotUpgraded) || apierrors.IsForbidden(err) ||
		apierrors.IsMethodNotSupported(err) || apierrors.IsBadRequest(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (c *Cluster) forwardSPDY(ctx context.Context, target *url.URL, port int, addr forwardAddr) (net.Conn, error) {
	var below net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { below = info.Conn },
	})
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("forming the upgrade: %w", err)
	}
	q.Header.Set("Connection", "Upgrade")
	q.Header.Set("Upgrade", "SPDY/3.1")
	q.Header.Set("X-Stream-Protocol-Version", portforward.PortForwardProtocolV1Name)
	resp, err := c.upgrades.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	body, upgraded := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !upgraded {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	conn, err := newSPDYConn(upgradedConn{below, body}, bottom(below), port, addr)
	if err != nil {
		body.Close()
		return nil, err
	}
	return conn, nil
}

// refusal reads the API server's own words; an answer in another form is a
// proxy's.
func refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // what came is the best there is
	var status metav1.Status
	if err := json.Unmarshal(text, &status); err == nil && status.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: status}
	}
	if resp.StatusCode == http.StatusUnauthorized {
		return apierrors.NewUnauthorized(resp.Status)
	}
	return fmt.Errorf("%w: %s", errNotUpgraded, resp.Status)
}

func (c *Cluster) forwardWebSocket(ctx context.Context, target *url.URL, port int, addr forwardAddr) (net.Conn, error) {
	transport, holder, err := websocket.RoundTripperFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("making a websocket: %w", err)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("forming the upgrade: %w", err)
	}
	ws, err := websocket.Negotiate(transport, holder, q, constants.WebsocketsSPDYTunnelingPortForwardV1)
	if err != nil {
		return nil, err
	}
	tunnel := newPumpedConn(portforward.NewTunnelingConnection("mirrord", ws), bottom(ws.NetConn()))
	conn, err := newSPDYConn(tunnel, tunnel, port, addr)
	if err != nil {
		tunnel.Close()
		return nil, err
	}
	return conn, nil
}

// bottom is the connection below TLS: closing that one never waits for a
// last record to be written.
func bottom(conn net.Conn) net.Conn {
	for {
		t, ok := conn.(*tls.Conn)
		if !ok {
			return conn
		}
		conn = t.NetConn()
	}
}

// An upgradedConn reads what the HTTP client may have buffered before the
// connection itself.
type upgradedConn struct {
	net.Conn
	body io.ReadWriteCloser
}

func (c upgradedConn) Read(p []byte) (int, error) { return c.body.Read(p) }

// A pumpedConn gives a WebSocket the deadlines of a net.Conn: its reads do not
// survive one, its writes set one that must not change meanwhile. Its one
// goroutine copies what arrives into a pipe, and ends when Close or the peer
// ends the connection.
type pumpedConn struct {
	net.Conn // the WebSocket; one writer at a time
	reads    net.Conn
	below    net.Conn
	deadline atomic.Pointer[time.Time] // of writes
	pumped   chan struct{}
}

func newPumpedConn(conn, below net.Conn) *pumpedConn {
	reads, in := net.Pipe()
	c := &pumpedConn{Conn: conn, reads: reads, below: below, pumped: make(chan struct{})}
	c.deadline.Store(new(time.Time))
	go func() {
		defer close(c.pumped)
		defer in.Close()
		io.Copy(in, conn) //nolint:errcheck // its end is the reader's EOF
	}()
	return c
}

func (c *pumpedConn) Read(p []byte) (int, error) { return c.reads.Read(p) }

func (c *pumpedConn) Close() error {
	err := c.below.Close()
	c.reads.Close()
	<-c.pumped
	return err
}

func (c *pumpedConn) SetReadDeadline(t time.Time) error { return c.reads.SetReadDeadline(t) }

func (c *pumpedConn) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(*c.deadline.Load()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetWriteDeadline reaches the write under way too.
func (c *pumpedConn) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(&t)
	return c.below.SetWriteDeadline(t)
}

func (c *pumpedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
