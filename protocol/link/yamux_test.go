package link

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"mirrord/protocol"
)

func TestUrgency(t *testing.T) {
	frame := func(kind, flags, length byte) []byte { return []byte{0, kind, 0, flags, 0, 0, 0, 1, 0, 0, 0, length} }
	answer, err := protocol.AppendMessage(nil, protocol.KindIncoming, protocol.IncomingReply{Lingers: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	end := binary.BigEndian.AppendUint32(nil, protocol.LastEnd)
	var told teller
	for _, write := range []struct {
		what  string
		bytes []byte
		want  urgency
	}{
		{"the opening of a stream", frame(1, 1, 0), later},
		{"the head of data", frame(0, 0, 12), later},
		{"data like a head", frame(0, 0, 8), now},
		{"the acceptance of a stream", frame(1, 2, 0), later},
		{"the head of more", frame(0, 0, 20), later},
		{"a part of it", make([]byte, 12), now},
		{"the rest of it", make([]byte, 8), now},
		{"the head of a last end", frame(0, 0, 4), later},
		{"the last end", end, some},
		{"the head of an answer", frame(0, 0, byte(len(answer))), later},
		{"the answer", answer, some},
		{"the head of five bytes", frame(0, 0, 5), later},
		{"the first of them", []byte{1}, now},
		{"the others", end, some},
		{"a window", frame(1, 0, 9), soon},
		{"the end of a stream", frame(1, 4, 0), some},
		{"a ping", frame(2, 1, 0), now},
	} {
		if got := told.tell(write.bytes); got != write.want {
			t.Errorf("%s: urgency %d, want %d", write.what, got, write.want)
		}
	}
}

// However the frames come in, each part ends at the latest where the body of a
// big one begins or ends, and none is empty.
func TestParts(t *testing.T) {
	var session []byte
	stops := map[int]bool{}
	for range 200 {
		kind, length := byte(rand.IntN(2)), rand.IntN(100)
		if rand.IntN(3) == 0 {
			length = bigFrame - 1 + rand.IntN(3)
		}
		session = append(session, 0, kind, 0, 0, 0, 0, 0, 1)
		session = binary.BigEndian.AppendUint32(session, uint32(length))
		if kind == 0 { // the length of a window is none of bytes
			big := length >= bigFrame
			stops[len(session)] = big
			session = append(session, make([]byte, length)...)
			stops[len(session)] = big
		}
	}
	var f frames
	for at := 0; at < len(session); {
		came := session[at:min(len(session), at+1+rand.IntN(2*bigFrame))]
		n := f.part(came)
		if n == 0 || n > len(came) {
			t.Fatalf("at %d: %d bytes of %d", at, n, len(came))
		}
		for i := 1; i < n; i++ {
			if stops[at+i] {
				t.Fatalf("a part goes from %d to %d, beyond %d", at, at+n, at+i)
			}
		}
		if n < len(came) && !stops[at+n] {
			t.Fatalf("a part ends at %d, inside", at+n)
		}
		at += n
		if f.big && f.inBig() == f.afterBig() && f.have == 0 {
			t.Fatalf("at %d: both inside and after a big frame", at)
		}
	}
	if f.body != 0 || f.have != 0 {
		t.Errorf("%d bytes of a body and %d of a head at the end", f.body, f.have)
	}
}
