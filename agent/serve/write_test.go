package serve

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// What is asked in one stream is done in order, without waiting for answers,
// and also after something that could not be done.
func TestWriteStream(t *testing.T) {
	c, _ := agenttest.New(t, run(t))
	path := filepath.Join(t.TempDir(), "file")
	var opened protocol.OpenReply
	q := protocol.Open{Path: protocol.Path(path), Change: &protocol.OpenChange{Write: true, Create: true, Mode: 0o640}}
	if _, err := c.Ask(protocol.KindOpen, q, &opened); err != nil {
		t.Skip("opening to write:", err) // where the agent may not act as the target's user
	}
	s, err := c.Bulk.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, m := range []struct {
		q    protocol.Write
		data string
	}{
		{protocol.Write{Handle: opened.Handle}, "one"},
		{protocol.Write{Handle: opened.Handle, Offset: -1}, "nothing"},
		{protocol.Write{Handle: opened.Handle, Flags: protocol.WriteAppend}, " two"},
		{protocol.Write{Handle: opened.Handle, Do: protocol.WriteStat}, ""},
	} {
		if err := protocol.WriteMessage(s, protocol.KindWrite, m.q, []byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	var sizes []int64
	for range 4 {
		var r protocol.WriteReply
		_, err := protocol.ReadAnswer(s, protocol.KindWrite, &r)
		if errors.Is(err, unix.EINVAL) {
			r.Attr.Size = -1
		} else if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, r.Attr.Size)
	}
	if sizes[0] != 3 || sizes[1] != -1 || sizes[2] != 7 || sizes[3] != 7 {
		t.Errorf("sizes %v", sizes)
	}
	if b, err := os.ReadFile(path); string(b) != "one two" {
		t.Errorf("file is %q, %v", b, err)
	}
	if err := protocol.WriteMessage(s, protocol.KindRead, protocol.Read{}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.ReadAnswer(s, protocol.KindWrite, new(protocol.WriteReply)); !errors.Is(err, unix.EPROTO) {
		t.Errorf("a read in a stream for writing: %v", err)
	}
}
