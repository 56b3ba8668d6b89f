package layer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mirrord/protocol"
)

var update = flag.Bool("update", false, "write testdata/wire anew")

const golden = "../../testdata/wire/layer.json"

var requests = map[string]Request{
	"attach":   {Op: OpAttach, Seq: 1, Path: "5f3a9c21"},
	"open":     {Op: OpOpen, Seq: 2, Flags: OpenDirectory | OpenNoFollow, Path: "/etc/shop"},
	"xattr":    {Op: OpXattr, Seq: 12, Flags: OpenNoFollow, Path: "/etc/shop/config.yaml\x00user.origin"},
	"access":   {Op: OpAccess, Seq: 3, Mode: 4, Path: "/etc/shop/config.yaml"},
	"connect":  {Op: OpConnect, Seq: 4, Addr: netip.MustParseAddrPort("10.96.0.12:80"), Addr2: netip.MustParseAddrPort("127.4.5.6:40000")},
	"change":   {Op: OpChange, Seq: 6, Path: string(AppendChange(nil, &change))},
	"datagram": {Op: OpDatagram, Seq: 5, Addr: netip.MustParseAddrPort("[fd00::10]:53"), Addr2: netip.MustParseAddrPort("[::1]:0")},
}

var change = protocol.Change{
	Op: protocol.ChangeRename, Path: "/data/a", Other: "/data/b", NoFollow: true, Flags: 1, Mode: 2, Umask: 3, UID: 4, GID: protocol.KeepID, Size: -5,
	Times: []protocol.Timespec{{Sec: -6, Nsec: 7}, {Sec: 8, Nsec: 9}}, Dev: 10, Ino: 11,
}

var statfs = protocol.StatfsReply{
	Type: 1, Bsize: 2, Frsize: 3, Blocks: 4, Bfree: 5, Bavail: 6, Files: 7, Ffree: 8, Fsid: [2]int32{9, -10}, Namelen: 11, Flags: 12,
}

var ahead = Ahead{Path: "/etc/shop/config.yaml", Resolved: "/etc/shop/..2026/config.yaml", Content: []byte("a: 1\n")}

var replies = map[string]Reply{
	"ahead":   {Flags: ReplyAhead, Node: AheadContent | OpenNoFollow, Lease: protocol.Lease{ID: 3, Seq: 6}, Data: ahead.Append(nil)},
	"link":    {Seq: 8, Flags: ReplyReads | ReplyRuns, Data: AppendXattrs([]byte("..data/a"), []byte{})},
	"xattrs":  {Seq: 9, Flags: ReplyReads, Data: AppendXattrs(nil, protocol.AppendXattr(nil, "user.origin", []byte("shop")))},
	"statfs":  {Seq: 7, Data: AppendStatfs(nil, &statfs)},
	"refused": {Seq: 4, Errno: 111, Data: []byte("connection refused")},
	"file": {Seq: 2, Flags: ReplyFD, Data: []byte("/etc/shop/..2026/config.yaml"), Attr: protocol.Attr{
		Dev: 1, Ino: 2, Mode: 0o100644, Nlink: 3, UID: 4, GID: 5, Rdev: 6, Size: 7, Blksize: 8, Blocks: 9, Atime: 10, Mtime: 11, Ctime: -12,
	}},
	"node":    {Seq: 2, Flags: ReplyNode, Node: 77},
	"connect": {Seq: 4, Addr: netip.MustParseAddrPort("127.0.0.1:33333"), Addr2: netip.MustParseAddrPort("10.244.0.7:50000")},
}

func TestGoldenMessages(t *testing.T) {
	got := map[string]string{}
	for name, r := range requests {
		got["request "+name] = hex.EncodeToString(r.Append(nil))
	}
	for name, r := range replies {
		got["reply "+name] = hex.EncodeToString(r.Append(nil))
	}
	if *update {
		b, _ := json.MarshalIndent(got, "", "\t")
		if err := os.WriteFile(golden, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages differ from %s:\n%s", golden, diff)
	}
}

func TestRoundTrip(t *testing.T) {
	addr := cmpopts.EquateComparable(netip.AddrPort{})
	for name, want := range requests {
		var got Request
		if err := got.Decode(want.Append(nil)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, addr); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name, want := range replies {
		var got Reply
		if err := got.Decode(want.Append(nil)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, addr, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAhead(t *testing.T) {
	var got Ahead
	packet := ahead.Append(nil)
	if err := got.Decode(packet); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ahead, got); diff != "" {
		t.Error(diff)
	}
	for n := range len(packet) - len(ahead.Content) {
		if err := got.Decode(packet[:n]); err == nil {
			t.Errorf("%d bytes were decoded: %+v", n, got)
		}
	}
}

func TestChange(t *testing.T) {
	packet := string(AppendChange(nil, &change))
	got, err := DecodeChange(packet)
	if diff := cmp.Diff(change, got); diff != "" || err != nil {
		t.Errorf("%v, %s", err, diff)
	}
	for n := range len(packet) - len(change.Other) {
		if got, err := DecodeChange(packet[:n]); err == nil {
			t.Errorf("%d bytes were decoded: %+v", n, got)
		}
	}
	longest := protocol.Path(bytes.Repeat([]byte("x"), MaxPath))
	q := Request{Op: OpChange, Path: string(AppendChange(nil, &protocol.Change{Path: longest, Other: longest}))}
	var r Request
	if err := r.Decode(q.Append(nil)); err != nil || len(r.Path) != MaxChange {
		t.Errorf("the longest: %v, %d bytes", err, len(r.Path))
	}
	q.Op = OpStat
	if err := r.Decode(q.Append(nil)); err == nil {
		t.Error("another request was as long")
	}
	if got, err := DecodeStatfs(AppendStatfs(nil, &statfs)); err != nil || got != statfs {
		t.Errorf("%+v, %v", got, err)
	}
}

// What decodes must encode to the same meaning, and never read past its packet.
func FuzzDecode(f *testing.F) {
	for _, r := range requests {
		f.Add(r.Append(nil))
	}
	for _, r := range replies {
		f.Add(r.Append(nil))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var q, q2 Request
		if q.Decode(in) == nil {
			out := q.Append(nil)
			if err := q2.Decode(out); err != nil || q2 != q {
				t.Errorf("%x became %x, %v", in, out, err)
			}
		}
		if c, err := DecodeChange(string(in)); err == nil {
			out := string(AppendChange(nil, &c))
			if c2, err := DecodeChange(out); err != nil || !cmp.Equal(c, c2) {
				t.Errorf("%x became %x, %v", in, out, err)
			}
		}
		var p, p2 Reply
		if p.Decode(in) == nil {
			out := p.Append(nil)
			if err := p2.Decode(out); err != nil || !bytes.Equal(p2.Append(nil), out) {
				t.Errorf("%x became %x, %v", in, out, err)
			}
		}
	})
}
