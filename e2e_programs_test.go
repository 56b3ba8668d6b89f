package mirrord_test

import (
	"archive/zip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// treeTarget runs pod web with an empty volume at /srv/tree, and tells where kubelet
// has that on this machine, which is the test cluster's node.
func treeTarget(t *testing.T) (namespace, dir string) {
	t.Helper()
	namespace = ownNamespace(t)
	apply(t, namespace, pod("web", "args: [sleep]\n    volumeMounts: [{name: tree, mountPath: /srv/tree}]\n  volumes: [{name: tree, emptyDir: {}}]"))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	uid := kubectl(t, "get", "pod", "web", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
	dir = filepath.Join(filepath.Dir(kubeconfig), "kubelet/pods", uid, "volumes/kubernetes.io~empty-dir/tree")
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	return namespace, dir
}

// write makes files by name, with their directories.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// inTree runs a shell's command with pod web of namespace as its target, which
// must end well, and returns what it says.
func inTree(t *testing.T, namespace string, env []string, command string) string {
	t.Helper()
	d := execute(t, env, "-n", namespace, "-t", "pod/web", "--", "sh", "-c", command)
	var out strings.Builder
	for l := range d.lines {
		out.WriteString(l + "\n")
	}
	if code := d.wait(); code != 0 {
		t.Errorf("%s: exit code %d, %q; %s", command, code, out.String(), d.errors())
	}
	return out.String()
}

// tool is the path of a command that a test needs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	return path
}

// Compilers, archives and version control read a tree of the target's as their own.
func TestProgramsReadATree(t *testing.T) {
	t.Parallel()
	tool(t, "rsync")
	tool(t, "git")
	tool(t, "javac")
	namespace, dir := treeTarget(t)
	mine := t.TempDir()
	files := map[string]string{}
	for i := range 40 {
		files[fmt.Sprintf("py/pkg%d/__init__.py", i%4)] = ""
		files[fmt.Sprintf("py/pkg%d/m%d.py", i%4, i)] = fmt.Sprintf("def f():\n    return %d\n", i)
	}
	files["repo/a.txt"], files["repo/sub/b.txt"] = "a\n", "b\n"
	write(t, dir, files)
	git := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("git", append([]string{"-C", dir + "/repo", "-c", "user.name=dev", "-c", "user.email=dev@example.org"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "first")
	write(t, dir, map[string]string{"repo/a.txt": "changed\n", "repo/new.txt": "new\n"})

	t.Run("python compileall", func(t *testing.T) {
		inTree(t, namespace, []string{"PYTHONPYCACHEPREFIX=" + mine + "/cache"}, "python3 -m compileall -q /srv/tree/py")
		made, _ := filepath.Glob(mine + "/cache/srv/tree/py/pkg*/m*.pyc")
		if len(made) != 40 {
			t.Errorf("compiled %d of 40 modules", len(made))
		}
	})
	t.Run("java -jar", func(t *testing.T) {
		jar(t, filepath.Join(dir, "app.jar"))
		if out := inTree(t, namespace, nil, "java -jar /srv/tree/app.jar"); out != "from the jar: resource\n" {
			t.Errorf("said %q", out)
		}
	})
	t.Run("attributes", func(t *testing.T) {
		if err := syscall.Setxattr(dir+"/repo/a.txt", "user.origin", []byte("shop"), 0); err != nil {
			t.Skipf("the file system of %s has no extended attributes: %v", dir, err)
		}
		out := inTree(t, namespace, nil, `exec python3 -c 'import os
at = "/srv/tree/repo/a.txt"
fd = os.open("/srv/tree/repo", os.O_PATH)
print(os.listxattr(at), os.getxattr(at, "user.origin"), os.getxattr(os.open("a.txt", 0, dir_fd=fd), "user.origin"))
print(os.stat("a.txt", dir_fd=fd).st_size, open("/proc/self/fd/%d/sub/b.txt" % fd).read())'`)
		if want := "['user.origin'] b'shop' b'shop'\n8 b\n\n"; out != want {
			t.Errorf("said %q, want %q", out, want)
		}
	})
	t.Run("rsync", func(t *testing.T) {
		if out := inTree(t, namespace, nil, "rsync -a /srv/tree/ "+mine+"/copy/ && rsync -anic --delete /srv/tree/ "+mine+"/copy/"); out != "" {
			t.Errorf("a second rsync finds differences: %q", out)
		}
		if out, err := exec.Command("diff", "-r", dir, mine+"/copy").CombinedOutput(); err != nil {
			t.Errorf("the copy differs: %s", out)
		}
	})
	t.Run("git status", func(t *testing.T) {
		// git is one of the build tools, which are not served by themselves.
		config := file(t, "mirrord.json", `{"skip_build_tools": false}`)
		out := inTree(t, namespace, []string{"MIRRORD_CONFIG_FILE=" + config},
			"git -c safe.directory=/srv/tree/repo -C /srv/tree/repo status --porcelain")
		if want := " M a.txt\n?? new.txt\n"; out != want {
			t.Errorf("said %q, want %q", out, want)
		}
	})
}

// jar compiles a class and puts it into an archive with a resource.
func jar(t *testing.T, path string) {
	t.Helper()
	src := t.TempDir()
	write(t, src, map[string]string{"App.java": `
public class App {
	public static void main(String[] args) throws Exception {
		try (var in = App.class.getResourceAsStream("/text")) {
			System.out.println("from the jar: " + new String(in.readAllBytes()));
		}
	}
}`})
	if out, err := exec.Command("javac", "-d", src, src+"/App.java").CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	class, err := os.ReadFile(src + "/App.class")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct{ name, text string }{
		{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: App\n\n"}, {"App.class", string(class)}, {"text", "resource"},
		{"padding", strings.Repeat("0123456789abcdef", 1<<14)},
	} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: part.name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(part.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}

// A log that grows is followed by who has it open: by tail, which finds that it
// cannot watch it, and by a reader that asks for nothing but more.
func TestFollowLog(t *testing.T) {
	t.Parallel()
	namespace, dir := treeTarget(t)
	log := filepath.Join(dir, "log")
	for name, start := range map[string]string{"small": "first\n", "large": strings.Repeat("a line of some length\n", 1<<14) + "first\n"} {
		for reader, command := range map[string]string{
			"tail":   "exec tail -n 1 -f /srv/tree/log",
			"python": "exec python3 -u -c '\nimport time\nf = open(\"/srv/tree/log\")\nlast = f.read().splitlines()[-1]\nprint(last)\nwhile True:\n    line = f.readline()\n    print(line, end=\"\") if line else time.sleep(0.05)'",
		} {
			t.Run(name+" "+reader, func(t *testing.T) {
				if err := os.WriteFile(log, []byte(start), 0o644); err != nil {
					t.Fatal(err)
				}
				d := execute(t, nil, "-n", namespace, "-t", "pod/web", "--", "sh", "-c", command)
				d.line("first")
				for i := range 3 {
					text := fmt.Sprintf("line %d", i)
					appendTo(t, log, text+"\n")
					began := time.Now()
					d.line(text)
					t.Logf("%s seen after %v", text, time.Since(began).Round(time.Millisecond))
				}
				d.signal(os.Interrupt)
				d.wait()
			})
		}
	}
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// A ConfigMap's new content is seen when kubelet has put it there: what the
// debuggee reads never lags behind the volume by more than a second.
func TestConfigMapUpdate(t *testing.T) {
	namespace := ownNamespace(t)
	kubectl(t, "create", "configmap", "app", "-n", namespace, "--from-literal=color=blue")
	apply(t, namespace, pod("web", "args: [sleep]\n    volumeMounts: [{name: app, mountPath: /srv/app}]\n  volumes: [{name: app, configMap: {name: app}}]"))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	uid := kubectl(t, "get", "pod", "web", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
	volume := filepath.Join(filepath.Dir(kubeconfig), "kubelet/pods", uid, "volumes/kubernetes.io~configmap/app/color")
	d := execute(t, nil, "-n", namespace, "-t", "pod/web", "--", "python3", "-u", "-c", `
import time
last = None
while last != "green":
    now = open("/srv/app/color").read()
    if now != last: print(now, time.time())
    last = now
    time.sleep(0.01)`)
	d.line("blue")
	kubectl(t, "patch", "configmap", "app", "-n", namespace, "-p", `{"data":{"color":"green"}}`)
	// kubelet looks at volumes once a minute, and at once at those of a pod that has changed.
	kubectl(t, "annotate", "pod", "web", "-n", namespace, "changed=yes")
	var swapped time.Time
	for end := time.Now().Add(2 * patience); ; time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(volume); err == nil && string(b) == "green" {
			swapped = time.Now()
			break
		}
		if time.Now().After(end) {
			t.Fatal("kubelet did not change the volume")
		}
	}
	var at float64
	if _, err := fmt.Sscanf(d.line("green"), "green %f", &at); err != nil {
		t.Fatal(err)
	}
	t.Logf("seen %v after the volume had it", time.Unix(0, int64(at*1e9)).Sub(swapped).Round(time.Millisecond))
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Of a large file that is mapped only what is touched is fetched, and what the
// kernel reads around it.
func TestMappedFile(t *testing.T) {
	t.Parallel()
	namespace, dir := treeTarget(t)
	const size, pages = 1 << 30, 100
	f, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil { // a hole, but for the pages that are touched
		t.Fatal(err)
	}
	at := func(i int64) int64 { return i * 7919 % (size / 4096) * 4096 }
	for i := range int64(pages) {
		if _, err := f.WriteAt(fmt.Appendf(nil, "page %d.", i), at(i)); err != nil {
			t.Fatal(err)
		}
	}
	config := file(t, "mirrord.json", `{"feature": {"network": false}}`)
	cmd := mirrord(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "pod/web", "-f", config, "--", "python3", "-u", "-c", `
import mmap, os
print("ready")
input()
fd = os.open("/srv/tree/large", os.O_RDONLY)
m = mmap.mmap(fd, 1 << 30, prot=mmap.PROT_READ)
for i in range(100):
    at, text = i * 7919 % (1 << 18) * 4096, b"page %d." % i
    assert m[at:at + len(text)] == text, i
print("touched")
input()`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	d := started(t, cmd, nil)
	d.line("ready")
	id := kubectl(t, "get", "pod", "web", "-n", namespace, "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	agent := agentOf(t, strings.TrimPrefix(id, "containerd://"))
	before := readBy(t, agent)
	fmt.Fprintln(in)
	d.line("touched")
	fetched := readBy(t, agent) - before
	t.Logf("%.1f MiB were read for %d pages of 1 GiB", float64(fetched)/(1<<20), pages)
	if fetched < pages*4096 || fetched > 30<<20 {
		t.Errorf("%d bytes were read for %d pages", fetched, pages)
	}
	fmt.Fprintln(in)
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// agentOf is the process of the agent that stands beside a container.
func agentOf(t *testing.T, container string) string {
	t.Helper()
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path)
		if strings.HasPrefix(string(line), "mirrord-agent\x00") && strings.Contains(string(line), container) {
			return filepath.Dir(path)
		}
	}
	t.Fatalf("no agent of container %s among the processes", container)
	return ""
}

// readBy is how many bytes a process has read, from files and connections.
func readBy(t *testing.T, process string) (n int64) {
	t.Helper()
	b, err := os.ReadFile(process + "/io")
	if err == nil {
		_, err = fmt.Sscanf(string(b), "rchar: %d", &n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
