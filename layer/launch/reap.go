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

func haveChildren() bool {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}
