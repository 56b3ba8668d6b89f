package rpc

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"mirrord/protocol/ide"
)

// Names in the runtime directory.
const (
	socketName     = ide.SocketName
	startLockName  = "start.lock"  // held by the client that starts a daemon
	daemonLockName = "daemon.lock" // held by the daemon for its life; its pid is in it
	logName        = ide.LogName
)

const maxSocketPath = 107 // sun_path without its NUL

// RuntimeDir finds and makes the directory of a user's daemon: mirrord below
// xdg (the client's XDG_RUNTIME_DIR), else below /run/user/UID, else
// /tmp/mirrord-UID. It is the user's own, and nobody else may look into it.
func RuntimeDir(xdg string) (string, error) {
	uid := os.Getuid()
	for _, base := range []string{xdg, "/run/user/" + strconv.Itoa(uid)} {
		// Under sudo the variable may name another user's.
		if base != "" && owned(base, uid) == nil {
			return makeDir(filepath.Join(base, "mirrord"), uid)
		}
	}
	return makeDir("/tmp/mirrord-"+strconv.Itoa(uid), uid)
}

func makeDir(dir string, uid int) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return "", fmt.Errorf("making the runtime directory: %w", err)
	}
	if err := owned(dir, uid); err != nil {
		return "", fmt.Errorf("using the runtime directory %s: %w", dir, err)
	}
	if info, err := os.Lstat(dir); err != nil || info.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return "", fmt.Errorf("using the runtime directory: %w", err)
		}
	}
	if n := len(filepath.Join(dir, socketName)); n > maxSocketPath {
		return "", fmt.Errorf("using the runtime directory %s: a socket's path in it has %d bytes, %d is the limit", dir, n, maxSocketPath)
	}
	return dir, nil
}

// owned reports why dir is not a directory of uid; a link to one is none.
func owned(dir string, uid int) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return &fs.PathError{Op: "lstat", Path: dir, Err: syscall.ENOTDIR}
	case !ok || st.Uid != uint32(uid):
		return fmt.Errorf("it belongs to another user")
	}
	return nil
}
