package launch

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// children lists the child processes of pid, dead ones that nobody has waited
// for among them.
func children(pid int) ([]int, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, t := range threads {
		b, err := os.ReadFile(dir + t.Name() + "/children")
		if err != nil {
			if os.IsNotExist(err) || err == unix.ESRCH {
				continue // the thread has ended
			}
			return nil, err
		}
		for _, field := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(field); err == nil {
				list = append(list, child)
			}
		}
	}
	return list, nil
}

// killAll kills every child of ours but those in spare, then the children that
// we inherit by that as their subreaper, until there are none.
func killAll(spare []int) {
	for {
		list, err := children(os.Getpid())
		if err != nil {
			return
		}
		list = slices.DeleteFunc(list, func(pid int) bool { return slices.Contains(spare, pid) })
		if len(list) == 0 {
			if len(spare) == 0 && haveChildren() {
				continue // the list is not complete while it changes
			}
			return
		}
		killed := 0
		for _, pid := range list {
			if unix.Kill(pid, unix.SIGKILL) == nil {
				killed++
			}
		}
		if killed == 0 {
			return // they are not ours to kill
		}
		for _, pid := range list {
			for {
				if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
					break
				}
			}
		}
	}
}

// strangers lists our children that are not the debuggee's: they have no more
// seccomp filters than we. A daemon that we started is our child as soon as the
// process in between has ended, since we are a subreaper.
func strangers() []int {
	list, err := children(os.Getpid())
	if err != nil {
		return nil
	}
	own := filters(os.Getpid())
	return slices.DeleteFunc(list, func(pid int) bool { return filters(pid) > own })
}

// filters counts the seccomp filters of a process (proc_pid_status(5); before
// Linux 5.9: whether there is one).
func filters(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	_, text, ok := strings.Cut(string(b), "\nSeccomp_filters:\t")
	if !ok {
		_, text, _ = strings.Cut(string(b), "\nSeccomp:\t")
	}
	text, _, _ = strings.Cut(text, "\n")
	n, _ := strconv.Atoi(text)
	return n
}

func haveChildren() bool {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}
