package outgoing

import (
	"context"
	"fmt"
	"net"
	"time"

	"mirrord/protocol"
)

// datagramIdle is how long a socket is kept that nothing goes through.
const datagramIdle = time.Minute

// Datagram makes a UDP socket connected to q.Addr and moves datagrams both
// ways until the stream ends, nothing was moved for a minute, or the address
// refuses: an ICMP error ends the stream, which the client can tell its
// debuggee as its own kernel would.
//
// Goroutines: one beside the caller's, gone before Datagram returns.
func Datagram(ctx context.Context, stream net.Conn, q protocol.Datagram) error {
	return datagram(ctx, stream, q, datagramIdle)
}

func datagram(ctx context.Context, stream net.Conn, q protocol.Datagram, idle time.Duration) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", q.Addr.String())
	if err != nil {
		return protocol.WriteError(stream, "datagram", err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reply := protocol.DatagramReply{Local: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	if err := protocol.WriteMessage(stream, protocol.KindDatagram, reply, nil); err != nil {
		conn.Close()
		return err
	}
	end := func() {
		conn.Close()
		stream.Close()
		_ = stream.SetReadDeadline(time.Unix(1, 0)) // closing alone does not end a stream's reads
	}
	quiet := time.AfterFunc(idle, end)
	defer quiet.Stop()
	received := make(chan error, 1)
	go func() {
		received <- receive(stream, conn, func() { quiet.Reset(idle) })
		end()
	}()
	err = send(conn, stream, func() { quiet.Reset(idle) })
	end()
	if r := <-received; r != nil {
		return fmt.Errorf("receiving datagram: %w", r)
	}
	return err
}

// send moves datagrams from the stream to the socket until the stream ends.
func send(conn, stream net.Conn, moved func()) error {
	buf := make([]byte, protocol.MaxDatagram)
	for {
		n, err := protocol.ReadDatagram(stream, buf)
		if err != nil {
			return nil
		}
		moved()
		if _, err := conn.Write(buf[:n]); err != nil {
			return fmt.Errorf("sending datagram: %w", err)
		}
	}
}

// receive moves datagrams from the socket to the stream until either fails.
func receive(stream, conn net.Conn, moved func()) error {
	buf := make([]byte, protocol.MaxDatagram)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		moved()
		if err := protocol.WriteDatagram(stream, buf[:n]); err != nil {
			return err
		}
	}
}
