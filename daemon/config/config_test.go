package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// client is one in a fresh directory that holds file.
func client(t *testing.T, file, text string, env ...string) ide.Client {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return ide.Client{Dir: dir, Env: env}
}

func load1(t *testing.T, text string, o ide.Overrides, env ...string) *Config {
	t.Helper()
	return loadAs(t, "mirrord.json", text, o, env...)
}

func loadAs(t *testing.T, name, text string, o ide.Overrides, env ...string) *Config {
	t.Helper()
	c, err := Load(client(t, name, text, env...), name, "", o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFormatsAgree(t *testing.T) {
	files := map[string]string{
		"mirrord.json": `{
  "target": {"path": {"deployment": "web", "container": "app"}, "namespace": "shop"},
  "skip_processes": ["bash", "make"],
  "skip_build_tools": false,
  "feature": {
    "env": {"include": "A;B*", "override": {"PORT": 8080, "ON": true}},
    "fs": {"mode": "localwithoverrides", "read_only": "^/etc/x", "mapping": {"/a(.*)": "/b$1"}},
    "network": {"incoming": {"mode": "steal", "ports": [80, 8080]}, "outgoing": {"udp": false}}
  },
  "agent": {"image": {"registry": "r/agent", "tag": "1"}, "startup_timeout": 90,
    "tolerations": [{"key": "k", "tolerationSeconds": 5}], "resources": {"limits": {"cpu": "1"}}}
}`,
		"mirrord.toml": `
skip_processes = ["bash", "make"]
skip_build_tools = false
target.namespace = "shop"
target.path = { deployment = "web", container = "app" }

[feature.env]
include = "A;B*"
override.PORT = 8_080
override.ON = true

[feature.fs]
mode = "localwithoverrides"
read_only = '^/etc/x'
[feature.fs.mapping]
"/a(.*)" = "/b$1"

[feature.network]
outgoing = {udp = false}
[feature.network.incoming]
mode = "steal"
ports = [80, 8080]
[agent]
image = {registry = "r/agent", tag = "1"}
startup_timeout = 90
resources.limits.cpu = "1"
[[agent.tolerations]]
key = "k"
tolerationSeconds = 5
`,
		"mirrord.yaml": `
target: &t
  path: {deployment: web, container: app}
  namespace: shop
skip_processes:
- bash
- make
skip_build_tools: false
feature:
  env:
    include: A;B*
    override: {PORT: 8080, ON: true}
  fs:
    mode: localwithoverrides
    read_only: ^/etc/x
    mapping:
      /a(.*): /b$1
  network:
    incoming:
      mode: steal
      ports: [80, 8080]
    outgoing: {udp: false}
agent:
  image: {registry: r/agent, tag: "1"}
  startup_timeout: 90
  tolerations:
  - key: k
    tolerationSeconds: 5
  resources:
    limits: {cpu: "1"}
`,
	}
	var want *Config
	for _, name := range []string{"mirrord.json", "mirrord.toml", "mirrord.yaml"} {
		c, err := Load(client(t, name, files[name]), name, "", ide.Overrides{})
		if err != nil {
			t.Error(err)
			continue
		}
		c.File, c.Key, c.given, c.targetAt = "", "", nil, pos{}
		if want == nil {
			want = c
		}
		if diff := cmp.Diff(want, c, cmp.AllowUnexported(Config{}, Agent{}, pos{})); diff != "" {
			t.Errorf("%s differs from mirrord.json (-json +this):\n%s", name, diff)
		}
	}
	if want.Target != "deployment/web/container/app" || want.Agent.Image != "r/agent:1" || want.Incoming.Mode != "steal" ||
		want.Env.Override["PORT"] != "8080" || want.FS.Mapping[0].Value != "/b$1" {
		t.Errorf("read %+v", want)
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct{ file, text, want string }{
		{"mirrord.json", "{\"feature\": {\"network\":\n  {\"incoming\": {\"mode\": \"stael\"}}}}",
			`mirrord.json:2:25: feature.network.incoming.mode: "stael" is none of mirror, steal, off`},
		{"mirrord.json", "{\n  \"featrue\": {}\n}", `mirrord.json:2:3: featrue: unknown key, did you mean "feature"?`},
		{"mirrord.json", `{"feature": {"fs": {"mood": "read"}}}`, `mirrord.json:1:21: feature.fs.mood: unknown key, did you mean "feature.fs.mode"?`},
		{"mirrord.json", `{"zzzzzz": 1}`, `mirrord.json:1:2: zzzzzz: unknown key`},
		{"mirrord.json", `{"target": {"path": "pod/web", "labels": {"app": "web"}}}`, `mirrord.json:1:42: target.labels: two targets: name one`},
		{"mirrord.json", `{"target": {"path": {"labels": {}}}}`, `mirrord.json:1:32: target.path.labels: no label`},
		{"mirrord.json", `{"target": {"path": {"pod": "a", "service": "b"}}}`, `mirrord.json:1:45: target.path.service: two targets: name one`},
		{"mirrord.json", `{"target": {"path": {"container": "a"}}}`, `mirrord.json:1:35: target.path.container: of what?`},
		{"mirrord.json", `{"agent": {"metrics": "9000"}}`, `mirrord.json:1:23: agent.metrics: "9000" is not IP:PORT`},
		{"mirrord.json", `{"agent": {"log_level": "mirrord=loud"}}`, `mirrord.json:1:25: agent.log_level: "loud" is none of off, error`},
		{"mirrord.json", `{"target": 5}`, `mirrord.json:1:12: target: 5 is none of text, a table`},
		{"mirrord.json", `{"feature": []}`, `mirrord.json:1:13: feature: a list is not a table`},
		{"mirrord.json", `{"feature": {"hostname": "yes"}}`, `mirrord.json:1:26: feature.hostname: "yes" is not true or false`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"ports": [80, 99999]}}}}`,
			`mirrord.json:1:53: feature.network.incoming.ports: entry 2: 99999 is not a port (1 to 65535)`},
		{"mirrord.json", `{"feature": {"env": {"include": "A", "exclude": "B"}}}`,
			`mirrord.json:1:49: feature.env.exclude: excludes feature.env.include: give only one of them`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"http_filter": {"path_filter": ""}}}}}`,
			`mirrord.json:1:70: feature.network.incoming.http_filter.path_filter: an empty filter matches nothing: leave it out`},
		{"mirrord.yaml", "feature:\n  network:\n    incoming:\n      http_filter:\n        header_filter: '^x: (y'\n",
			`mirrord.yaml:5:24: feature.network.incoming.http_filter.header_filter: "^x: (y" is no regular expression: error parsing regexp: missing closing ) in ` + "`^x: (y`"},
		{"mirrord.yaml", "feature:\n  network:\n    incoming:\n      http_filter:\n        all_of:\n        - path: a\n        - body: json\n          query: $[\n          matches: a\n",
			`mirrord.yaml:8:18: feature.network.incoming.http_filter.all_of: "$[" is no JSONPath: jsonpath: unexpected eof at position 3`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"http_filter": {"any_of": [{"path": "a", "header": "b"}]}}}}}`,
			`mirrord.json:1:80: feature.network.incoming.http_filter.any_of: "header" beside "path": give one of them, or a list`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"http_filter": {"any_of": []}}}}}`,
			`mirrord.json:1:65: feature.network.incoming.http_filter.any_of: it is not a list of filters, such as [{"path": "^/orders"}]`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"http_filter": {"body_filter": {"body": "xml"}}}}}}`,
			`mirrord.json:1:79: feature.network.incoming.http_filter.body_filter: "xml" is none of json, jq`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"http_filter": {"body_filter": {"body": "json", "query": "$"}}}}}}`,
			`mirrord.json:1:70: feature.network.incoming.http_filter.body_filter: a body filter of json needs matches, one of jq has none`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"http_filter": {"ports": ["x"]}}}}}`,
			`mirrord.json:1:65: feature.network.incoming.http_filter.ports: entry 1: "x" is not a port (1 to 65535)`},
		{"mirrord.json", `{"feature": {"network": {"incoming": {"while_stopped": "go"}}}}`,
			`mirrord.json:1:56: feature.network.incoming.while_stopped: "go" is none of a number of seconds, wait, pass`},
		{"mirrord.json", `{"feature": {"fs": {"local": ["ok", "("]}}}`, `mirrord.json:1:37: feature.fs.local: "(" is no regular expression`},
		{"mirrord.json", `{"agent": {"address": "nowhere"}}`, `mirrord.json:1:23: agent.address: "nowhere" is not HOST:PORT`},
		{"mirrord.json", `{"target": "a", "target": "b"}`, `mirrord.json:1:17: target: given twice`},
		{"mirrord.json", "{\"feature\": {\n  \"fs\": read\n}}", `mirrord.json:2:9: feature.fs: malformed JSON: invalid character`},
		{"mirrord.json", `{"target": "a"`, `mirrord.json:1:15: target: malformed JSON`},
		{"mirrord.json", ``, `mirrord.json:1:1: malformed JSON: it ends too early`},
		{"mirrord.json", `[]`, `mirrord.json:1:1: the configuration is a list, not a table`},
		{"mirrord.json", `{} x`, `mirrord.json:1:4: something follows`},
		{"mirrord.json", "{\n\"target\": \"{{ get_env(name=\"NONE\") }}\"}", `mirrord.json:2:12: template {{ get_env(name="NONE") }}: variable NONE is not set, and there is no default`},
		{"mirrord.json", `{"target": "{{ user }}"}`, `mirrord.json:1:13: template {{ user }}: not served`},
		{"mirrord.json", `{% if x %}{}`, `mirrord.json:1:1: template {% if x %} is not served`},
		{"mirrord.json", "{\"key\": \"{{ get_env(name=\"LONG\", default=\"y\") }}\", \"feature\": 1}",
			`mirrord.json:1:63: feature: 1 is not a table`},
		{"mirrord.toml", "[feature.network.incoming]\nmode = \"stael\"", `mirrord.toml:2:8: feature.network.incoming.mode: "stael" is none of`},
		{"mirrord.toml", "[feature]\nenvv = true", `mirrord.toml:2:1: feature.envv: unknown key, did you mean "feature.env"?`},
		{"mirrord.toml", "a = 1\na = 2", `mirrord.toml:2:1: malformed TOML`},
		{"mirrord.toml", "target = \n", `mirrord.toml:1:10: malformed TOML`},
		{"mirrord.yaml", "feature:\n  network:\n    incoming:\n      mode: stael", `mirrord.yaml:4:13: feature.network.incoming.mode: "stael" is none of`},
		{"mirrord.yaml", "feature:\n  netwrk: true", `mirrord.yaml:2:3: feature.netwrk: unknown key, did you mean "feature.network"?`},
		{"mirrord.yaml", "target: [", `mirrord.yaml:1:9: malformed YAML`},
		{"mirrord.yaml", "a: *x", `mirrord.yaml:1:4: malformed YAML`},
		{"mirrord.ini", "", `mirrord.ini: the file's name ends in none of .json, .toml, .yaml, .yml`},
	} {
		_, err := Load(client(t, test.file, test.text, "LONG=a value longer than its template"), test.file, "", ide.Overrides{})
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %q\n got %v\nwant %s", test.file, test.text, err, test.want)
		}
	}
}

