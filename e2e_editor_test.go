package mirrord_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"mirrord/protocol/ide"
)

func editorOfTests(t *testing.T) *editor {
	t.Helper()
	return openEditor(t, runtimeDir(t))
}

// The targets of a namespace with many pods come in parts, of which the first does
// not wait for the last. The pods need not run.
func TestTargetsComeInParts(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	const pods = 600
	var manifest strings.Builder
	fmt.Fprintf(&manifest, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleeping}
spec:
  replicas: 0
  selector: {matchLabels: {app: sleeping}}
  template:
    metadata: {labels: {app: sleeping}}
    spec: {containers: [{name: main, image: "shop:1"}]}
`)
	for i := range pods {
		fmt.Fprintf(&manifest, "---\n%s  nodeSelector: {no: node}\n", pod(fmt.Sprintf("p%03d", i), ""))
	}
	create(t, namespace, manifest.String())
	e := editorOfTests(t)
	p := ide.TargetListParams{Client: e.client(), Overrides: ide.Overrides{Namespace: namespace, Kubeconfig: kubeconfig}}
	var sizes []int
	told := map[string]bool{}
	r, err := e.Targets(t.Context(), p, func(part []ide.Target) {
		sizes = append(sizes, len(part))
		for _, target := range part {
			if told[target.Path] {
				t.Errorf("%s is told twice", target.Path)
			}
			told[target.Path] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Targets) != pods+1 || r.Targets[0].Path != "deployment/sleeping" || r.Targets[0].Reason != "it has no pods" ||
		r.Targets[pods].Path != fmt.Sprintf("pod/p%03d", pods-1) || r.Targets[pods].Available {
		t.Errorf("%d targets, from %+v to %+v", len(r.Targets), r.Targets[0], r.Targets[len(r.Targets)-1])
	}
	if len(told) != len(r.Targets) || len(sizes) < 2 || sizes[0] > 501 {
		t.Errorf("%d targets were told in parts of %v", len(told), sizes)
	}
	for _, target := range r.Targets {
		if !told[target.Path] {
			t.Errorf("%s was not told", target.Path)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.Targets(ctx, p, func([]ide.Target) {})
	if e, ok := errors.AsType[*ide.Error](err); !ok || e.Code != ide.CodeCancelled {
		t.Errorf("cancelled: %v", err)
	}
}

// create is apply for what is too much for it.
func create(t *testing.T, namespace, manifest string) {
	t.Helper()
	kubectl(t, "create", "-n", namespace, "-f", file(t, "manifest.yaml", manifest))
}

// An editor shows the target's files, and reads them.
func TestBrowsingTheTarget(t *testing.T) {
	needCluster(t)
	e := editorOfTests(t)
	s, err := e.Start(t.Context(), ide.SessionStartParams{Client: e.client(), Overrides: ide.Overrides{
		Target: "deployment/web", Namespace: "shop", Kubeconfig: kubeconfig, FSMode: "local",
	}}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop(t.Context(), s.ID)
	call := func(method string, p, r any) error { return e.Call(t.Context(), method, p, r) }

	var list ide.FileListResult
	if err := call(ide.MethodFileList, ide.FileParams{ID: s.ID, Path: "/etc/shop"}, &list); err != nil {
		t.Fatal(err)
	}
	found := map[string]ide.FileEntry{}
	for _, e := range list.Entries {
		found[e.Name] = e
	}
	if data, config := found["..data"], found["config.yaml"]; data.Kind != ide.FileSymlink || data.Leads != ide.FileDirectory ||
		config.Kind != ide.FileSymlink || config.Leads != ide.FileRegular || config.Target != "..data/config.yaml" {
		t.Errorf("/etc/shop has %+v", list.Entries)
	}
	var config ide.FileEntry
	if err := call(ide.MethodFileStat, ide.FileParams{ID: s.ID, Path: "/etc/shop/config.yaml"}, &config); err != nil ||
		config.Kind != ide.FileRegular || !config.Symlink || config.Mode != 0o644 {
		t.Errorf("config.yaml is %+v, %v", config, err)
	}
	var read ide.FileReadResult
	if err := call(ide.MethodFileRead, ide.FileReadParams{ID: s.ID, Path: "/etc/shop/config.yaml", Length: 100}, &read); err != nil ||
		!strings.HasPrefix(string(read.Data), "currency: EUR\n") || len(read.Data) != int(config.Size) || !read.EOF {
		t.Errorf("config.yaml of %d bytes is %q, eof %v, %v", config.Size, read.Data, read.EOF, err)
	}

	var whole []byte
	for read.EOF = false; !read.EOF; whole = append(whole, read.Data...) {
		if err := call(ide.MethodFileRead, ide.FileReadParams{ID: s.ID, Path: "/shop", Offset: int64(len(whole))}, &read); err != nil {
			t.Fatal(err)
		}
	}
	if want := largeFile(t); hash(whole) != hash(want) {
		t.Errorf("/shop has %d bytes, want %d", len(whole), len(want))
	}

	err = call(ide.MethodFileStat, ide.FileParams{ID: s.ID, Path: "/etc/none"}, &config)
	if e, ok := errors.AsType[*ide.Error](err); !ok || e.Code != ide.CodeFile || e.Errno != "ENOENT" {
		t.Errorf("a file that is not there: %#v", err)
	}
}

// VS Code's debugger of Node.js, which is asked for in NODE_OPTIONS by who starts a
// debuggee in the session, is in it beside what the pod asks of its own Node.js.
func TestNodeOptionsOfPodAndDebugger(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	apply(t, namespace, pod("web", `args: [sleep]
    env: [{name: NODE_OPTIONS, value: "--stack-trace-limit=7"}]`))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	e := editorOfTests(t)
	s := e.session(namespace, "web", false)
	boot := file(t, "boot.js", "globalThis.booted = process.env.VSCODE_INSPECTOR_OPTIONS")
	cmd := mirrord(t, "exec", "--session", s.ID, "--", "node", "-e", "console.log(Error.stackTraceLimit, globalThis.booted)")
	d := started(t, cmd, []string{"NODE_OPTIONS=--require " + boot, "VSCODE_INSPECTOR_OPTIONS={}"})
	if got := d.line(""); got != "7 {}" {
		t.Errorf("node says %q, want 7 {}", got)
	}
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
