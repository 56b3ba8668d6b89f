package target

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Choice says whose context is served: a container's or a process's. The
// zero Choice is the agent itself.
type Choice struct {
	Container string // its id, without the runtime's scheme
	PID       int
}

func (c Choice) String() string {
	switch {
	case c.Container != "":
		return "container " + c.Container
	case c.PID != 0:
		return "process " + strconv.Itoa(c.PID)
	}
	return "this process"
}

// find opens the directory of the chosen process.
func (c Choice) find() (*os.File, error) {
	switch {
	case c.Container != "" && c.PID != 0:
		return nil, errors.New("a container and a process are both named: name one")
	case c.Container != "":
		return findContainer(c.Container)
	case c.PID != 0:
		return openProcess(strconv.Itoa(c.PID))
	}
	return openProcess("self")
}

func openProcess(name string) (*os.File, error) {
	dir, err := os.OpenFile("/proc/"+name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no such process: %w", unix.ESRCH)
	}
	return dir, err
}

// findContainer opens the directory of the container's first process. The
// oldest is taken, not the lowest number: numbers start over, and whatever
// kubectl exec runs is in the container's cgroup as well.
func findContainer(id string) (*os.File, error) {
	if len(id) < 12 || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%q is not a container id (at least 12 hexadecimal digits): %w", id, unix.EINVAL)
	}
	found, err := oldest(func(dir *os.File) bool {
		cgroup, err := readAt(dir, "cgroup", 64<<10)
		return err == nil && inContainer(string(cgroup), id)
	})
	if errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("%w (has it ended, or does this pod lack hostPID?)", err)
	}
	return found, err
}

// oldest opens the directory of the process that was started first of those
// that is holds for.
func oldest(is func(dir *os.File) bool) (*os.File, error) {
	names, err := processes()
	if err != nil {
		return nil, err
	}
	var found *os.File
	var first uint64
	for _, name := range names {
		dir, err := openProcess(name)
		if err != nil {
			continue // it ended meanwhile
		}
		if !is(dir) {
			dir.Close()
			continue
		}
		start, err := startTime(dir)
		if err != nil || found != nil && start >= first {
			dir.Close()
			continue
		}
		if found != nil {
			found.Close()
		}
		found, first = dir, start
	}
	if found == nil {
		return nil, fmt.Errorf("none of %d processes is in it: %w", len(names), unix.ESRCH)
	}
	return found, nil
}

// processes lists the numbers of all processes.
func processes() ([]string, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	pids := names[:0]
	for _, name := range names {
		if _, err := strconv.Atoi(name); err == nil {
			pids = append(pids, name)
		}
	}
	return pids, nil
}

// inContainer reports whether a /proc/PID/cgroup names the container: as a
// directory of its path (cgroupfs) or in a scope's name (systemd).
func inContainer(cgroup, id string) bool {
	for line := range strings.Lines(cgroup) {
		for dir := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			name := strings.TrimSuffix(dir, ".scope")
			if name == id || strings.HasSuffix(name, "-"+id) || strings.HasSuffix(name, ":"+id) {
				return true
			}
		}
	}
	return false
}

// startTime is when a process started, in clock ticks since boot.
func startTime(dir *os.File) (uint64, error) {
	const number = 22 // in proc(5)
	return statField(dir, number)
}

// parent is the number of a process's parent.
func parent(dir *os.File) (int, error) {
	const number = 4
	ppid, err := statField(dir, number)
	return int(ppid), err
}

// statField reads a number of /proc/PID/stat.
func statField(dir *os.File, number int) (uint64, error) {
	stat, err := readAt(dir, "stat", 4<<10)
	if err != nil {
		return 0, err
	}
	// The command's name is in parentheses and may hold anything, so count from its end.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	field := number - 3 // that of the first after the name
	if len(fields) <= field {
		return 0, unix.ENODATA
	}
	return strconv.ParseUint(string(fields[field]), 10, 64)
}
