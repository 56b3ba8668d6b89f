package target

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An identity is what a container keeps when it is restarted, while its id and
// its processes change: pod and name. It is read off the file for the
// container's last words, which kubelet mounts into every container from
//
//	…/pods/POD UID/containers/NAME/RANDOM
//
// whatever the runtime and the version of cgroups are.
type identity struct {
	container string // POD UID/containers/NAME
	mount     string // where the file is, seen from the container's root
}

// identify finds a process's identity. While the runtime is still making the
// container, the mount is elsewhere: its root is not the process's yet.
func identify(dir *os.File) (identity, bool) {
	mounts, err := readAt(dir, "mountinfo", 16<<20)
	if err != nil {
		return identity{}, false
	}
	return parseMounts(mounts)
}

// parseMounts reads /proc/PID/mountinfo: id, parent, device, root, mount point.
func parseMounts(mounts []byte) (identity, bool) {
	lines := bufio.NewScanner(bytes.NewReader(mounts))
	lines.Buffer(nil, len(mounts)+1)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		dirs := strings.Split(fields[3], "/")
		if n := len(dirs); n >= 5 && dirs[n-5] == "pods" && dirs[n-3] == "containers" {
			return identity{strings.Join(dirs[n-4:n-1], "/"), fields[4]}, true
		}
	}
	return identity{}, false
}

// runtimes are the programs that a container's first process is, for a moment,
// before it executes what the container is for.
var runtimes = map[string]bool{"runc": true, "crun": true, "youki": true}

// starting reports whether a process is the runtime's still.
func starting(dir *os.File) bool {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), "exe", buf)
	if err != nil {
		return true // or has ended
	}
	return runtimeExe(string(buf[:n]))
}

// runtimeExe knows a runtime by /proc/PID/exe. runc may run a copy of itself in
// memory, or itself by a mount of its own that is nowhere (since 1.2), whose root it is.
func runtimeExe(exe string) bool {
	if exe == "/" {
		return true
	}
	exe = strings.TrimSuffix(exe, " (deleted)")
	if name, ok := strings.CutPrefix(exe, "/memfd:"); ok {
		return strings.HasPrefix(name, "runc")
	}
	return runtimes[filepath.Base(exe)]
}

// find opens the directory of the first process of the container.
func (id identity) find() (*os.File, error) {
	return oldest(func(dir *os.File) bool {
		other, ok := identify(dir)
		return ok && other == id && !starting(dir)
	})
}
