package target

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestInContainer(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("fedcba9876543210", 4)
	for cgroup, want := range map[string]bool{
		"12:pids:/kubepods/besteffort/pod1-2/" + id + "\n11:cpu:/kubepods/besteffort/pod1-2/" + id + "\n": true,
		"0::/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-" + id + ".scope\n":                      true,
		"0::/../../pod1/cri-containerd-" + id + ".scope\n":                                                true,
		"0::/kubelet/pods/crio-" + id + ".scope/init.scope\n":                                             true,
		"0::/system.slice/kubepods-pod1.slice:cri-containerd:" + id + "\n":                                true,
		"0::/kubepods/pod1/" + other + "\n":                                                               false,
		"0::/kubepods/pod1/x" + id + "\n":                                                                 false,
		"0::/kubepods/pod1/" + id + "0\n":                                                                 false,
		"0::/\n":                                                                                          false,
		"":                                                                                                false,
	} {
		if got := inContainer(cgroup, id); got != want {
			t.Errorf("%q: %v", cgroup, got)
		}
	}
}

func TestParseUser(t *testing.T) {
	status := "Name:\tweb\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t8 2000 \nCapEff:\t0000000000000006\n"
	got, err := parseUser([]byte(status))
	want := User{UID: 4, GID: 8, Groups: []uint32{8, 2000}, Caps: 6}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v; -want +got:\n%s", err, diff)
	}
	if !got.In(2000) || got.In(7) || !got.Can(unix.CAP_DAC_READ_SEARCH) || got.Can(unix.CAP_SYS_ADMIN, unix.CAP_KILL) {
		t.Errorf("%+v", got)
	}
	for _, line := range []string{"Uid:\t1\t2\t3\t4\n", "Gid:\t5\t6\t7\t8\n", "CapEff:\t0000000000000006\n"} {
		if u, err := parseUser([]byte(strings.Replace(status, line, "", 1))); err == nil {
			t.Errorf("without %q: %+v", line, u)
		}
		if u, err := parseUser([]byte(strings.Replace(status, line, line[:len(line)-3]+"x\n", 1))); err == nil {
			t.Errorf("with a broken %q: %+v", line, u)
		}
	}
}

// The agent itself is served where nobody is named; its namespaces are entered already.
func TestEnterSelf(t *testing.T) {
	tgt, listeners, err := Enter(Choice{}, "127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.Close()
	for _, l := range listeners {
		defer l.Close()
	}
	if len(listeners) != 2 {
		t.Errorf("%d listeners", len(listeners))
	}
	if tgt.PID() != os.Getpid() || int(tgt.User.UID) != os.Getuid() {
		t.Errorf("target %+v", tgt)
	}
	environ, err := tgt.Environ()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00"); !slices.Contains(got, "PATH="+os.Getenv("PATH")) {
		t.Errorf("environment %q", got)
	}
	if _, err := tgt.read("status", 10); !errors.Is(err, unix.E2BIG) {
		t.Errorf("reading more than the limit: %v", err)
	}
}

func TestParseMounts(t *testing.T) {
	const uid = "0f5b2c1e-7a86-4a44-9d0e-3f7f2d0f9d11"
	others := "2031 1999 0:354 / / rw,relatime master:711 - overlay overlay rw,lowerdir=/a,upperdir=/b\n" +
		"2040 2031 0:321 / /proc rw,nosuid - proc proc rw\n" +
		"2051 2031 254:1 /var/lib/kubelet/pods/" + uid + "/etc-hosts /etc/hosts rw - ext4 /dev/vda1 rw\n" +
		"2052 2031 254:1 /var/lib/kubelet/pods/" + uid + "/volumes/kubernetes.io~configmap/config /etc/shop ro - ext4 /dev/vda1 rw\n"
	for line, want := range map[string]identity{
		"2050 2031 254:1 /var/lib/kubelet/pods/" + uid + "/containers/web/1a2b3c4d /dev/termination-log rw - ext4 /dev/vda1 rw\n": {uid + "/containers/web", "/dev/termination-log"},
		// /var/lib/kubelet may be a file system of its own, and the file's place is the user's choice.
		"2050 2031 254:1 /pods/" + uid + "/containers/web/1a2b3c4d /tmp/my-words rw - xfs /dev/vdb rw\n": {uid + "/containers/web", "/tmp/my-words"},
		"": {},
	} {
		if got, ok := parseMounts([]byte(others + line)); got != want || ok != (line != "") {
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
	}
}

func TestRuntimeExe(t *testing.T) {
	for exe, want := range map[string]bool{
		"/usr/sbin/runc": true, "/runc": true, "/memfd:runc_cloned:/proc/self/exe (deleted)": true, "/usr/bin/crun": true, "/": true,
		"/usr/bin/crunch": false, "/app/web": false, "/memfd:jit (deleted)": false,
	} {
		if got := runtimeExe(exe); got != want {
			t.Errorf("%s: %v", exe, got)
		}
	}
}

func TestContainerID(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for cgroup, want := range map[string]string{
		"12:pids:/kubepods/besteffort/pod1-2/" + id + "\n11:cpu:/\n":                         id,
		"11:cpu:/\n0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope\n": id,
		"0::/kubelet/pods/crio-" + id + ".scope/init.scope\n":                                id,
		"0::/docker/" + strings.Repeat("f", 64) + "/kubepods/pod1/" + id + "\n":              id,
		"0::/system.slice/kubepods-pod1.slice:cri-containerd:" + id + "\n":                   id,
		"0::/kubepods/pod1/x" + id + "\n":                                                    "",
		"0::/user.slice\n":                                                                   "",
	} {
		if got := containerID(cgroup); got != want {
			t.Errorf("%q: %q", cgroup, got)
		}
	}
}

// What was brought into a container is not of its own, and nor is what that started.
func TestDescendants(t *testing.T) {
	all := []member{
		{pid: 10, parent: 5},                // the first
		{pid: 11, parent: 10},               //
		{pid: 12, parent: 11},               //
		{pid: 20, parent: 6},                // kubectl exec
		{pid: 21, parent: 20},               //
		{pid: 30, parent: 4, adopted: true}, // in a pod that shares its processes
		{pid: 31, parent: 30},
		{pid: 40, parent: 41}, {pid: 41, parent: 40}, // numbers that were given anew
	}
	if diff := cmp.Diff([]int{10, 11, 12, 30, 31}, descendants(10, all)); diff != "" {
		t.Error(diff)
	}
}
