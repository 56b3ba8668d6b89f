package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"mirrord/protocol/slack"
)

// Programs of ours in our own directory.
const (
	fullProgram  = "mirrord-full" // which is also the daemon
	delveProgram = "mirrord-dlv"  // which is Delve
)

// beside finds a program in our own directory.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("looking for %s: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// become goes on as another program of ours, by an execve(2). It returns only an error.
func become(name string, args []string) error {
	path, err := beside(name)
	if err != nil {
		return err
	}
	err = slack.Spare(func() error { return syscall.Exec(path, args, os.Environ()) })
	return fmt.Errorf("executing %s, which belongs beside mirrord: %w", path, err)
}