// Ports of a filter are the target's, those of the policy the debuggee's.
func TestPortPairs(t *testing.T) {
	c := load1(t, `{"feature": {"network": {"incoming": {"mode": "steal", "port_mapping": [[3000, 80]], "listen_ports": [[3000, 3001]],
		"http_filter": {"header_filter": "x", "ports": [80, 443]}}}}}`, ide.Overrides{})
	p := c.Policy(nil)
	want := ide.Policy{Ports: []uint16{443, 3000}, PortMapping: [][2]uint16{{3000, 80}}, ListenPorts: [][2]uint16{{3000, 3001}}}
	if got := (ide.Policy{Ports: p.Ports, PortMapping: p.PortMapping, ListenPorts: p.ListenPorts}); !cmp.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if c.Incoming.FilterOf(80) == nil || c.Incoming.FilterOf(3000) != nil {
		t.Error("the filter is of the debuggee's port")
	}
}

func TestWarnings(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`{"operator": true}`, `mirrord.json:1:2: operator: this needs the paid operator of another product: it has no effect`},
		{`{"operator": false, "telemetry": true, "experimental": {"x": 1}, "feature": {"copy_target": false}}`, ``},
		{`{"feature": {"db_branches": [{"type": "pg"}]}}`, `mirrord.json:1:14: feature.db_branches: this needs the paid`},
		{`{"agent": {"ephemeral": true}}`, `mirrord.json:1:12: agent.ephemeral: not served by this version: it has no effect`},
		{`{"feature": {"network": {"incoming": "mirror"}}, "agent": {"node_selector": {"disk": "ssd"}, "idle_timeout": 9}}`, ``},
		{`{"feature": {"network": {"incoming": {"port_mapping": [[80, 80]]}}}}`, `mirrord.json:1:56: feature.network.incoming.port_mapping: 80 maps a port to itself`},
		{`{"feature": {"fs": {"cache_time": 60}}}`, `mirrord.json:1:35: feature.fs.cache_time: 60 is more than 10 seconds, which is how long the agent's word holds: it is as 10`},
		{`{"feature": {"fs": {"cache_time": 10}}}`, ``},
		{`{"feature": {"network": {"incoming": {"mode": "steal", "http_filter": {"ports": [80]}}}}}`,
			`mirrord.json:1:71: feature.network.incoming.http_filter: it names no filter: it is everybody's requests that the debuggee gets`},
		{`{"feature": {"network": {"incoming": {"mode": "off", "http_filter": {}}}}}`, ``},
		{`{"feature": {"fs": {"not_found": ["^/srv", "^/proc/cpu"]}}}`,
			`mirrord.json:1:44: feature.fs.not_found: "^/proc/cpu" has no effect: /proc/cpu is this machine's, whatever the patterns say`},
		{`{"feature": {"fs": {"read_only": "^/dev/(null|kvm)|^/dev/null", "read_write": "^/dev/pts/[0-9]+$"}}}`,
			`mirrord.json:1:79: feature.fs.read_write: "^/dev/pts/[0-9]+$" has no effect: /dev/pts is this machine's`},
		{`{"feature": {"fs": {"read_only": ["^/sys/fs", "^/dev/(null|kvm)", "^/(proc|x)", "^/proc?", "^/proc|^/x", "/proc", "^/process"], "local": "^/proc"}}}`, ``},
	} {
		c := load1(t, test.text, ide.Overrides{})
		var got string
		for _, w := range c.Warnings {
			got += w.String() + "\n"
		}
		if !strings.Contains(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%s\n got %s\nwant %s", test.text, got, test.want)
		}
	}
}

