package protocol

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/wire anew")

const golden = "../testdata/wire/agent.json"

// A vector is one message as every language must read and write it.
type vector struct {
	Name    string          `json:"name"`
	Kind    Kind            `json:"kind"`
	Header  json.RawMessage `json:"header"`
	Payload string          `json:"payload"` // hex
	Frame   string          `json:"frame"`   // hex
}

func messages() []struct {
	name    string
	kind    Kind
	header  any
	payload []byte
} {
	type message = struct {
		name    string
		kind    Kind
		header  any
		payload []byte
	}
	attr := Attr{
		Dev: 66306, Ino: 1311, Mode: 0o100644, Nlink: 1, UID: 0, GID: 1000, Size: 5, Blksize: 4096, Blocks: 8,
		Atime: 1700000000000000001, Mtime: 1700000000000000002, Ctime: 1700000000000000003,
	}
	addr := netip.MustParseAddrPort("10.96.0.12:80")
	entries := AppendDirEntry(AppendDirEntry(nil, DirEntry{1312, 10, "..data"}), DirEntry{1313, 8, "config.yaml"})
	return []message{
		{"error", KindError, Error{Op: "open /etc/none", Errno: 2, Msg: "no such file or directory"}, nil},
		{"hello", KindHello, Hello{Version: 1, Build: "0123456789ab", Client: Client{Name: "alice@laptop", Place: "K7QX", Run: 1700000000000000001}, GraceMS: 60_000}, nil},
		{"hello reply", KindHello, HelloReply{
			Version: 1, Build: "0123456789ab", Kinds: ClientKinds(), Hostname: "web-1", Addrs: []string{"10.244.0.7"},
			Abilities: []Ability{{Name: AbilityTarget}, {Name: AbilityRedirect, Err: "operation not permitted"}},
		}, nil},
		{"environ", KindEnviron, struct{}{}, nil},
		{"environ reply", KindEnviron, EnvironReply{}, []byte("A=1\x00B=two words\x00")},
		{"open", KindOpen, Open{Path: "/etc/shop/config.yaml", Inline: 65536, Lease: true}, nil},
		{"open reply", KindOpen, OpenReply{Attr: attr, Path: "/etc/shop/..2026/config.yaml", Lease: Lease{ID: 3, Seq: 6}}, []byte("a: 1\n")},
		{"open directory", KindOpen, Open{Path: "/etc/shop", Directory: true, NoFollow: true}, nil},
		{"open directory reply", KindOpen, OpenReply{Handle: 7, Attr: attr, Path: "/etc/shop", List: &ReadDirReply{More: true}}, AppendDirEntry(nil, DirEntry{Ino: 9, Type: 8, Name: "config.yaml"})},
		{"open directory reply with what is inside", KindOpen, OpenReply{Handle: 7, Attr: attr, Path: "/etc/shop", Ahead: true, Soon: true, List: &ReadDirReply{}, Inside: &Inside{Content: true, NoFollow: true}}, nil},
		{"open for writing", KindOpen, Open{Path: "/srv/log", Change: &OpenChange{Write: true, Create: true, Truncate: true, Mode: 0o666, Umask: 0o22}}, nil},
		{"open for writing reply", KindOpen, OpenReply{Handle: 8, Attr: attr, Path: "/srv/log", Seq: 9}, nil},
		{"open nameless", KindOpen, Open{Path: "/srv", Change: &OpenChange{Read: true, Write: true, Exclusive: true, Temporary: true, Mode: 0o600}}, nil},
		{"open by a walk", KindOpen, Open{Path: "/srv", Inline: 65536, Walk: &Walk{Path: "../a", Resolve: 16}}, nil},
		{"open by bytes", KindOpen, Open{Path: "/srv/caf\xe9", Inline: 65536}, nil},
		{"open by bytes reply", KindOpen, OpenReply{Attr: attr, Path: "/srv/caf\xe9"}, nil},
		{"write", KindWrite, Write{Handle: 8, Flags: WriteAppend, Offset: 4096}, []byte{255, 0}},
		{"write reply", KindWrite, WriteReply{Before: attr.Stamp(), Attr: attr}, nil},
		{"write attributes", KindWrite, Write{Handle: 8, Do: WriteAttr, Set: &SetAttr{
			Size: new(int64), Mode: new(uint32(0o600)), UID: new(uint32(0)), GID: new(uint32(1000)), Atime: &Time{NS: 1700000000000000001}, Mtime: &Time{Now: true},
		}}, nil},
		{"write sync", KindWrite, Write{Handle: 8, Do: WriteSync, Flags: WriteDataOnly}, nil},
		{"write allocate", KindWrite, Write{Handle: 8, Do: WriteAllocate, Flags: 3, Offset: 4096, Length: 8192}, nil},
		{"write seek", KindWrite, Write{Handle: 8, Do: WriteSeek, Offset: 5, Whence: 4}, nil},
		{"write seek reply", KindWrite, WriteReply{Before: attr.Stamp(), Attr: attr, Offset: 4096}, nil},
		{"write stat", KindWrite, Write{Handle: 8, Do: WriteStat}, nil},
		{"read", KindRead, Read{ID: 2, Handle: 7, Offset: 1 << 40, Len: 131072}, nil},
		{"read reply", KindRead, ReadReply{ID: 2}, []byte{0, 255}},
		{"readdir", KindReadDir, ReadDir{Handle: 7, Offset: 2}, nil},
		{"readdir reply", KindReadDir, ReadDirReply{More: true}, entries},
		{"close", KindClose, Close{Handle: 7}, nil},
		{"close reply", KindClose, CloseReply{}, nil},
		{"stat", KindStat, Stat{Path: "/etc/shop", NoFollow: true}, nil},
		{"stat reply", KindStat, StatReply{Attr: attr}, nil},
		{"stat by bytes", KindStat, Stat{Path: "/srv/\xff"}, nil},
		{"stat ahead", KindStat, Stat{Path: "/etc/shop/a", Lease: true, Ahead: true}, nil},
		{"stat ahead reply", KindStat, StatReply{Attr: attr, Lease: Lease{ID: 3, Seq: 6}, Ahead: true}, nil},
		{"ahead", KindStat, Ahead{Files: []AheadFile{{Name: "b", Attr: attr, Lease: Lease{ID: 4, Seq: 6}}}}, nil},
		{"stat of a link reply", KindStat, StatReply{Attr: attr, Lease: Lease{ID: 3, Seq: 6}, Beside: Beside{Link: "..data/a", May: 5, Xattrs: []byte{}}}, nil},
		{"stat of a link that cannot be read reply", KindStat, StatReply{Attr: attr, Beside: Beside{NoLink: 13}}, nil},
		{"ahead of what a link leads to", KindStat, Ahead{Files: []AheadFile{{
			Name: "b", Attr: attr, Lease: Lease{ID: 4, Seq: 6}, Follow: true, Beside: Beside{May: 4, Xattrs: AppendXattr(nil, "user.origin", []byte("shop"))},
		}}}, nil},
		{"ahead of open", KindOpen, Ahead{Files: []AheadFile{{Name: "b", Path: "/etc/shop/b", Size: 2, Attr: attr, Lease: Lease{ID: 5, Seq: 6}}}}, []byte("b\n")},
		{"ahead by bytes", KindOpen, Ahead{Files: []AheadFile{{Name: "\xff", Path: "/etc/\xff/b", Attr: attr, Lease: Lease{ID: 6, Seq: 6}}}}, nil},
		{"access", KindAccess, Access{Path: "/etc/shop", Mode: 4}, nil},
		{"access reply", KindAccess, AccessReply{}, nil},
		{"xattr", KindXattr, Xattr{Path: "/etc/shop/config.yaml", NoFollow: true, Name: "user.origin"}, nil},
		{"xattr reply", KindXattr, XattrReply{}, []byte("shop")},
		{"connect", KindConnect, Connect{Addr: addr}, nil},
		{"connect reply", KindConnect, ConnectReply{Local: netip.MustParseAddrPort("10.244.0.7:40000")}, nil},
		{"datagram", KindDatagram, Datagram{Addr: netip.MustParseAddrPort("[fd00::10]:53")}, nil},
		{"datagram reply", KindDatagram, DatagramReply{Local: netip.MustParseAddrPort("[fd00::7]:40000")}, nil},
		{"change", KindChange, Change{Op: ChangeMkdir, Path: "/data/new", Mode: 0o777, Umask: 0o22}, nil},
		{"change of a handle", KindChange, Change{Op: ChangeLink, Path: "/data/#7", Other: "/data/new", Handle: 7}, nil},
		{"change reply", KindChange, ChangeReply{Seq: 8, From: "/data/a", To: "/data/b", Files: []FileID{{Dev: 66306, Ino: 1311}}}, nil},
		{"rename", KindChange, Change{Op: ChangeRename, Path: "/data/a", Other: "/data/not UTF-8: \xff", Flags: 1}, nil},
		{"chown", KindChange, Change{Op: ChangeOwner, Path: "/data/a", NoFollow: true, UID: 1000, GID: KeepID, Dev: 66306, Ino: 1311}, nil},
		{"utimens", KindChange, Change{Op: ChangeTimes, Path: "/data/a", Times: []Timespec{{Sec: -1, Nsec: 5}, {Nsec: 1<<30 - 1}}}, nil},
		{"statfs", KindStatfs, Statfs{Path: "/data"}, nil},
		{"statfs reply", KindStatfs, StatfsReply{
			Type: 0xef53, Bsize: 4096, Frsize: 4096, Blocks: 100, Bfree: 60, Bavail: 50, Files: 40, Ffree: 30, Fsid: [2]int32{7, -8}, Namelen: 255, Flags: 32,
		}, nil},
		{"watch reply", KindWatch, WatchReply{}, nil},
		{"expired", KindWatch, Expired{Seq: 7, IDs: []uint64{3, 5}}, nil},
		{"steal", KindSteal, Steal{ID: 2, Port: 8080, Patience: 3605}, nil},
		{"steal by filter", KindSteal, Steal{ID: 3, Port: 8080, Filter: &Filter{All: []Filter{
			{Header: "^x-user: alice$"}, {HeaderJQ: ". == \"a: b\""}, {Path: "^/orders"}, {Method: "POST"},
			{Any: []Filter{{Body: &BodyFilter{Query: "$.id", Matches: "^1"}}, {Body: &BodyFilter{Query: ".id == 1", JQ: true}}}},
		}}}, nil},
		{"steal of another's", KindSteal, Steal{ID: 4, Session: "1f2e3d4c", Port: 8080, Override: true}, nil},
		{"steal once", KindSteal, Steal{ID: 4, Port: 8080, Flush: FlushIdle, Once: true, Arm: 1}, nil},
		{"steal of TLS", KindSteal, Steal{ID: 5, Port: 8443, Filter: &Filter{ServerName: "^shop$"}, TLS: &TLS{CertPath: "/tls/tls.crt", KeyPath: "/tls/tls.key"}}, nil},
		{"steal state", KindSteal, StealState{Paused: true, Arm: 2}, nil},
		{"steal reply", KindSteal, StealReply{Redirect: "sk_lookup"}, nil},
		{"steal reply, of a mirror that is cut", KindSteal, StealReply{Redirect: "packet", Cut: "packets were missed"}, nil},
		{"incoming", KindIncoming, Incoming{ID: 2, Port: 8080, Client: netip.MustParseAddrPort("10.244.0.9:51000"), Local: netip.MustParseAddrPort("10.244.0.7:8080")}, nil},
		{"incoming that waits", KindIncoming, Incoming{
			ID: 2, Port: 8080, Client: netip.MustParseAddrPort("10.244.0.9:51000"), Local: netip.MustParseAddrPort("10.244.0.7:8080"), Waits: true,
		}, nil},
		{"incoming in TLS", KindIncoming, Incoming{
			ID: 5, Port: 8443, Client: netip.MustParseAddrPort("10.244.0.9:51000"), Local: netip.MustParseAddrPort("10.244.0.7:8443"),
			TLS: &Opened{ServerName: "shop", Protocol: "h2"},
		}, nil},
		{"incoming reply", KindIncoming, IncomingReply{}, nil},
		{"incoming reply, which waits", KindIncoming, IncomingReply{Waits: true}, nil},
		{"incoming reply, which lingers", KindIncoming, IncomingReply{Lingers: true}, nil},
		{"incoming reply, which asks", KindIncoming, IncomingReply{Asks: true}, nil},
		{"certify", KindCertify, TLS{Cert: []byte("PEM"), Key: Secret("PEM, too")}, nil},
		{"certify reply", KindCertify, CertifyReply{Names: []string{"shop"}, Until: "2027-11-27T12:00:00Z"}, nil},
		{"pause", KindPause, Pause{Session: "1f2e3d4c", Probes: []uint16{8080}}, nil},
		{"pause reply", KindPause, PauseReply{}, nil},
		{"holders", KindHolders, struct{}{}, nil},
		{"holders reply", KindHolders, HoldersReply{}, []byte(`[{"client":"alice@laptop","port":8080,"since":"2026-11-23T12:00:00Z","redirect":"sk_lookup"}]`)},
	}
}

