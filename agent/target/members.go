package target

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A member is a process of the target's container.
type member struct {
	pid, parent int
	adopted     bool // by the first process of its namespace, which is none of them
}

// Processes lists the target's process and all of its container that come from it.
// What was brought into the container from outside is not among them, nor what that
// has started: kubectl exec and kubelet's exec probes. Of a target that is a process
// it is that and its descendants.
func (t *Target) Processes() ([]int, error) {
	if err := t.Gone(); err != nil {
		return nil, err
	}
	first := t.PID()
	id := ""
	if t.contained {
		cgroup, err := t.read("cgroup", 64<<10)
		if err != nil {
			return nil, err
		}
		// Another one than at the start, if the container was restarted.
		if id = containerID(string(cgroup)); id == "" {
			return nil, fmt.Errorf("finding the container of process %d: its cgroup names none: %w", first, unix.ENODATA)
		}
	}
	members, err := findMembers(id)
	if err != nil {
		return nil, err
	}
	return descendants(first, members), nil
}

// findMembers lists the processes of a container; "": all there are.
func findMembers(id string) ([]member, error) {
	names, err := processes()
	if err != nil {
		return nil, err
	}
	var all []member
	for _, name := range names {
		if m, ok := findMember(name, id); ok {
			all = append(all, m)
		}
	}
	if id == "" {
		return all, nil
	}
	for i := range all {
		if outside := !slices.ContainsFunc(all, func(m member) bool { return m.pid == all[i].parent }); outside {
			all[i].adopted = firstOfNamespace(all[i].parent)
		}
	}
	return all, nil
}

func findMember(name, id string) (m member, ok bool) {
	dir, err := openProcess(name)
	if err != nil {
		return m, false // it has ended
	}
	defer dir.Close()
	if id != "" {
		if cgroup, err := readAt(dir, "cgroup", 64<<10); err != nil || !inContainer(string(cgroup), id) {
			return m, false
		}
	}
	if m.parent, err = parent(dir); err != nil {
		return m, false
	}
	m.pid, err = strconv.Atoi(name)
	return m, err == nil
}

// firstOfNamespace tells whether a process is number 1 to the processes of a
// namespace below ours: then it gets those whose parents have ended.
func firstOfNamespace(pid int) bool {
	dir, err := openProcess(strconv.Itoa(pid))
	if err != nil {
		return false
	}
	defer dir.Close()
	status, err := readAt(dir, "status", 64<<10)
	if err != nil {
		return false
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		if numbers, ok := strings.CutPrefix(lines.Text(), "NSpid:"); ok {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// descendants are first, those that come from it or were adopted, and theirs.
func descendants(first int, all []member) []int {
	byPID := map[int]member{}
	for _, m := range all {
		byPID[m.pid] = m
	}
	var list []int
	for _, m := range all {
		// As deep as there are processes, at most: they are not all looked at in one moment.
		for at, depth := m, 0; depth <= len(all); depth++ {
			if at.pid == first || at.adopted {
				list = append(list, m.pid)
				break
			}
			above, ok := byPID[at.parent]
			if !ok {
				break
			}
			at = above
		}
	}
	return list
}

// idLength is that of a container's whole id.
const idLength = 64

// containerID is the id of the container that a /proc/PID/cgroup names, as
// inContainer would find it; of one within another, the inner one's.
func containerID(cgroup string) string {
	id := ""
	for line := range strings.Lines(cgroup) {
		for dir := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			name := strings.TrimSuffix(dir, ".scope")
			if len(name) < idLength {
				continue
			}
			last := name[len(name)-idLength:]
			if strings.Trim(last, "0123456789abcdef") == "" && inContainer("/"+dir, last) {
				id = last
			}
		}
		if id != "" {
			return id
		}
	}
	return ""
}
