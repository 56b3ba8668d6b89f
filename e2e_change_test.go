package mirrord_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writable runs pod web in a namespace of the test's own, as a user, with the
// node's programs: a shell in the pod is what a debuggee is compared with.
// /srv/data is a volume, /srv/tiny a small one in memory, /srv/fixed mounted
// for reading only.
func writable(t *testing.T, user string) (namespace string) {
	t.Helper()
	namespace = ownNamespace(t)
	kubectl(t, "create", "configmap", "fixed", "-n", namespace, "--from-literal=file=text")
	mounts := "{name: data, mountPath: /srv/data}, {name: data, mountPath: /srv/data/mounted, subPath: mounted}, {name: tiny, mountPath: /srv/tiny}, {name: fixed, mountPath: /srv/fixed}"
	volumes := "{name: data, emptyDir: {}}, {name: tiny, emptyDir: {medium: Memory, sizeLimit: 64Ki}}, {name: fixed, configMap: {name: fixed}}"
	for _, dir := range []string{"bin", "usr", "lib", "lib64"} {
		mounts += fmt.Sprintf(", {name: %s, mountPath: /%s, readOnly: true}", dir, dir)
		volumes += fmt.Sprintf(", {name: %s, hostPath: {path: /%s}}", dir, dir)
	}
	apply(t, namespace, pod("web", "args: [sleep]\n    volumeMounts: ["+mounts+"]\n  volumes: ["+volumes+"]\n  securityContext: "+user))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	return namespace
}

// podShell runs a shell script in pod web.
func podShell(t *testing.T, namespace, script string) string {
	t.Helper()
	return kubectl(t, "exec", "-n", namespace, "web", "--", "/bin/sh", "-c", script)
}

// remotely runs a shell script as a debuggee in mode write, with this machine's
// programs: those of the pod are on volumes.
func remotely(t *testing.T, namespace, script string) string {
	t.Helper()
	config := file(t, "mirrord.json", `{"feature": {"fs": {"mode": "write", "local": "^/(bin|usr|lib|lib64)(/|$)"}}}`)
	d := execute(t, nil, "-n", namespace, "--target", "pod/web", "-f", config, "--", "/bin/sh", "-c", script)
	var out strings.Builder
	for l := range d.lines {
		out.WriteString(l + "\n")
	}
	if d.wait(); d.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("exit code %d: %s", d.cmd.ProcessState.ExitCode(), d.errors())
	}
	return out.String()
}

// changeScript changes files of the directory it is told, each way that a shell
// has, and tells what its tools say of it.
const changeScript = `
exec 2>&1; export LC_ALL=C; umask 027; D=$1; try() { "$@" || echo "=> $?"; }
try test -w $D/file; try test -w $D/../mounted; try test -w /srv/fixed/file
try mkdir $D/a $D/a/b; try mkdir -m 1777 $D/sticky; try mkdir -p -m 711 $D/p/q/r; try mkdir $D/a
try mv $D/file $D/a/moved; try stat -c '%n %a %s' $D/file $D/a/moved; try mv $D/a $D/z; try mv $D/z $D/a
try ln $D/a/moved $D/hard; try ln -s a/moved $D/soft; try ln -s /nowhere $D/dangling; try stat -c '%n %h' $D/hard $D/a/moved
try chmod 640 $D/hard; try chmod u+s,g+s $D/second; try chmod 4755 $D/soft; try chmod 600 $D/dangling
try touch -c -d 2001-02-03T04:05:06.789Z $D/second; try touch -c -h -d @7 $D/soft; try touch -c -r $D/second $D/hard; try touch -c $D/none
try mkfifo $D/fifo; try chgrp 3000 $D/second; try chown 4242 $D/second; try chgrp 4242 $D/hard
try rm $D/third; try cat $D/third; try rm $D/third; try rmdir $D/p; try rmdir $D/p/q/r; try rm -r $D/p; try rm $D/a; try rmdir $D/../mounted
try ln $D/hard $D/../mounted/hard; try ls $D/../mounted; try mv -T $D/a $D/../mounted; try mv -T $D/../mounted $D/x
try mkdir /srv/fixed/x; try rm /srv/fixed/file; try mkdir /srv/tiny/x; try ln $D/second /srv/tiny/x/second; try rmdir /srv/tiny/x
try mkdir $D/$(printf %0256d 1); try mkdir $D/$(printf %0255d 1); try rmdir $D/$(printf %0255d 1)
(cd $D/a && /bin/pwd && mkdir in && chmod 710 in && cd in && touch -c -d @99 ../moved && ln -s .. up && ls -l up | cut -d' ' -f1 && cd ../.. && /bin/pwd && rmdir a/in; ls a/in)
try ls -A $D; ls /srv/data/mounted > /dev/null && echo still there
`

// What a debuggee does in mode write comes to what a process of the pod makes of
// it: owners, modes, times, errors, and what is there in the end.
func TestChangesAreThePods(t *testing.T) {
	needCluster(t)
	for name, user := range map[string]string{
		"root": "{runAsUser: 0}",
		"user": "{runAsUser: 1000, runAsGroup: 2000, supplementalGroups: [3000], fsGroup: 3000}",
	} {
		t.Run(name, func(t *testing.T) {
			namespace := writable(t, user)
			podShell(t, namespace, `cd /srv/data && umask 022 && for d in ours theirs; do mkdir $d && for f in file second third; do echo $f > $d/$f; done; done`)
			run := func(dir string) string { return "set -- /srv/data/" + dir + changeScript }
			describe := func(dir string) string {
				return podShell(t, namespace, `cd /srv/data/`+dir+` && find . -printf '%p %y %m %u:%g %n %l ' \( -newermt '5 minutes ago' -printf now -o -printf %T@ \) -printf '\n' | sort`)
			}
			theirs := strings.ReplaceAll(podShell(t, namespace, run("theirs")), "theirs", "DIR")
			ours := strings.ReplaceAll(remotely(t, namespace, run("ours")), "ours", "DIR")
			if diff := cmp.Diff(theirs, ours); diff != "" || !strings.Contains(theirs, "still there") {
				t.Errorf("what the tools say; -in the pod +here:\n%s", diff)
			}
			if diff := cmp.Diff(describe("theirs"), describe("ours")); diff != "" {
				t.Errorf("what there is; -in the pod +here:\n%s", diff)
			}
		})
	}
}