func TestGoldenMessages(t *testing.T) {
	var got []vector
	for _, m := range messages() {
		var frame bytes.Buffer
		if err := WriteMessage(&frame, m.kind, m.header, m.payload); err != nil {
			t.Fatal(err)
		}
		header, _ := json.Marshal(m.header)
		got = append(got, vector{m.name, m.kind, header, hex.EncodeToString(m.payload), hex.EncodeToString(frame.Bytes())})
	}
	if *update {
		b, _ := json.MarshalIndent(got, "", "\t")
		os.MkdirAll(filepath.Dir(golden), 0o755)
		if err := os.WriteFile(golden, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var want []vector
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		var compact bytes.Buffer
		json.Compact(&compact, want[i].Header)
		want[i].Header = compact.Bytes()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages differ from %s (go test ./protocol -update writes it; an older peer then misreads us: raise Version):\n%s", golden, diff)
	}
}

func TestReadAnswer(t *testing.T) {
	var b bytes.Buffer
	WriteError(&b, "open /etc/none", &fs.PathError{Op: "open", Path: "/etc/none", Err: syscall.ENOENT})
	_, err := ReadAnswer(&b, KindOpen, new(OpenReply))
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a KindError answer became %v", err)
	}
	WriteMessage(&b, KindStat, StatReply{}, nil)
	if _, err := ReadAnswer(&b, KindOpen, new(OpenReply)); err == nil {
		t.Error("an answer of another kind was taken")
	}
}

