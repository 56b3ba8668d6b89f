package mirrord_test

import (
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
		"(echo x > /etc/shop/new) 2>&1":                                                            "Read-only file system",
		"(cd /etc/shop) 2>&1":                                                                      "can't cd to /etc/shop",
		"head -c 4 /proc/self/fd/0 < /etc/shop/config.yaml":                                        "curr",
		"sha256sum < /shop":                                                                        hash(largeFile(t)),
		`python3 -c 'import os; print(*(f for _, _, fs, _ in os.fwalk("/etc/shop") for f in fs))'`: "config.yaml",
	} {
		d := execute(t, []string{"TMPDIR=" + t.TempDir()}, "--", "sh", "-c", command)
		var out []string
		for l := range d.lines {
			out = append(out, l)
		}
		d.wait()
		if got := strings.Join(out, "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q; %s", command, got, want, d.errors())
		}
	}
}
