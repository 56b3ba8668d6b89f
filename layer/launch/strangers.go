package launch

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"mirrord/layer/keeper"
)

// strangers lists our children that are not the debuggee's: they have no more
// seccomp filters than we. A daemon that we started is our child as soon as the
// process in between has ended, since we are a subreaper.
func strangers() []int {
	list, err := keeper.Children(os.Getpid())
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
