// Package cgroup gives a test cluster control groups of its own, of version 1
// or 2, and takes them away again.
//
// A version 1 group lies below the caller's own in every hierarchy, so limits
// set on the caller still hold. A version 2 group cannot: a group with
// processes may not hand controllers to children, so it lies below the mount's
// root.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Group is one directory: in a version 1 hierarchy, or the only one of version 2.
type Group struct {
	// Controllers as the mount option spells them ("memory", "cpu,cpuacct",
	// "name=systemd"); empty for version 2.
	Controllers string `json:"controllers"`
	Dir         string `json:"dir"`
}

// Plan says which groups a cluster of that name needs; it makes none.
func Plan(name string) ([]Group, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mounts: %w", err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("reading our own control groups: %w", err)
	}
	return plan(string(mounts), string(self), name)
}

// Create makes the groups' directories.
func Create(groups []Group) error {
	for _, g := range groups {
		if g.Controllers == "" {
			if err := enable(filepath.Dir(g.Dir)); err != nil {
				return err
			}
		}
		if err := os.Mkdir(g.Dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making a control group: %w", err)
		}
		if g.has("cpuset") {
			if err := inheritCPUs(g.Dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// Join moves the process into the groups.
func Join(groups []Group, pid int) error {
	for _, g := range groups {
		procs := filepath.Join(g.Dir, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("moving process %d into its control group: %w", pid, err)
		}
	}
	return nil
}

// Remove takes the groups away, waiting for the kernel to finish with dead processes in them.
func Remove(ctx context.Context, groups []Group) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, g := range groups {
		for {
			err := removeTree(g.Dir)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("removing a control group: %w", err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("removing a control group that still holds processes: %w", err)
			}
		}
	}
	return nil
}

// removeTree removes the directories from the deepest up; their files are not real.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && err != unix.ENOENT {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}

func (g Group) has(controller string) bool {
	return slices.Contains(strings.Split(g.Controllers, ","), controller)
}

// inheritCPUs fills a new version 1 cpuset: it starts empty, and an empty one admits no process.
func inheritCPUs(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		set, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return fmt.Errorf("reading the parent's cpuset: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), set, 0); err != nil {
			return fmt.Errorf("filling the cpuset: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0); err != nil {
		return fmt.Errorf("letting cpusets be inherited: %w", err)
	}
	return nil
}
