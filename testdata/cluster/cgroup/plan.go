package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// A hierarchy is a mounted tree of control groups.
type hierarchy struct {
	root    string // the group that the mount shows as its top
	dir     string // where it is mounted
	options []string
	v2      bool
}

// plan reads /proc/self/mountinfo and /proc/self/cgroup. Where both versions
// are mounted, the one that has the memory controller counts.
func plan(mountinfo, self, name string) ([]Group, error) {
	mounts := hierarchies(mountinfo)
	var v1 []Group
	for line := range strings.Lines(self) {
		// 4:memory:/user/session
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] == "" {
			continue
		}
		controllers, own := fields[1], fields[2]
		m, ok := find(mounts, controllers)
		if !ok {
			continue
		}
		rel, err := filepath.Rel(m.root, own)
		if err != nil || strings.HasPrefix(rel, "..") {
			return nil, fmt.Errorf("our own control group %s of %s lies outside of its mount %s", own, controllers, m.dir)
		}
		v1 = append(v1, Group{controllers, filepath.Join(m.dir, rel, name)})
	}
	if slices.ContainsFunc(v1, func(g Group) bool { return g.has("memory") }) {
		return v1, nil
	}
	for _, m := range mounts {
		if m.v2 {
			return []Group{{Dir: filepath.Join(m.dir, name)}}, nil
		}
	}
	return nil, errors.New("finding control groups: none with the memory controller are mounted")
}

// hierarchies lists the control group mounts of a mountinfo.
func hierarchies(mountinfo string) []hierarchy {
	var all []hierarchy
	for line := range strings.Lines(mountinfo) {
		// 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
		mount, kind, ok := strings.Cut(strings.TrimSpace(line), " - ")
		m, k := strings.Fields(mount), strings.Fields(kind)
		if !ok || len(m) < 5 || len(k) < 3 || (k[0] != "cgroup" && k[0] != "cgroup2") {
			continue
		}
		all = append(all, hierarchy{
			root: m[3], dir: m[4], options: strings.Split(k[2], ","), v2: k[0] == "cgroup2",
		})
	}
	return all
}

// find returns the version 1 mount that has all of the controllers.
func find(mounts []hierarchy, controllers string) (hierarchy, bool) {
	for _, m := range mounts {
		if !m.v2 && m.hasAll(controllers) {
			return m, true
		}
	}
	return hierarchy{}, false
}

func (h hierarchy) hasAll(controllers string) bool {
	for c := range strings.SplitSeq(controllers, ",") {
		if !slices.Contains(h.options, c) {
			return false
		}
	}
	return true
}