// Every key of the table is known in a file, whatever its value.
func TestNoKnownKeyIsUnknown(t *testing.T) {
	for _, s := range settings {
		parts := strings.Split(s.key, ".")
		text := `{"` + strings.Join(parts, `": {"`) + `": null` + strings.Repeat("}", len(parts))
		if _, err := Load(client(t, "mirrord.json", text), "mirrord.json", "", ide.Overrides{}); err != nil {
			t.Error(err)
		}
	}
}

// What happens while the debuggee is stopped is said in words, or in seconds.
func TestWhileStopped(t *testing.T) {
	for text, want := range map[string]time.Duration{`"wait"`: time.Hour, `"pass"`: 0, `0`: 0, `90`: 90 * time.Second, `null`: time.Hour} {
		c := load1(t, `{"feature": {"network": {"incoming": {"while_stopped": `+text+`}}}}`, ide.Overrides{})
		if got := c.Incoming.WhileStopped; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// A filter is read in the words of the peer.
func TestFilter(t *testing.T) {
	for text, want := range map[string]protocol.Filter{
		`{"header_filter": "^x-user: {{ key }}$"}`:                               {Header: "^x-user: me$"},
		`{"header_filter_jq": "test(\"a\")"}`:                                    {HeaderJQ: `test("a")`},
		`{"path_filter": "^/(?!health)"}`:                                        {Path: "^/(?!health)"},
		`{"method_filter": "post"}`:                                              {Method: "post"},
		`{"body_filter": {"body": "json", "query": "$.a[*]", "matches": "^1$"}}`: {Body: &protocol.BodyFilter{Query: "$.a[*]", Matches: "^1$"}},
		`{"all_of": [{"header": "a"}, {"any_of": [{"path": "b"}, {"method": "c"}]}, {"body": "jq", "query": ".a"}]}`: {All: []protocol.Filter{
			{Header: "a"}, {Any: []protocol.Filter{{Path: "b"}, {Method: "c"}}}, {Body: &protocol.BodyFilter{Query: ".a", JQ: true}},
		}},
		`{"server_name_filter": "^me\\."}`:                  {ServerName: `^me\.`},
		`{"any_of": [{"server_name": "a"}, {"path": "b"}]}`: {Any: []protocol.Filter{{ServerName: "a"}, {Path: "b"}}},
		`{"any_of": [{"path": "a"}]}`:                       {Any: []protocol.Filter{{Path: "a"}}},
	} {
		c := load1(t, `{"key": "me", "feature": {"network": {"incoming": {"mode": "steal", "http_filter": `+text+`}}}}`, ide.Overrides{})
		if !cmp.Equal(c.Incoming.FilterOf(80), &want) || !c.Policy(nil).Steal {
			t.Errorf("%s: %+v", text, c.Incoming.FilterOf(80))
		}
	}
}

// TLS is opened only for a filter of what is stolen; what is delivered is said in
// the words of the peer, also the old ones.
func TestTLS(t *testing.T) {
	const filtered = `"mode": "steal", "http_filter": {"path_filter": "a"}, `
	const paths = `"tls": {"cert": "/tls/tls.crt", "key": "/tls/tls.key"}`
	for text, want := range map[string]string{
		filtered + paths:                                               "",
		filtered + `"tls": {"secret": "x"}`:                            "",
		`"mode": "steal", ` + paths:                                    "incoming.tls.cert: TLS is opened only",
		`"http_filter": {"path_filter": "a"}, "tls": {"secret": "x"}`:  "incoming.tls.secret: TLS is opened only",
		`"http_filter": {"server_name_filter": "a"}`:                   "server_name_filter: a copy of TLS",
		filtered + `"tls": {"cert": "/a"}`:                             "tls.cert: needs feature.network.incoming.tls.key",
		filtered + `"tls": {"cert": "/a", "key": "b"}`:                 `tls.key: "b" is no absolute path`,
		filtered + `"tls": {"cert": "/a", "key": "/b", "secret": "c"}`: "excludes feature.network.incoming.tls.cert",
		`"tls_delivery": {"protocol": "udp"}`:                          "is none of tls, tcp",
		`"tls_delivery": {"trust_roots": []}`:                          "trusts nobody",
		`"tls_delivery": {"trust_roots": ["a"], "server_cert": "b"}`:   "give only one",
		`"https_delivery": {"client_key": "a"}`:                        "https_delivery.client_key: needs",
	} {
		c, err := Load(client(t, "mirrord.json", `{"feature": {"network": {"incoming": {`+text+`}}}}`), "mirrord.json", "", ide.Overrides{})
		got := ""
		if err != nil {
			got = err.Error()
		} else if len(c.Warnings) > 0 {
			got = c.Warnings[0].String()
		}
		if !strings.Contains(got, want) || want == "" && (got != "" || !c.Incoming.OpensTLS()) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	for _, key := range []string{"tls_delivery", "https_delivery"} {
		c := load1(t, `{"feature": {"network": {"incoming": {"`+key+`": {"protocol": "tcp", "trust_roots": "/a", "server_name": "b", "client_cert": "/c", "client_key": "/d"}}}}}`, ide.Overrides{})
		want := Delivery{Protocol: "tcp", TrustRoots: []string{"/a"}, ServerName: "b", ClientCert: "/c", ClientKey: "/d"}
		if !cmp.Equal(c.Incoming.Delivery, want) {
			t.Errorf("%s: %+v", key, c.Incoming.Delivery)
		}
	}
}

// The ports of a filter are taken beside those that are named without one.
func TestFilterPorts(t *testing.T) {
	for text, want := range map[string]struct{ taken, not, filtered []uint16 }{
		`"http_filter": {"path_filter": "a"}`:                                       {nil, nil, []uint16{1, 2, 3}},
		`"http_filter": {"path_filter": "a", "ports": [1, "*"]}`:                    {nil, nil, []uint16{1, 2, 3}},
		`"http_filter": {"path_filter": "a", "ports": [2, 1]}`:                      {[]uint16{1, 2}, nil, []uint16{1, 2}},
		`"http_filter": {"path_filter": "a", "ports": [1]}, "ports": [3, 1]`:        {[]uint16{1, 3}, nil, []uint16{1}},
		`"http_filter": {"path_filter": "a", "ports": [1, 2]}, "ignore_ports": [2]`: {[]uint16{1}, nil, []uint16{1, 2}},
		`"http_filter": {"path_filter": "a"}, "ignore_ports": [2]`:                  {nil, []uint16{2}, []uint16{1, 2, 3}},
		`"http_filter": {"ports": [1]}`:                                             {nil, nil, nil},
	} {
		c := load1(t, `{"feature": {"network": {"incoming": {"mode": "steal", `+text+`}}}}`, ide.Overrides{})
		var filtered []uint16
		for _, port := range []uint16{1, 2, 3} {
			if c.Incoming.FilterOf(port) != nil {
				filtered = append(filtered, port)
			}
		}
		p := c.Policy(nil)
		if !cmp.Equal(p.Ports, want.taken) || !cmp.Equal(p.IgnorePorts, want.not) || !cmp.Equal(filtered, want.filtered) {
			t.Errorf("%s: takes %v, not %v, filters %v", text, p.Ports, p.IgnorePorts, filtered)
		}
	}
}

// Git is skipped only where it has nothing to write in the target.
func TestSkipGit(t *testing.T) {
	for text, want := range map[string]bool{
		`{"mode": "read"}`:                                          true,
		`{"mode": "localwithoverrides"}`:                            true,
		`{"mode": "local"}`:                                         true,
		`{"mode": "write"}`:                                         false,
		`{"mode": "read", "read_write": ["^/srv/p"]}`:               false,
		`{"mode": "localwithoverrides", "read_write": ["^/srv/p"]}`: false,
	} {
		c := load1(t, `{"feature": {"fs": `+text+`}}`, ide.Overrides{})
		if got := slices.Contains(c.SkipProcesses, "git"); got != want || !slices.Contains(c.SkipProcesses, "go") {
			t.Errorf("%s: git is skipped: %v; %q", text, got, c.SkipProcesses)
		}
	}
}

func TestOverrides(t *testing.T) {
	text := `{"target": "pod/{{ get_env(name="POD", default="none") }}", "key": "k-{{ git_branch }}",
		"feature": {"env": {"override": {"KEY": "{{ key }}"}}, "fs": "local"}}`
	c := load1(t, text, ide.Overrides{Steal: true, FSMode: "local-with-overrides", Namespace: "ns"},
		"POD=web", "MIRRORD_BRANCH_NAME=main", "MIRRORD_TARGET_NAMESPACE=other", "MIRRORD_SKIP_PROCESSES=sh;make")
	if c.Target != "pod/web" || c.Namespace != "ns" || c.Env.Override["KEY"] != "k-main" || c.FS.Mode != "localwithoverrides" {
		t.Errorf("read %+v", c)
	}
	p := c.Policy([]string{"/var/run/secrets"})
	if !p.Steal || len(p.Mounts) != 1 || !cmp.Equal(p.SkipProcesses[len(p.SkipProcesses)-1], "sh") {
		t.Errorf("policy %+v", p)
	}
	c = load1(t, text, ide.Overrides{Target: "pod/flag"}, "MIRRORD_IMPERSONATED_TARGET=pod/env", "MIRRORD_BRANCH_NAME=main")
	if c.Target != "pod/flag" {
		t.Errorf("target %s", c.Target)
	}
	text = `{"feature": {"env": {"override": {"KEY": "{{ key }}"}}}}`
	c, err := Load(client(t, "mirrord.json", text), "mirrord.json", "0a1b2c3d", ide.Overrides{})
	if err != nil || c.Env.Override["KEY"] != "0a1b2c3d" || c.Key != "0a1b2c3d" {
		t.Errorf("of a session with an id the key is %q, %v", c.Key, err)
	}
}

func TestLogLevel(t *testing.T) {
	for word, want := range map[string]string{"info": "info", "warn,mirrord=trace": "debug", "off": "error", "DEBUG": "debug"} {
		if c := load1(t, `{"agent": {"log_level": "`+word+`"}}`, ide.Overrides{}); c.Agent.LogLevel != want {
			t.Errorf("%s: %s", word, c.Agent.LogLevel)
		}
	}
}

func TestLabels(t *testing.T) {
	for _, target := range []string{`{"path": {"labels": {"app": "web", "tier": 1}}}`, `{"labels": {"app": "web", "tier": 1}}`} {
		if c := load1(t, `{"target": `+target+`}`, ide.Overrides{}); c.Target != "label/app=web,tier=1" {
			t.Errorf("%s: target %s", target, c.Target)
		}
	}
}

func TestDefaultFile(t *testing.T) {
	c, err := Load(client(t, ".mirrord/mirrord.yaml", "target: pod/web\n"), "", "", ide.Overrides{})
	if err != nil || c.Target != "pod/web" || c.File != ".mirrord/mirrord.yaml" {
		t.Errorf("read %+v, %v", c, err)
	}
	if c, err = Load(ide.Client{Dir: t.TempDir()}, "", "", ide.Overrides{}); err != nil || c.File != "" {
		t.Errorf("without a file: %+v, %v", c, err)
	}
	if _, err = Load(ide.Client{Dir: t.TempDir()}, "no.json", "", ide.Overrides{}); err == nil {
		t.Error("a file that is not there is read")
	}
}

func pods(target string) error {
	if target != "targetless" && !strings.HasPrefix(target, "pod/") {
		return fmt.Errorf("%s is no pod", target)
	}
	return nil
}

// An editor is told what its unsaved text gets wrong and chooses, wherever it is.
func TestVerify(t *testing.T) {
	me := client(t, ".mirrord/mirrord.json", `{"target": "pod/file"}`)
	at := filepath.Join(me.Dir, ".mirrord/mirrord.json")
	text := func(s string) *string { return &s }
	for _, tt := range []struct {
		name     string
		p        ide.ConfigVerifyParams
		want     ide.ConfigVerifyResult
		problems string
	}{
		{"the file that is found", ide.ConfigVerifyParams{Client: me}, ide.ConfigVerifyResult{ConfigFile: at, Target: "pod/file"}, ""},
		{"its text", ide.ConfigVerifyParams{Client: me, Text: text(`{"target": {"path": "pod/text", "namespace": "shop"}, "kube_context": "c"}`)},
			ide.ConfigVerifyResult{ConfigFile: at, Target: "pod/text", Namespace: "shop", Context: "c"}, ""},
		{"overrides", ide.ConfigVerifyParams{Client: me, ConfigFile: at, Overrides: ide.Overrides{Target: "pod/flag", Namespace: "n", Context: "d", Steal: true}},
			ide.ConfigVerifyResult{ConfigFile: at, Target: "pod/flag", Namespace: "n", Context: "d", Incoming: "steal"}, ""},
		{"a file that is not there yet", ide.ConfigVerifyParams{Client: me, ConfigFile: "new.toml", Text: text("feature.network.incoming = 'steal'")},
			ide.ConfigVerifyResult{ConfigFile: filepath.Join(me.Dir, "new.toml"), Incoming: "steal"}, ""},
		{"incoming mirrored", ide.ConfigVerifyParams{Client: me, Text: text(`{"feature": {"network": {"incoming": {"mode": "mirror"}}}}`)},
			ide.ConfigVerifyResult{ConfigFile: at, Incoming: "mirror"}, ""},
		{"incoming off", ide.ConfigVerifyParams{Client: me, Text: text(`{"feature": {"network": {"incoming": false}}}`)},
			ide.ConfigVerifyResult{ConfigFile: at, Incoming: "off"}, ""},
		{"no network", ide.ConfigVerifyParams{Client: me, Text: text(`{"feature": {"network": false}}`)},
			ide.ConfigVerifyResult{ConfigFile: at, Incoming: "off"}, ""},
		{"no target", ide.ConfigVerifyParams{Client: me, Text: text(`{"target": "targetless"}`)},
			ide.ConfigVerifyResult{ConfigFile: at, Target: "targetless", Incoming: "off"}, ""},
		{"incoming without its mode", ide.ConfigVerifyParams{Client: me, Text: text(`{"feature": {"network": {"incoming": {"ports": [80]}}}}`)},
			ide.ConfigVerifyResult{ConfigFile: at}, ""},
		{"a wrong mode", ide.ConfigVerifyParams{Client: me, Text: text(`{"feature": {"network": {"incoming": "stael"}}}`)},
			ide.ConfigVerifyResult{ConfigFile: at}, `.mirrord/mirrord.json:1:38: feature.network.incoming: "stael" is none of true or false, mirror, steal, off, a table`},
		{"overrides over it", ide.ConfigVerifyParams{Client: me, Text: text(`{"feature": {"network": {"incoming": "off"}}}`), Overrides: ide.Overrides{Steal: true}},
			ide.ConfigVerifyResult{ConfigFile: at, Incoming: "steal"}, ""},
		{"half a text", ide.ConfigVerifyParams{Client: me, ConfigFile: at, Text: text(`{"target": `)}, ide.ConfigVerifyResult{ConfigFile: at},
			at + ":1:12: target: malformed JSON: it ends too early"},
		{"a wrong one", ide.ConfigVerifyParams{Client: me, Text: text(`{"target": "pod/text", "x": 1}`)}, ide.ConfigVerifyResult{ConfigFile: at, Target: "pod/text"},
			".mirrord/mirrord.json:1:24: x: unknown key"},
		{"an override's target is not the file's", ide.ConfigVerifyParams{Client: me, Text: text(`{"target": {"path": {"container": "c", "pod": "web"}, "namespace": "n"}}`), Overrides: ide.Overrides{Target: "pdo/flag"}},
			ide.ConfigVerifyResult{ConfigFile: at, Target: "pdo/flag", Namespace: "n"}, ""},
		{"a file's target that is none", ide.ConfigVerifyParams{Client: me, Text: text(`{"target": {"path": "pdo/web", "namespace": "n"}}`), Overrides: ide.Overrides{Target: "pod/flag"}},
			ide.ConfigVerifyResult{ConfigFile: at, Target: "pod/flag", Namespace: "n"}, `.mirrord/mirrord.json:1:21: target: pdo/web is no pod`},
		{"another name", ide.ConfigVerifyParams{Client: me, ConfigFile: "notes.txt", Text: text(`{}`)}, ide.ConfigVerifyResult{ConfigFile: filepath.Join(me.Dir, "notes.txt")},
			"notes.txt:1:1: the file's name ends in none of .json, .toml, .yaml, .yml"},
		{"too much", ide.ConfigVerifyParams{Client: me, Text: text(strings.Repeat(" ", maxFile+1))}, ide.ConfigVerifyResult{ConfigFile: at},
			".mirrord/mirrord.json:1:1: it is larger than 1048576 bytes"},
		{"no file", ide.ConfigVerifyParams{Client: ide.Client{Dir: t.TempDir()}}, ide.ConfigVerifyResult{}, ""},
		{"text without a file", ide.ConfigVerifyParams{Client: ide.Client{Dir: t.TempDir()}, Text: text(`{"target": "pod/text"}`)}, ide.ConfigVerifyResult{Target: "pod/text"}, ""},
	} {
		got, err := Verify(tt.p, pods)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var problems []string
		for _, p := range got.Problems {
			problems = append(problems, p.String())
		}
		got.Problems = nil
		if diff := cmp.Diff(tt.want, got); diff != "" || strings.Join(problems, "\n") != tt.problems {
			t.Errorf("%s: problems %q, want %q; (-want +got):\n%s", tt.name, problems, tt.problems, diff)
		}
	}
	if _, err := Verify(ide.ConfigVerifyParams{Client: me, ConfigFile: "none.json"}, pods); err == nil || !strings.Contains(err.Error(), "none.json: no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// The file to begin with is right, and says what holds without it.
func TestDefault(t *testing.T) {
	d := Default()
	r, err := Verify(ide.ConfigVerifyParams{ConfigFile: d.Name, Text: &d.Text}, pods)
	if err != nil || len(r.Problems) > 0 {
		t.Fatalf("problems %v, %v", r.Problems, err)
	}
	got, want := loadAs(t, d.Name, d.Text, ide.Overrides{}), loadAs(t, d.Name, "{}", ide.Overrides{})
	got.Key, want.Key, got.given, want.given = "", "", nil, nil
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Config{}, Agent{}, pos{})); diff != "" {
		t.Errorf("it differs from an empty one (-empty +it):\n%s", diff)
	}
}

// Whatever the file holds, Load answers; what it accepts has a place.
func FuzzLoad(f *testing.F) {
	f.Add(uint8(0), `{"feature": {"env": {"include": ["A"]}}}`)
	f.Add(uint8(1), "[feature]\nenv = true\n[[a.b]]\nc = {d = 1}\n")
	f.Add(uint8(2), "feature: &x\n  env: [1, *x]\n<<: *x\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, format uint8, text string) {
		name := []string{"f.json", "f.toml", "f.yaml"}[format%3]
		r, err := Verify(ide.ConfigVerifyParams{Client: ide.Client{Dir: dir}, ConfigFile: name, Text: &text}, pods)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for _, p := range r.Problems {
			if p.Line < 1 || p.Column < 1 {
				t.Errorf("%q: %s", text, p)
			}
		}
	})
}

// Of several files in .mirrord one is used, and the user is told which.
func TestSeveralDefaultFiles(t *testing.T) {
	me := client(t, ".mirrord/mirrord.toml", "target = \"pod/web\"\n")
	if c, err := Load(me, "", "", ide.Overrides{}); err != nil || len(c.Warnings) != 0 {
		t.Errorf("one file: %v, %v", c, err)
	}
	for _, name := range []string{"mirrord.yaml", "mirrord.yml"} {
		if err := os.WriteFile(filepath.Join(me.Dir, ".mirrord", name), []byte("operator: true\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(me, "", "", ide.Overrides{})
	if err != nil || c.Target != "pod/web" || len(c.Warnings) != 1 || !c.Warnings[0].Warning ||
		c.Warnings[0].String() != ".mirrord/mirrord.toml is used, and not .mirrord/mirrord.yaml and .mirrord/mirrord.yml: one file is the configuration" {
		t.Errorf("three files: %+v, %v", c, err)
	}
	if c, err := Load(me, ".mirrord/mirrord.yaml", "", ide.Overrides{}); err != nil || len(c.Warnings) != 1 || c.Warnings[0].Key != "operator" {
		t.Errorf("a file that is named: %+v, %v", c, err)
	}
}
