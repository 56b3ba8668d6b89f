package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

const (
	kubeconfig = ".cluster/kubeconfig"
	namespace  = "mirrord-bench"
	bulkSize   = 64 << 20
	farSize    = 24 << 20 // where each round trip takes farTrip longer
	farTrip    = 40 * time.Millisecond
	bigFile    = "/srv/files/big"
	smallDir   = "/srv/files/small"
	fewFiles   = 500
	watched    = "/etc/resolv.conf" // a file of the pod's, for small operations
)

// A bed is the test cluster with a pod of ours, which bench's debuggees run in
// the context of.
type bed struct {
	*programs
	dir    string // the daemon's runtime directory
	far    string // a kubeconfig that reaches the API server through the relay
	ip     string // the pod's
	relay  *relay
	side   *side           // this machine as it is
	begun  bool            // by us
	loaded bool            // the pod may be there
	stolen map[string]bool // by kubeconfig: ports of the pod are; one is: there is a server here
	ends   []func()
}

// onCluster is what the tunnel costs beside a bare port-forward, and what one
// use of it costs another.
func onCluster(p *programs) *scene {
	dir := filepath.Join(p.dir, "cluster")
	b := &bed{programs: p, dir: dir, far: filepath.Join(dir, "far.yaml"), stolen: map[string]bool{}}
	near, far := rawForward{kubeconfig, namespace, "bench"}, rawForward{b.far, namespace, "bench"}
	rows := []row{
		{name: "cluster/64 B round trip to bare port-forward, p50", unit: "µs", direct: near.echo(200 * time.Millisecond), ours: b.ours(kubeconfig, "echo", span)},
		{name: "cluster/64 B round trip to inside the pod, p50", unit: "µs", direct: b.inside("echo", span), ours: b.ours(kubeconfig, "echo", span)},
		{name: "cluster/small operation beside bulk to idle, p50", unit: "µs", goal: 5, enough: 2500, slow: true,
			direct: b.stat(kubeconfig), ours: b.besideBulk(kubeconfig)},
		{name: "far/small operation beside bulk to idle, p50", unit: "µs", goal: 1.3, slow: true, direct: b.stat(b.far), ours: b.besideBulk(b.far)},
	}
	for _, way := range []string{"up", "down"} {
		rows = append(rows,
			row{name: "cluster/" + way + " to bare port-forward", unit: "MB/s", goal: 0.7, slow: true,
				direct: near.transfer(way, bulkSize), ours: b.ours(kubeconfig, way, count(bulkSize))},
			row{name: "cluster/" + way + " to inside the pod", unit: "MB/s", slow: true,
				direct: b.inside(way, count(bulkSize)), ours: b.ours(kubeconfig, way, count(bulkSize))},
			row{name: "far/" + way + " to bare port-forward", unit: "MB/s", slow: true,
				direct: far.transfer(way, farSize), ours: b.ours(b.far, way, count(farSize))},
		)
	}
	rows = append(rows, row{name: "cluster/file read 1 MiB blocks to bare port-forward", unit: "MB/s", goal: 0.7, slow: true,
		direct: near.transfer("down", bulkSize), ours: b.reads("blocks", bigFile, "1048576")},
		row{name: "cluster/small file to kubectl exec, each", unit: "files/s", goal: 10, slow: true,
			direct: b.byExec, ours: b.reads("files", smallDir, count(fewFiles), filesSpan)})
	// A client in the pod asks a server here, of a port that is stolen, or of one of
	// which a filter chooses its requests. What that takes longer than one here is to be
	// no more than the tunnel's round trip, and 1 ms.
	for _, way := range []struct{ name, kind, port string }{
		{"new connection", "new", stolenPort}, {"kept alive", "kept", stolenPort},
		{"filtered, new connection", "new", filteredPort}, {"filtered, kept alive", "kept", filteredPort},
	} {
		here, there := b.here(way.kind), b.inPod(way.kind, way.port, span)
		begin := func(ctx context.Context) error { return b.steal(ctx, kubeconfig, "") }
		added := func(there figure) figure {
			return func(ctx context.Context) (float64, error) {
				direct, err := here(ctx)
				if err != nil {
					return 0, err
				}
				return plus(there, -direct)(ctx)
			}
		}
		rows = append(rows,
			row{name: "cluster/steal HTTP " + way.name + ", p50", unit: "µs", before: begin, direct: here, ours: there},
			row{name: "cluster/steal HTTP " + way.name + ", added to round trip + 1 ms", unit: "µs", goal: 1, before: begin,
				direct: plus(b.stat(kubeconfig), 1000), ours: added(there)},
			row{name: "far/steal HTTP " + way.name + ", added to round trip + 1 ms", unit: "µs", goal: 1, slow: true,
				before: func(ctx context.Context) error { return b.steal(ctx, b.far, "1") },
				direct: plus(b.stat(b.far), 1000), ours: added(b.inPod(way.kind, "1"+way.port, span))})
	}
	return &scene{group: "cluster", begin: b.begin, end: b.end, rows: rows}
}

