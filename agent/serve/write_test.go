package serve

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// openToWrite makes a file and opens a stream for it.
func openToWrite(t *testing.T) (path string, handle uint64, s net.Conn) {
	t.Helper()
	c, _ := agenttest.New(t, run(t))
	path = filepath.Join(t.TempDir(), "file")
	var opened protocol.OpenReply
	q := protocol.Open{Path: protocol.Path(path), Change: &protocol.OpenChange{Write: true, Create: true, Mode: 0o640}}
	if _, err := c.Ask(protocol.KindOpen, q, &opened); err != nil {
		t.Skip("opening to write:", err) // where the agent may not act as the target's user
	}
	s, err := c.Bulk.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return path, opened.Handle, s
}

// What comes together is answered in order, though it is more than waits.
func TestWritesTogether(t *testing.T) {
	_, handle, s := openToWrite(t)
	const n = 100
	var all []byte
	for i := range n {
		q := protocol.Write{Handle: handle, Flags: protocol.WriteAppend}
		if i == n/2 {
			q.Flags |= protocol.WriteSynced
		}
		var err error
		if all, err = protocol.AppendMessage(all, protocol.KindWrite, q, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Write(all); err != nil {
		t.Fatal(err)
	}
	for i := range int64(n) {
		var r protocol.WriteReply
		if _, err := protocol.ReadAnswer(s, protocol.KindWrite, &r); err != nil || r.Attr.Size != 10*(i+1) {
			t.Fatalf("answer %d: size %d, %v", i, r.Attr.Size, err)
		}
	}
}

// What is asked in one stream is done in order, without waiting for answers,
// and also after something that could not be done.
func TestWriteStream(t *testing.T) {
	path, handle, s := openToWrite(t)
	for _, m := range []struct {
		q    protocol.Write
		data string
	}{
		{protocol.Write{Handle: handle}, "one"},
		{protocol.Write{Handle: handle, Offset: -1}, "nothing"},
		{protocol.Write{Handle: handle, Flags: protocol.WriteAppend}, " two"},
		{protocol.Write{Handle: handle, Do: protocol.WriteStat}, ""},
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
