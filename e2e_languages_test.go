package mirrord_test

import (
	"strings"
	"testing"

	"mirrord/layer/layertest"
)

// A debuggee in each of the other languages has the pod's environment, files,
// names and network, and takes its traffic; so has one whose environment is
// gone, and one that became a daemon.
func TestLanguages(t *testing.T) {
	needCluster(t)
	for _, w := range layertest.Witnesses {
		t.Run(w.Language, func(t *testing.T) {
			testify(t, w.Listens, "hello from the cluster", w.Build(t)...)
		})
	}
	c := layertest.Witnesses[0]
	t.Run("without environment", func(t *testing.T) {
		testify(t, true, "", append([]string{"env", "-i"}, c.Build(t)...)...)
	})
	t.Run("daemonised", func(t *testing.T) {
		// The shell waits until nobody has the pipe any more.
		line := []string{"sh", "-c", `{ (setsid "$@" &) } | cat`, "sh"}
		testify(t, true, "hello from the cluster", append(line, c.Build(t)...)...)
	})
}

// testify runs a witness in the context of the shop's web.
func testify(t *testing.T, listens bool, greeting string, command ...string) {
	t.Helper()
	service := kubectl(t, "get", "service", "-n", "shop", "inventory", "-o", "jsonpath={.spec.clusterIP}")
	config := kubectl(t, "get", "configmap", "-n", "shop", "shop", "-o", `jsonpath={.data.config\.yaml}`)
	first, _, _ := strings.Cut(config, "\n")
	_, clientIP := podOf(t, "app=client")
	d := execute(t, nil, append(append([]string{"--steal", "--"}, command...), "8080", "inventory")...)
	for _, want := range []string{"env " + greeting, "file " + first, "name " + service, "http 200 " + service + ":80"} {
		if got := d.line(""); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
	if listens {
		d.line("listening")
		if answer := ask(t, "http://web/"); !strings.Contains(answer, "witness") {
			t.Errorf("the Service answered %q", answer)
		}
		if got := d.line("client "); !strings.HasPrefix(got, "client "+clientIP+":") {
			t.Errorf("it says %q, want client %s", got, clientIP)
		}
	}
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