// steal starts debuggees, one that has stolen a port of the pod's and one that has a
// filter on another, and a server that is none, unless they are there. The ports are
// those with prefix before them.
func (b *bed) steal(ctx context.Context, by, prefix string) error {
	if b.stolen[by] {
		return nil
	}
	config := filepath.Join(b.dir, "filter.json")
	filter := `{"feature": {"network": {"incoming": {"mode": "steal", "http_filter": {"header_filter": "^host: bench$"}}}}}`
	if err := os.WriteFile(config, []byte(filter), 0o600); err != nil {
		return err
	}
	cmds := []*exec.Cmd{
		b.mirrord(ctx, by, []string{"--steal"}, "serve", "0.0.0.0", prefix+stolenPort),
		b.mirrord(ctx, by, []string{"-f", config}, "serve", "0.0.0.0", prefix+filteredPort),
	}
	if len(b.stolen) == 0 {
		cmds = append(cmds, b.side.command(ctx, b.c, "serve", loopback, relayPort))
	}
	for _, cmd := range cmds {
		end, err := b.side.background(cmd, "ready")
		if err != nil {
			return err
		}
		b.ends = append(b.ends, end)
	}
	b.stolen[by] = true
	return nil
}

func (b *bed) begin(ctx context.Context) (err error) {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	if b.side, err = thisSide("XDG_RUNTIME_DIR="+b.dir, "KUBECONFIG="); err != nil {
		return err
	}
	b.begun = exec.CommandContext(ctx, "bin/cluster", "status").Run() != nil
	image := filepath.Join(b.dir, "image.tar")
	for _, args := range [][]string{
		{"./task", "cluster:up"},
		{"go", "run", "./agent/image", "-o", image, "-name", "mirrord-bench:1", b.c},
		{"bin/cluster", "load", image},
	} {
		if err := b.loud(ctx, args...); err != nil {
			return err
		}
	}
	b.loaded = true
	if err := b.loud(ctx, ".cluster/kubectl", "--kubeconfig", kubeconfig, "apply", "-f", "testdata/bench/pod.yaml"); err != nil {
		return err
	}
	if err := b.loud(ctx, ".cluster/kubectl", "--kubeconfig", kubeconfig, "-n", namespace, "wait", "--for=condition=Ready", "pod/bench", "--timeout=60s"); err != nil {
		return err
	}
	ip, err := b.kubectl(ctx, "get", "pod", "bench", "-o", "jsonpath={.status.podIP}")
	if err != nil {
		return err
	}
	b.ip = strings.TrimSpace(string(ip))
	return errors.Join(b.writeFiles(ctx), b.goFar())
}