func TestReadFrameLimits(t *testing.T) {
	for name, in := range map[string]struct {
		head []byte
		want error
	}{
		"header":  {[]byte{1, 0, 0xff, 0xff, 0, 0, 0, 0}, ErrFrameSize},
		"payload": {[]byte{1, 0, 0, 0, 0xff, 0, 0, 0}, ErrFrameSize},
		"flags":   {[]byte{1, 1, 0, 0, 0, 0, 0, 0}, ErrFrameFlags},
	} {
		if _, err := ReadFrame(bytes.NewReader(in.head)); !errors.Is(err, in.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What decodes must encode to the same bytes: one frame, one spelling.
func FuzzReadFrame(f *testing.F) {
	for _, m := range messages() {
		var b bytes.Buffer
		WriteMessage(&b, m.kind, m.header, m.payload)
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		fr, err := ReadFrame(r)
		if err != nil {
			return
		}
		if out := AppendFrame(nil, fr); !bytes.Equal(out, in[:len(in)-r.Len()]) {
			t.Errorf("%q became %q", in, out)
		}
	})
}

func FuzzDirEntries(f *testing.F) {
	f.Add(AppendDirEntry(nil, DirEntry{1, 8, "a"}))
	f.Fuzz(func(t *testing.T, in []byte) {
		list, err := DirEntries(in)
		if err != nil {
			return
		}
		var out []byte
		for _, e := range list {
			out = AppendDirEntry(out, e)
		}
		if !bytes.Equal(out, in) {
			t.Errorf("%q became %q", in, out)
		}
	})
}

func FuzzCutXattr(f *testing.F) {
	f.Add(AppendXattr(AppendXattr(nil, "user.origin", []byte("shop")), "user.empty", nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out []byte
		for rest := in; len(rest) > 0; {
			name, value, after, ok := CutXattr(rest)
			if !ok {
				return
			}
			out, rest = AppendXattr(out, name, value), after
		}
		if !bytes.Equal(out, in) {
			t.Errorf("%q became %q", in, out)
		}
	})
}

func TestFilterWords(t *testing.T) {
	for want, f := range map[string]Filter{
		"header ^x-user: alice$": {Header: "^x-user: alice$"},
		"body $.id matches ^1":   {Body: &BodyFilter{Query: "$.id", Matches: "^1"}},
		"path ^/a and (method GET or header jq true)": {All: []Filter{
			{Path: "^/a"}, {Any: []Filter{{Method: "GET"}, {HeaderJQ: "true"}}},
		}},
	} {
		if got := f.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
