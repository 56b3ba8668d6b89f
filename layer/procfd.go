package layer

import (
	"strconv"
	"strings"
)

// procFD reads a path that names one of the caller's own descriptors:
// /proc/self/fd/3, /proc/thread-self/fd/3, /dev/fd/3.
func procFD(path string) (int32, bool) {
	for _, prefix := range [...]string{"/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			fd, err := strconv.ParseUint(rest, 10, 31)
			return int32(fd), err == nil
		}
	}
	return 0, false
}
