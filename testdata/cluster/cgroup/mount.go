package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// root is where every program looks for control groups.
const root = "/sys/fs/cgroup"

// Mount shows the groups at /sys/fs/cgroup as if there were no others. The
// caller is in a control group and a mount namespace of its own.
func Mount(groups []Group) error {
	if len(groups) == 1 && groups[0].Controllers == "" {
		return mountV2()
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", root, err)
	}
	for _, g := range groups {
		if err := mountV1(g.Controllers); err != nil {
			return err
		}
	}
	return nil
}

func mountV1(controllers string) error {
	name, options := controllers, controllers
	if named, ok := strings.CutPrefix(controllers, "name="); ok {
		name, options = named, "none,"+controllers
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("making a mount point: %w", err)
	}
	if err := unix.Mount("cgroup", dir, "cgroup", 0, options); err != nil {
		return fmt.Errorf("mounting the control groups of %s: %w", controllers, err)
	}
	if !strings.Contains(name, ",") {
		return nil
	}
	for one := range strings.SplitSeq(name, ",") {
		if err := os.Symlink(name, filepath.Join(root, one)); err != nil {
			return fmt.Errorf("linking the control groups of %s: %w", one, err)
		}
	}
	return nil
}

// mountV2 also moves the caller down into a leaf, since a group with processes
// cannot hand controllers to its children.
func mountV2() error {
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mounting the control groups: %w", err)
	}
	leaf := filepath.Join(root, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return fmt.Errorf("making a control group: %w", err)
	}
	if err := Join([]Group{{Dir: leaf}}, os.Getpid()); err != nil {
		return err
	}
	return enable(root)
}

// controllers are those that a kubelet limits pods with.
var controllers = []string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}

// enable hands the controllers of a version 2 group to its children.
func enable(dir string) error {
	all, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("reading the controllers: %w", err)
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(all)), c) {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+c), 0); err != nil {
			return fmt.Errorf("handing the %s controller to the groups below %s: %w", c, dir, err)
		}
	}
	return nil
}
