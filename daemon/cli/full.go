package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// fullName is the program that is also the daemon, in our own directory.
const fullName = "mirrord-full"

// becomeFull goes on as that program, with the same command line. It returns
// only an error.
func becomeFull() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for %s: %w", fullName, err)
	}
	path := filepath.Join(filepath.Dir(self), fullName)
	err = syscall.Exec(path, os.Args, os.Environ())
	return fmt.Errorf("executing %s, which belongs beside mirrord: %w", path, err)
}
