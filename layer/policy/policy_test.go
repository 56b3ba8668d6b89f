package policy

import (
	"net/netip"
	"path"
	"strings"
	"testing"

	"mirrord/protocol/ide"
)

var client = Client{Home: "/root", Dir: "/srv/src/web", Executable: "/srv/out/web", Temp: "/scratch"}

func newPolicy(t testing.TB, change func(*ide.Policy)) *Policy {
	t.Helper()
	set := ide.Policy{
		FSMode: "read", Mounts: []string{"/etc/shop", "/var/run/secrets/kubernetes.io/serviceaccount"},
		OutgoingTCP: true, OutgoingUDP: true, DNS: true, Hostname: true,
	}
	if change != nil {
		change(&set)
	}
	p, err := New(set, client)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPath(t *testing.T) {
	read := newPolicy(t, nil)
	user := newPolicy(t, func(s *ide.Policy) {
		s.NotFound = []string{`^/app/gone`}
		s.ReadWrite = []string{`^/etc/rw`, `^/app/gone/not`}
		s.ReadOnly = []string{`^/usr/share/REMOTE`, `^/lib/(?!local)x`}
		s.Local = []string{`^/app/cache`, `^/usr/share/remote`}
		s.Mapping = map[string]string{`^/usr/map/(.*)`: "/app/$1"}
	})
	editor := newPolicy(t, func(s *ide.Policy) { s.Places, s.Mounts = []string{"/srv/code/app", "/"}, []string{"/srv/code"} })
	mode := func(m string, dns bool) *Policy {
		return newPolicy(t, func(s *ide.Policy) { s.FSMode, s.DNS = m, dns })
	}
	userWrite := newPolicy(t, func(s *ide.Policy) {
		s.FSMode, s.ReadWrite, s.ReadOnly = "write", []string{`^/etc/ssl`}, []string{`^/app/fixed`}
		s.Mapping = map[string]string{`^/usr/map/(.*)`: "/app/$1"}
	})
	overrides := newPolicy(t, func(s *ide.Policy) { s.FSMode, s.ReadWrite = "localwithoverrides", []string{`^/data`} })
	kernel := newPolicy(t, func(s *ide.Policy) {
		s.ReadOnly, s.ReadWrite, s.NotFound = []string{"^/(sys/fs/cgroup|proc|dev/null)"}, []string{"^/dev/termination-log"}, []string{"^/dev/(kvm|shm|pts)"}
		s.Mapping = map[string]string{"^/cpuinfo": "/proc/cpuinfo"}
	})
	for _, tt := range []struct {
		p    *Policy
		path string
		want Verdict
	}{
		{read, "/app/config.yaml", modeRead},
		{read, "/proc/self/maps", kernelFiles},
		{read, "/dev/null", kernelFiles},
		{read, "/app/../proc/self/exe", kernelFiles},
		{read, "/sysroot/x", modeRead},
		{read, "/root/.kube/config", notFound},
		{read, "/root/.kube", notFound},
		{read, "/root/.kubectl", ownPlace},
		{read, "/root/.config/gcloud/x", notFound},
		{read, "/root/.config/other", ownPlace},
		{read, "/root/data", ownPlace},
		{editor, "/srv/code/app/bootloader", ownPlace},
		{editor, "/srv/code/other", Verdict{Kind: Remote, Rule: "volume mount of the target"}},
		{editor, "/app/x", modeRead},
		{read, "/etc/resolv.conf", resolver},
		{read, "/etc//resolv.conf", resolver},
		{read, "/etc/nsswitch.conf", resolver},
		{read, "/etc/hostname", readOnly},
		{read, "/etc/ssl/certs/ca-certificates.crt", readOnly},
		{read, "/etc/ssl/openssl.cnf", defaultLocal},
		{read, "/etc/shop/config.yaml", mounted},
		{read, "/etc/shop", mounted},
		{read, "/etc/shopping", defaultLocal},
		{read, "/etc/shop/..", through},
		{read, "/etc/shop/../passwd", through},
		{read, "/etc/shop/..data", mounted},
		{read, "/usr/../etc/passwd", defaultLocal},
		{read, "/srv", leading},
		{read, "/srv/src", leading},
		{read, "/srv/other", modeRead},
		{read, "/var/run/secrets/kubernetes.io/serviceaccount/token", mounted},
		{read, "/run/x", defaultLocal},
		{read, "/var/run/x", modeRead},
		{read, "/var/tmp/x", defaultLocal},
		{read, "/var/tmpx", modeRead},
		{read, "/", defaultLocal},
		{read, "/usr/lib/x.so", defaultLocal},
		{read, "/app/x.so", defaultLocal},
		{read, "/app/libz.so.1.2.13", defaultLocal},
		{read, "/app/libz.so.conf", modeRead},
		{read, "/app/main.py", defaultLocal},
		{read, "/app/py", modeRead},
		{read, "/app/.py", modeRead},
		{read, "/app/node_modules", defaultLocal},
		{read, "/app/node_modules/a/b.txt", defaultLocal},
		{read, "/app/package.json", defaultLocal},
		{read, "/app/.yarnrc.yml", defaultLocal},
		{read, "/app/clr-debug-pipe-1", defaultLocal},
		{read, "/srv/src/web/main.go", ownPlace},
		{read, "/srv/src/webs", modeRead},
		{read, "/srv/out/web", ownPlace},
		{read, "/scratch/x", ownPlace},
		{read, "x", relative},
		{read, "", relative},
		{user, "/app/gone/x", Verdict{Kind: NotFound, Rule: `fs.not_found "^/app/gone"`}},
		{user, "/app/gone/not", Verdict{Kind: NotFound, Rule: `fs.not_found "^/app/gone"`}},
		{user, "/etc/rw/x", Verdict{Kind: Remote, Rule: `fs.read_write "^/etc/rw"`, Writable: true}},
		{user, "/usr/share/remote", Verdict{Kind: Remote, Rule: `fs.read_only "^/usr/share/REMOTE"`}},
		{user, "/lib/x", Verdict{Kind: Remote, Rule: `fs.read_only "^/lib/(?!local)x"`}},
		{user, "/app/cache/x", Verdict{Kind: Local, Rule: `fs.local "^/app/cache"`}},
		{user, "/usr/map/a", Verdict{Kind: Remote, Rule: "fs mode read", Path: "/app/a"}},
		{user, "/app/x", modeRead},
		{mode("local", true), "/app/x", modeLocal},
		{mode("local", true), "/etc/shop/x", modeLocal},
		{mode("local", true), "/etc/hosts", resolver},
		{mode("local", false), "/etc/hosts", modeLocal},
		{mode("read", false), "/etc/hosts", resolverOff},
		{mode("localwithoverrides", true), "/app/x", modeOverrides},
		{mode("localwithoverrides", true), "/etc/shop/x", mounted},
		{mode("write", true), "/app/x", modeWrite},
		{mode("write", true), "/etc/shop/x", mountWritable},
		{mode("write", true), "/etc/hosts", resolver},
		{mode("write", true), "/etc/ssl/certs/x", readOnly},
		{mode("write", true), "/app/../etc/passwd", through},
		{mode("write", true), "/app/a/../b", modeWrite},
		{mode("write", true), "/usr/x", defaultLocal},
		{userWrite, "/app/fixed/x", Verdict{Kind: Remote, Rule: `fs.read_only "^/app/fixed"`}},
		{userWrite, "/app/x", modeWrite},
		{userWrite, "/etc/ssl/certs/x", Verdict{Kind: Remote, Rule: `fs.read_write "^/etc/ssl"`, Writable: true}},
		{userWrite, "/usr/map/x", Verdict{Kind: Remote, Rule: "fs mode write", Path: "/app/x", Writable: true}},
		{userWrite, "/usr/map/fixed", Verdict{Kind: Remote, Rule: `fs.read_only "^/app/fixed"`, Path: "/app/fixed"}},
		{overrides, "/data/x", Verdict{Kind: Remote, Rule: `fs.read_write "^/data"`, Writable: true}},
		{overrides, "/app/x", modeOverrides},
		{read, "/sys/fs/cgroup/cpu.max", kernelFiles},
		{kernel, "/sys/fs/cgroup/cpu.max", Verdict{Kind: Remote, Rule: `fs.read_only "^/(sys/fs/cgroup|proc|dev/null)"`}},
		{kernel, "/sys/class", kernelFiles},
		{kernel, "/dev/termination-log", Verdict{Kind: Remote, Rule: `fs.read_write "^/dev/termination-log"`, Writable: true}},
		{kernel, "/dev/kvm", Verdict{Kind: NotFound, Rule: `fs.not_found "^/dev/(kvm|shm|pts)"`}},
		{kernel, "/dev/kvm/../null", kernelFiles},
		{kernel, "/dev/shm/x", kernelFiles},
		{kernel, "/dev/pts/0", kernelFiles},
		{kernel, "/dev/null", kernelFiles},
		{kernel, "/dev", kernelFiles},
		{kernel, "/proc/cpuinfo", kernelFiles},
		{kernel, "/cpuinfo", Verdict{Kind: Local, Rule: kernelFiles.Rule, Path: "/proc/cpuinfo"}},
		{mode("local", true), "/dev/kvm", kernelFiles},
	} {
		if got := tt.p.Path(tt.path); got != tt.want {
			t.Errorf("%s %q: %v by %+q, want %v by %+q", tt.p.set.FSMode, tt.path, got, got.Rule, tt.want, tt.want.Rule)
		}
	}
}

func TestConnect(t *testing.T) {
	p := newPolicy(t, func(s *ide.Policy) {
		s.OutgoingLocal = []string{"tcp://10.1.0.0/16:5432", "192.0.2.7", "udp://:123", "[2001:db8::1]:80"}
	})
	off := newPolicy(t, func(s *ide.Policy) { s.OutgoingTCP, s.OutgoingUDP, s.DNS = false, false, false })
	for _, tt := range []struct {
		p     *Policy
		proto Proto
		addr  string
		want  Kind
	}{
		{p, TCP, "10.96.0.1:443", Remote},
		{p, TCP, "[::ffff:10.96.0.1]:443", Remote},
		{p, TCP, "127.0.0.1:80", Local},
		{p, TCP, "127.0.0.1:53", Remote},
		{p, UDP, "10.96.0.10:53", Remote},
		{p, UDP, "224.0.0.251:5353", Local},
		{p, UDP, "255.255.255.255:67", Local},
		{p, UDP, "10.96.0.9:8125", Remote},
		{p, TCP, "0.0.0.0:80", Local},
		{p, TCP, "[::1]:80", Local},
		{p, TCP, "[fe80::1%eth0]:80", Local},
		{p, TCP, "169.254.169.254:80", Remote},
		{p, TCP, "10.1.2.3:5432", Local},
		{p, TCP, "10.1.2.3:5433", Remote},
		{p, UDP, "10.1.2.3:5432", Remote},
		{p, TCP, "192.0.2.7:1", Local},
		{p, UDP, "1.1.1.1:123", Local},
		{p, TCP, "1.1.1.1:123", Remote},
		{p, TCP, "[2001:db8::1]:80", Local},
		{off, TCP, "10.96.0.1:443", Local},
		{off, UDP, "10.96.0.10:53", Local},
		{off, UDP, "10.96.0.10:54", Local},
	} {
		if got := tt.p.Connect(tt.proto, netip.MustParseAddrPort(tt.addr)); got.Kind != tt.want {
			t.Errorf("%d %s: %+v, want %v", tt.proto, tt.addr, got, tt.want)
		}
	}
}

func anywhere(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), port) }

