package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	echoImage = "mirrord.test/echo:1"
	echoPort  = 7000
)

// shop is a namespace with a small workload that all tests here share.
var shop struct {
	once      sync.Once
	namespace string
	err       error
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if shop.namespace != "" {
			tryKubectl(os.Getenv("MIRRORD_TEST_KUBECONFIG"), "", "delete", "namespace", shop.namespace, "--wait=false") //nolint:errcheck // the cluster may be gone
		}
		os.Exit(code)
	}))
}

// openShop opens the test cluster in a namespace where deployment web runs.
func openShop(t testing.TB) *Cluster {
	t.Helper()
	loadEcho(t)
	config := kubeconfig(t)
	shop.once.Do(func() {
		shop.namespace = fmt.Sprintf("shop-%x", time.Now().UnixNano())
		for _, args := range [][]string{
			{"create", "namespace", shop.namespace},
			{"apply", "-n", shop.namespace, "-f", "testdata/shop.yaml"},
			{"rollout", "status", "-n", shop.namespace, "deployment/web", "--timeout=60s"},
		} {
			if out, err := tryKubectl(config, "", args...); err != nil {
				shop.err = fmt.Errorf("kubectl %v: %w\n%s", args, err, out)
				return
			}
		}
	})
	if shop.err != nil {
		t.Fatal(shop.err)
	}
	return realCluster(t, shop.namespace)
}

// realCluster opens the test cluster, or skips.
func realCluster(t testing.TB, namespace string) *Cluster {
	t.Helper()
	c, err := Open(t.Context(), slog.New(slog.DiscardHandler), Access{Kubeconfig: kubeconfig(t), Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func kubeconfig(t testing.TB) string {
	t.Helper()
	path := os.Getenv("MIRRORD_TEST_KUBECONFIG")
	if path == "" {
		t.Skip("needs the test cluster: MIRRORD_TEST_KUBECONFIG is not set")
	}
	return path
}

// kubectl is the cluster's own, beside its kubeconfig.
// Another package's test may restart the API server meanwhile.
func kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, err := tryKubectl(kubeconfig(t), stdin, args...)
	for end := time.Now().Add(30 * time.Second); err != nil && unreachable.MatchString(out) && time.Now().Before(end); {
		out, err = tryKubectl(kubeconfig(t), stdin, args...)
	}
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

var unreachable = regexp.MustCompile(`Unable to connect to the server|connection refused|connection reset`)

func tryKubectl(config, stdin string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(filepath.Dir(config), "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// freshNamespace makes one for the test and deletes it afterwards.
func freshNamespace(t testing.TB, labels ...string) string {
	t.Helper()
	ns := fmt.Sprintf("t-%x", time.Now().UnixNano())
	kubectl(t, "", "create", "namespace", ns)
	t.Cleanup(func() { kubectl(t, "", "delete", "namespace", ns, "--wait=false") })
	for _, l := range labels {
		kubectl(t, "", "label", "namespace", ns, l)
	}
	return ns
}

// loadEcho builds the echo image and imports it, once.
func loadEcho(t testing.TB) {
	t.Helper()
	config := kubeconfig(t)
	loadOnce.Do(func() { loadErr = buildEcho(config) })
	if loadErr != nil {
		t.Fatal(loadErr)
	}
}

var (
	loadOnce sync.Once
	loadErr  error
)

func buildEcho(config string) error {
	dir, err := os.MkdirTemp("", "echo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, tar := filepath.Join(dir, "echo"), filepath.Join(dir, "echo.tar")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./testdata/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building echo: %w\n%s", err, out)
	}
	if err := image(binary, tar); err != nil {
		return err
	}
	load := exec.Command("go", "-C", "../../testdata/cluster", "run", ".", "--dir", filepath.Dir(config), "load", tar)
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("loading echo: %w\n%s", err, out)
	}
	return nil
}

func image(binary, tar string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(opener(tarOf(agentName, content)))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", RootFS: must(img.ConfigFile()).RootFS,
		Config: v1.Config{Entrypoint: []string{"/" + agentName}},
	})
	if err != nil {
		return err
	}
	ref, err := name.NewTag(echoImage)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(tar, ref, img)
}

// web is a ready pod of the shop.
func web(t testing.TB, c *Cluster) *Target {
	t.Helper()
	target, err := c.Resolve(t.Context(), Path{Kind: "deployment", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// echoSpec is unique to the test, so that tests do not share agents.
func echoSpec(t testing.TB) AgentSpec {
	loadEcho(t)
	return AgentSpec{Image: echoImage, PullPolicy: "Never", Build: t.Name(), Port: echoPort, Args: []string{"-listen", fmt.Sprintf("127.0.0.1:%d", echoPort)}}
}

// hello succeeds when the echo program answers.
func hello(ctx context.Context, conn net.Conn) error {
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		return err
	}
	answer := make([]byte, 6)
	if _, err := conn.Read(answer); err != nil {
		return err
	}
	if !bytes.Equal(answer, []byte("hello\n")) {
		return fmt.Errorf("%w: answer %q", ErrFinal, answer)
	}
	return nil
}

// startEcho starts an agent and says goodbye to it after the test.
func startEcho(t testing.TB, c *Cluster, spec AgentSpec) *Agent {
	t.Helper()
	a, err := c.StartAgent(t.Context(), web(t, c), spec, func(s string) { t.Log("progress:", s) }, closing(hello))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kubectl(t, "", "delete", "job", "-n", a.Namespace, a.Job, "--ignore-not-found", "--wait=false")
	})
	return a
}

func closing(try func(context.Context, net.Conn) error) func(context.Context, net.Conn) error {
	return func(ctx context.Context, conn net.Conn) error {
		defer conn.Close()
		return try(ctx, conn)
	}
}

// nothingLeft waits until a namespace has no agent's job or pod.
func nothingLeft(t testing.TB, namespace, job string) {
	t.Helper()
	kubectl(t, "", "wait", "--for=delete", "pod,job", "-l", labelJob+"="+job, "-n", namespace, "--timeout=180s")
	if out := kubectl(t, "", "get", "pod,job", "-l", labelJob+"="+job, "-n", namespace, "-o", "name"); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

func podFrom(name, namespace string, t *corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec:       t.Spec,
	}
}
