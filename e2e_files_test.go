package mirrord_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Tools that walk directories by descriptor see the target's, with its links
// and "..", and are refused what cannot be.
func TestToolsWalkTheTarget(t *testing.T) {
	needCluster(t)
	for command, want := range map[string]string{
		"find -L /etc/shop -maxdepth 1 -name config.yaml":                                          "/etc/shop/config.yaml",
		"grep -rl currency /etc/shop/":                                                             "/etc/shop/..20",
		"tar chf - /etc/shop 2>/dev/null | tar tf - | grep data/":                                  "etc/shop/..data/config.yaml",
		`ls -la /etc/shop | grep -c '^d.* \.\.*$'`:                                                 "2",
		"cp -r /etc/shop $TMPDIR/copy && cat $TMPDIR/copy/config.yaml":                             "currency: EUR",
		"du -sL /etc/shop | cut -f2":                                                               "/etc/shop",
		"readlink /etc/shop/config.yaml":                                                           "..data/config.yaml",
		"test -w /etc/shop/config.yaml || echo not writable":                                       "not writable",
		"(echo x > /etc/shop/new) 2>&1 || true":                                                    "Read-only file system",
		"cd /etc/shop && /bin/pwd && cat ./config.yaml":                                            "/etc/shop\ncurrency: EUR",
		"head -c 4 /proc/self/fd/0 < /etc/shop/config.yaml":                                        "curr",
		"sha256sum < /shop":                                                                        hash(largeFile(t)),
		`python3 -c 'import os; print(*(f for _, _, fs, _ in os.fwalk("/etc/shop") for f in fs))'`: "config.yaml",
	} {
		d := execute(t, []string{"TMPDIR=" + t.TempDir()}, "--", "sh", "-c", command)
		var out []string
		for l := range d.lines {
			out = append(out, l)
		}
		code := d.wait()
		if got := strings.Join(out, "\n"); !strings.Contains(got, want) || code != 0 {
			t.Errorf("%s: %q and %d, want %q and 0; %s", command, got, code, want, d.errors())
		}
	}
}

// Who goes through a volume of many files, in whatever order, reads each of them
// as it is: most have been sent ahead of the question.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	dir := t.TempDir()
	var numbered strings.Builder
	for i := range 200 {
		text := fmt.Sprintf("text %d\n", i)
		numbered.WriteString(text)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("text%d", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, "create", "configmap", "many", "-n", namespace, "--from-file="+dir)
	apply(t, namespace, pod("web", "args: [sleep]\n    volumeMounts: [{name: many, mountPath: /srv/many}]\n  volumes: [{name: many, configMap: {name: many}}]"))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	sorted, err := exec.Command("sh", "-c", "cat "+dir+"/*").Output()
	if err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"for i in $(seq 0 199); do cat /srv/many/text$i; done": numbered.String(),
		"cat /srv/many/*": string(sorted),
		`python3 -c 'import os, sys
texts = [open("/srv/many/" + n).read() for n in os.listdir("/srv/many") if n[0] != "."]
assert sum(os.stat("/srv/many/text%d" % i).st_size for i in range(200)) == sum(map(len, texts))
sys.stdout.writelines(sorted(texts, key=lambda text: int(text.split()[1])))'`: numbered.String(),
	} {
		d := execute(t, nil, "-n", namespace, "--target", "pod/web", "--", "sh", "-c", command)
		var out strings.Builder
		for l := range d.lines {
			out.WriteString(l + "\n")
		}
		if d.wait(); out.String() != want {
			t.Errorf("%s: %.200q…, want %.200q…; %s", command, out.String(), want, d.errors())
		}
	}
}