func TestUnixListenProcess(t *testing.T) {
	p := newPolicy(t, func(s *ide.Policy) {
		s.Steal, s.IgnorePorts, s.SkipProcesses = true, []uint16{9229}, []string{"dlv", "go"}
	})
	only := newPolicy(t, func(s *ide.Policy) { s.Steal, s.Ports = true, []uint16{80} })
	mirror := newPolicy(t, func(s *ide.Policy) { s.Mirror = true })
	outside := newPolicy(t, func(s *ide.Policy) { s.Steal, s.IgnoreLocalhost = true, true })
	for _, tt := range []struct {
		name string
		got  Verdict
		want Kind
	}{
		{"nscd", p.Unix("/var/run/nscd/socket"), Refused},
		{"resolved", p.Unix("/run/systemd/resolve/io.systemd.Resolve"), Refused},
		{"postgres", p.Unix("/run/postgresql/.s.PGSQL.5432"), Local},
		{"listen", p.Listen(anywhere(8080)), Remote},
		{"ignored port", p.Listen(anywhere(9229)), Local},
		{"port 0", p.Listen(anywhere(0)), Local},
		{"only port", only.Listen(anywhere(80)), Remote},
		{"another port", only.Listen(anywhere(81)), Local},
		{"no steal", newPolicy(t, nil).Listen(anywhere(80)), Local},
		{"mirror", mirror.Listen(anywhere(80)), Remote},
		{"all addresses", outside.Listen(anywhere(80)), Remote},
		{"127.0.0.1", outside.Listen(netip.MustParseAddrPort("127.0.0.1:80")), Local},
		{"v4-mapped", outside.Listen(netip.MustParseAddrPort("[::ffff:127.0.0.1]:80")), Local},
		{"::1", outside.Listen(netip.MustParseAddrPort("[::1]:80")), Local},
		{"dlv", p.Process("/usr/bin/dlv", "dlv"), Local},
		{"argv0", p.Process("/opt/toolchain/bin/real", "/x/go"), Local},
		{"web", p.Process("/srv/out/web", "./web"), Remote},
	} {
		if tt.got.Kind != tt.want {
			t.Errorf("%s: %+v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

func TestNewErrors(t *testing.T) {
	for name, change := range map[string]func(*ide.Policy){
		"not_found":             func(s *ide.Policy) { s.NotFound = []string{"("} },
		"mapping":               func(s *ide.Policy) { s.Mapping = map[string]string{"[": ""} },
		"fs mode":               func(s *ide.Policy) { s.FSMode = "some" },
		"not tcp or udp":        func(s *ide.Policy) { s.OutgoingLocal = []string{"sctp://1.2.3.4"} },
		"not a port":            func(s *ide.Policy) { s.OutgoingLocal = []string{"1.2.3.4:http"} },
		"addresses, not names":  func(s *ide.Policy) { s.OutgoingLocal = []string{"db.example.com:1"} },
		"outgoing.filter.local": func(s *ide.Policy) { s.OutgoingLocal = []string{"1.2.3.4:99999"} },
	} {
		set := ide.Policy{FSMode: "read"}
		change(&set)
		if _, err := New(set, client); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A pattern that takes too long decides neither way.
func TestPatternTime(t *testing.T) {
	const slow = `^/((a+)+)+(?=b)$`
	for setting, change := range map[string]func(*ide.Policy){
		"feature.fs.local":   func(s *ide.Policy) { s.Local = []string{slow} },
		"feature.fs.mapping": func(s *ide.Policy) { s.Mapping = map[string]string{slow: "/x"} },
	} {
		v := newPolicy(t, change).Path("/" + strings.Repeat("a", 60))
		if got, pattern := v.Origin(); v.Kind != Refused || got != setting || pattern != slow {
			t.Errorf("%+v of %s, want refused by %s", v, got, setting)
		}
	}
}

// A path's spelling never changes its verdict.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/app//x", "/etc/./hosts", "/a/../proc/1", "/etc/shop/../x/", "/.."} {
		f.Add(s)
	}
	p := newPolicy(f, func(s *ide.Policy) { s.ReadOnly = []string{"^/opt/x"} })
	f.Fuzz(func(t *testing.T, s string) {
		if !strings.HasPrefix(s, "/") {
			return
		}
		clean := path.Clean(s)
		got, want := p.Path(s), p.Path(clean)
		if got == through && want.Kind == Local && strings.Contains(s, "..") {
			return
		}
		if got != want {
			t.Errorf("%q is %+v, %q is %+v", s, got, clean, want)
		}
		if again := p.Path("/./" + s); again != want {
			t.Errorf("/./%q is %+v, %q is %+v", s, again, clean, want)
		}
	})
}

func BenchmarkPathLocal(b *testing.B) {
	p := newPolicy(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		p.Path("/usr/lib/python3/dist-packages/x/y/z.py")
	}
}

func BenchmarkPathUser(b *testing.B) {
	p := newPolicy(b, func(s *ide.Policy) { s.ReadOnly = []string{"^/opt/.*/x$"} })
	b.ReportAllocs()
	for b.Loop() {
		p.Path("/usr/lib/python3/dist-packages/x/y/z.py")
	}
}

// What a verdict says of where it comes from is a setting, and a pattern of it.
func TestOrigin(t *testing.T) {
	p, err := New(ide.Policy{FSMode: "read", Local: []string{`^/a "b"`}, OutgoingLocal: []string{"10.0.0.0/8"}, Mounts: []string{"/m"}}, Client{})
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[Verdict][2]string{
		p.Path(`/a "b"/c`): {"feature.fs.local", `^/a "b"`},
		p.Path("/x"):       {"feature.fs.mode"},
		p.Path("/m/x"):     {"feature.magic.auto_mount"},
		p.Path("/usr/x"):   {},
		p.Connect(TCP, netip.MustParseAddrPort("10.1.1.1:80")): {"feature.network.outgoing.filter.local", "10.0.0.0/8"},
		p.Connect(TCP, netip.MustParseAddrPort("1.1.1.1:80")):  {"feature.network.outgoing.tcp"},
		p.Name(): {"feature.network.dns"},
	} {
		if setting, pattern := v.Origin(); setting != want[0] || pattern != want[1] {
			t.Errorf("%v comes from %q %q, want %q", v, setting, pattern, want)
		}
	}
}

func TestPortPairs(t *testing.T) {
	p := newPolicy(t, func(s *ide.Policy) {
		s.PortMapping, s.ListenPorts = [][2]uint16{{3000, 80}, {80, 8080}}, [][2]uint16{{3000, 3001}}
	})
	for _, tt := range []struct{ port, target, listener, bind uint16 }{
		{3000, 80, 3000, 3001}, {80, 8080, 3000, 80}, {8080, 8080, 80, 8080}, {0, 0, 0, 0},
	} {
		if target, listener, bind := p.TargetPort(tt.port), p.ListenerPort(tt.port), p.BindPort(tt.port); target != tt.target || listener != tt.listener || bind != tt.bind {
			t.Errorf("port %d: the target's %d, the listener's %d, here %d; want %+v", tt.port, target, listener, bind, tt)
		}
	}
}
