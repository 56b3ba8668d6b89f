package keeper

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"syscall"
)

// Children lists the child processes of pid, dead ones that nobody has waited
// for among them.
func Children(pid int) ([]int, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, t := range threads {
		b, err := os.ReadFile(dir + t.Name() + "/children")
		if err != nil {
			if os.IsNotExist(err) || errors.Is(err, syscall.ESRCH) {
				continue // the thread has ended
			}
			return nil, err
		}
		child := 0
		for _, c := range b { // "12 34 "
			if c >= '0' && c <= '9' {
				child = child*10 + int(c-'0')
			} else if child != 0 {
				list = append(list, child)
				child = 0
			}
		}
	}
	return list, nil
}

// KillAll kills every child of ours but those in spare, then the children that
// we inherit by that as their subreaper, until there are none.
func KillAll(spare []int) {
	for HaveChildren() {
		list, err := Children(os.Getpid())
		if err != nil {
			return
		}
		list = slices.DeleteFunc(list, func(pid int) bool { return slices.Contains(spare, pid) })
		if len(list) == 0 {
			if len(spare) == 0 {
				continue // the list is not complete while it changes
			}
			return
		}
		killed := 0
		for _, pid := range list {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		if killed == 0 {
			return // they are not ours to kill
		}
		for _, pid := range list {
			Reap(pid)
		}
	}
}

// Reap waits for the end of a child.
func Reap(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// waitid(2)
const allChildren = 0

// HaveChildren tells whether we have any, dead ones that nobody has waited for
// among them. It is much cheaper than Children.
func HaveChildren() bool {
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, allChildren, 0, 0,
			syscall.WEXITED|syscall.WNOHANG|syscall.WNOWAIT|syscall.WALL, 0, 0)
		if errno != syscall.EINTR {
			return errno == 0
		}
	}
}
