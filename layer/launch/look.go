package launch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Look finds the program that command names, as a shell with the environment
// env in the directory dir would. Its errors are *Error, with exit code 126 or 127.
func Look(command string, env []string, dir string) (string, error) {
	if command == "" {
		return "", &Error{Msg: "the command is empty", Code: CodeNotFound, Err: fs.ErrNotExist}
	}
	if strings.Contains(command, "/") {
		path := command
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if err := executable(path); err != nil {
			return "", cannotRun(command, err)
		}
		return path, nil
	}
	found := error(fs.ErrNotExist)
	for _, d := range filepath.SplitList(lookup(env, "PATH")) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		path := filepath.Join(d, command)
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if !os.IsNotExist(err) && os.IsNotExist(found) {
			found = err
		}
	}
	return "", cannotRun(command, found)
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		if e, ok := err.(*fs.PathError); ok {
			return e.Err
		}
		return err
	}
	if info.IsDir() {
		return unix.EISDIR
	}
	return unix.Access(path, unix.X_OK)
}

func cannotRun(command string, err error) error {
	e := &Error{Msg: fmt.Sprintf("%s: %v", command, err), Code: CodeNotExecutable, Err: err}
	switch {
	case os.IsNotExist(err) || err == unix.ENOTDIR:
		e.Code, e.Msg = CodeNotFound, command+": command not found"
		if !strings.Contains(command, "/") {
			e.Hint = "it was looked for in the PATH of the debuggee"
		}
	case os.IsPermission(err):
		e.Msg, e.Hint = command+": not executable", "chmod +x it, or name its interpreter"
	}
	return e
}

// lookup returns the last value of name in env, as the C library does not but Go's exec does.
func lookup(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return ""
}