// writeFiles writes the files where kubelet has the pod's volume on this machine,
// which is the cluster's node.
func (b *bed) writeFiles(ctx context.Context) error {
	uid, err := b.kubectl(ctx, "get", "pod", "bench", "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(kubeconfig), "kubelet/pods", strings.TrimSpace(string(uid)), "volumes/kubernetes.io~empty-dir/files")
	small := filepath.Join(dir, filepath.Base(smallDir))
	return errors.Join(os.WriteFile(filepath.Join(dir, filepath.Base(bigFile)), make([]byte, bulkSize), 0o644),
		os.Mkdir(small, 0o755), writeFiles(small, "s", fewFiles))
}

// byExec reads a small file of the pod's in the way that there is without us.
func (b *bed) byExec(ctx context.Context) (float64, error) {
	began := time.Now()
	_, err := b.kubectl(ctx, "exec", "bench", "--", "/work", "blocks", smallDir+"/0", "4096")
	return 1 / time.Since(began).Seconds(), err
}

// goFar starts the relay and writes the kubeconfig that goes through it.
func (b *bed) goFar() error {
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return err
	}
	cluster := config.Clusters[config.Contexts[config.CurrentContext].Cluster]
	server, err := url.Parse(cluster.Server)
	if err != nil {
		return fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	if b.relay, err = newRelay(server.Host, farTrip/2); err != nil {
		return err
	}
	cluster.TLSServerName = server.Hostname()
	server.Host = b.relay.Addr().String()
	cluster.Server = server.String()
	return clientcmd.WriteToFile(*config, b.far)
}

// loud runs a command whose words are for the user.
func (b *bed) loud(ctx context.Context, args ...string) error {
	cmd := b.side.command(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (b *bed) kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return b.side.output(b.side.command(ctx, ".cluster/kubectl", append([]string{"--kubeconfig", kubeconfig, "-n", namespace}, args...)...))
}

// end leaves the cluster as it was found.
func (b *bed) end() (err error) {
	if b.side == nil {
		return nil
	}
	defer b.side.ns.Close()
	ctx := context.Background()
	for _, end := range b.ends {
		end()
	}
	if _, e := b.side.output(b.side.command(ctx, b.cli, "daemon", "stop", "--force")); e != nil {
		err = errors.Join(err, e)
	}
	if b.relay != nil {
		b.relay.close()
	}
	if b.begun {
		return errors.Join(err, b.loud(ctx, "bin/cluster", "down"))
	}
	if b.loaded {
		_, e := b.kubectl(ctx, "delete", "namespace", namespace, "--ignore-not-found", "--timeout=60s")
		err = errors.Join(err, e)
	}
	return err
}

// mirrord makes a command that runs work in the pod's context.
func (b *bed) mirrord(ctx context.Context, kubeconfig string, flags []string, args ...string) *exec.Cmd {
	all := append([]string{"exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "pod/bench"}, flags...)
	return b.side.command(ctx, b.cli, append(append(all, "--", b.c), args...)...)
}

// ours measures work with the pod's servers from here.
func (b *bed) ours(kubeconfig, kind, amount string) figure {
	return func(ctx context.Context) (float64, error) {
		return b.side.value(b.mirrord(ctx, kubeconfig, nil, kind, b.ip, plainPort, amount))
	}
}

// inside measures it in the pod.
func (b *bed) inside(kind, amount string) figure { return b.inPod(kind, plainPort, amount) }

func (b *bed) inPod(kind, port, amount string) figure {
	return func(ctx context.Context) (float64, error) {
		args := []string{"exec", "bench", "--", "/work", kind, b.ip, port, amount}
		out, err := b.kubectl(ctx, args...)
		if err != nil {
			return 0, err
		}
		return number(args, out)
	}
}

// here measures it with a server here, without us.
func (b *bed) here(kind string) figure {
	return func(ctx context.Context) (float64, error) {
		return b.side.value(b.side.command(ctx, b.c, kind, loopback, relayPort, span))
	}
}

// plus adds to a figure.
func plus(f figure, n float64) figure {
	return func(ctx context.Context) (float64, error) {
		v, err := f(ctx)
		return v + n, err
	}
}

// reads measures work with a file of the pod's from here.
func (b *bed) reads(args ...string) figure {
	return func(ctx context.Context) (float64, error) {
		return b.side.value(b.mirrord(ctx, kubeconfig, nil, args...))
	}
}

// stat measures the median small operation.
func (b *bed) stat(kubeconfig string) figure {
	return func(ctx context.Context) (float64, error) {
		return b.side.value(b.mirrord(ctx, kubeconfig, nil, "stat-p50", watched, "0.5"))
	}
}

// besideBulk measures it while the debuggee's child gets all that it can.
func (b *bed) besideBulk(kubeconfig string) figure {
	return func(ctx context.Context) (float64, error) {
		return b.side.value(b.mirrord(ctx, kubeconfig, nil, "stat-p50", watched, "0.5", b.ip, plainPort))
	}
}
