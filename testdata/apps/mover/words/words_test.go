package words

import (
	"bytes"
	"io"
	"testing"
)

func TestWords(t *testing.T) {
	got := make([]byte, 1000)
	var from Source
	for i := 0; i < len(got); i += 40 {
		io.ReadFull(&from, got[i:i+3])
		io.ReadFull(&from, got[i+3:i+40])
	}
	want := make([]byte, len(got))
	io.ReadFull(new(Source), want)
	if !bytes.Equal(got, want) || want[8] != 1 {
		t.Errorf("read in parts %x, at once %x", got, want)
	}
	for name, change := range map[string]func([]byte) []byte{
		"nothing": func(b []byte) []byte { return b },
		"lost":    func(b []byte) []byte { return append(b[:488:488], b[496:]...) },
		"doubled": func(b []byte) []byte { return append(b[:496:496], b[488:]...) },
		"wrong":   func(b []byte) []byte { b[999]++; return b },
	} {
		var to Sink
		n, err := io.Copy(&to, io.MultiReader(bytes.NewReader(got[:11]), bytes.NewReader(change(bytes.Clone(got))[11:])))
		if (err == nil) != (name == "nothing") {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}
