package link

import "testing"

func TestUrgency(t *testing.T) {
	frame := func(kind, flags, length byte) []byte { return []byte{0, kind, 0, flags, 0, 0, 0, 1, 0, 0, 0, length} }
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
		{"a window", frame(1, 0, 9), soon},
		{"the end of a stream", frame(1, 4, 0), soon},
		{"a ping", frame(2, 1, 0), now},
	} {
		if got := told.tell(write.bytes); got != write.want {
			t.Errorf("%s: urgency %d, want %d", write.what, got, write.want)
		}
	}
}
