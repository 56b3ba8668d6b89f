package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
)

// maxMessage bounds what is read of a frame.
const maxMessage = 1 << 20

// webSocket says its name and then gives each frame back, as the last one that closes.
func webSocket(w http.ResponseWriter, r *http.Request, name string) error {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, 1.3
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	fmt.Fprintf(rw, "\x81%c%s", len(name), name) // one text, in a frame without a mask
	for {
		if err := rw.Flush(); err != nil {
			return err
		}
		frame := make([]byte, 2, 10)
		if _, err := io.ReadFull(rw, frame); err != nil {
			return err
		}
		frame[1] &= 0x7f // the client's are masked
		size, long := uint64(frame[1]), map[byte]int{126: 2, 127: 8}[frame[1]]
		if long > 0 {
			frame = frame[:2+long]
			if _, err := io.ReadFull(rw, frame[2:]); err != nil {
				return err
			}
			size = binary.BigEndian.Uint64(append(bytes.Repeat([]byte{0}, 8-long), frame[2:]...))
		}
		if size > maxMessage {
			return fmt.Errorf("a frame of %d bytes", size)
		}
		body := make([]byte, 4+size)
		if _, err := io.ReadFull(rw, body); err != nil {
			return err
		}
		mask, body := body[:4], body[4:]
		for i := range body {
			body[i] ^= mask[i%4]
		}
		rw.Write(frame) //nolint:errcheck // told when it is flushed
		rw.Write(body)  //nolint:errcheck
		if frame[0]&0xf == 8 {
			return rw.Flush()
		}
	}
}
