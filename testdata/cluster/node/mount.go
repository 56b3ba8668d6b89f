package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/testdata/cluster/cgroup"
)

// kernelSettings are global settings that the kubelet writes. It gets files
// that already hold its values, so that the host's stay as they are.
var kernelSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// mounts builds the node's view of the files: the host's, with the packages
// laid over /usr, and nothing that is written lands outside of the state.
func mounts(cfg Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating the mounts from the host's: %w", err)
	}
	// The kubelet wants volumes to appear in containers, hence shared again.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing the mounts within the node: %w", err)
	}
	// Held by descriptor: the tmpfs mounts below may cover their paths.
	var held []string
	for _, dir := range []string{cfg.State, cfg.Cache} {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening %s: %w", dir, err)
		}
		defer unix.Close(fd)
		held = append(held, fmt.Sprintf("/proc/self/fd/%d", fd))
	}

	m := &mounter{}
	m.mount("proc", "/proc", "proc", "")
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		m.mount("tmpfs", dir, "tmpfs", "mode=755")
	}
	m.mount("tmpfs", "/tmp", "tmpfs", "mode=1777")
	m.bind(held[0], stateDir)
	m.bind(held[1], cacheDir)
	m.mount("overlay", "/usr", "overlay", "lowerdir="+cacheDir+"/packages/usr:/usr")
	m.mkdir(top+"/etc/upper", top+"/etc/work")
	m.mount("overlay", "/etc", "overlay", "lowerdir=/etc,upperdir="+top+"/etc/upper,workdir="+top+"/etc/work")
	m.mount("sysfs", "/sys", "sysfs", "") // the host's shows the host's links
	if m.err == nil {
		m.err = cgroup.Mount(cfg.Groups)
	}
	m.bind(stateDir+"/kubelet", "/var/lib/kubelet")
	m.bind(stateDir+"/containerd", "/var/lib/containerd")
	m.bind(stateDir+"/pods", "/var/log/pods")
	m.mkdir("/var/log/containers", "/run/lock", "/run/containerd")
	for name, value := range kernelSettings {
		file := filepath.Join(top, "sysctl", strings.ReplaceAll(name, "/", "."))
		m.write(file, value+"\n")
		m.bindFile(file, filepath.Join("/proc/sys", name))
	}
	return m.err
}

// identity gives the node its name, and no resolver but what the pods get.
func identity() error {
	if err := unix.Sethostname([]byte(Name)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	m := &mounter{}
	for file, content := range map[string]string{
		"/etc/resolv.conf": "",
		"/etc/hostname":    Name + "\n",
		"/etc/hosts":       "127.0.0.1 localhost\n" + address + " " + Name + "\n",
	} {
		m.remove(file) // it may be a link into the host's /run
		m.write(file, content)
	}
	return m.err
}

// A mounter does nothing more after its first error.
type mounter struct{ err error }

func (m *mounter) try(what, where string, f func() error) {
	if m.err != nil {
		return
	}
	if err := f(); err != nil {
		m.err = fmt.Errorf("%s %s: %w", what, where, err)
	}
}

func (m *mounter) mount(source, dir, kind, options string) {
	m.try("mounting "+kind+" on", dir, func() error { return unix.Mount(source, dir, kind, 0, options) })
}

func (m *mounter) bind(from, to string) {
	m.mkdir(to)
	m.bindFile(from, to)
}

func (m *mounter) bindFile(from, to string) {
	m.try("binding "+from+" to", to, func() error { return unix.Mount(from, to, "", unix.MS_BIND, "") })
}

func (m *mounter) mkdir(dirs ...string) {
	for _, d := range dirs {
		m.try("making", d, func() error { return os.MkdirAll(d, 0o755) })
	}
}

func (m *mounter) remove(file string) {
	m.try("removing", file, func() error { return os.RemoveAll(file) })
}

func (m *mounter) write(file, content string) {
	m.mkdir(filepath.Dir(file))
	m.try("writing", file, func() error { return os.WriteFile(file, []byte(content), 0o644) })
}
