package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"mirrord/protocol/ide"
)

const maxFile = 1 << 20 // bytes of a file that is read

var errTooLarge = fmt.Errorf("it is larger than %d bytes", maxFile)

// names looked for in the client's directory, in this order.
var defaultFiles = []string{
	".mirrord/mirrord.json", ".mirrord/mirrord.toml", ".mirrord/mirrord.yaml", ".mirrord/mirrord.yml",
}

// locate finds the file: its name for messages, and its path. Others are files
// that would be used if it were not there.
func locate(client ide.Client, file string) (name, path string, others []string) {
	if file == "" {
		file, _ = LookupEnv(client.Env, "MIRRORD_CONFIG_FILE")
	}
	if file != "" {
		return file, absolute(file, client), nil
	}
	for _, file := range defaultFiles {
		switch at := absolute(file, client); {
		case !exists(at):
		case name == "":
			name, path = file, at
		default:
			others = append(others, file)
		}
	}
	return name, path, others
}

// absolute reads a path as the client would: ~ is its home.
func absolute(path string, client ide.Client) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, _ := LookupEnv(client.Env, "HOME")
		return filepath.Join(home, rest)
	}
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(client.Dir, path)
}

func readFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold us
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return "", &fs.PathError{Op: "read", Path: path, Err: errors.New("it is not a regular file")}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxFile {
		return "", &fs.PathError{Op: "read", Path: path, Err: errTooLarge}
	}
	return string(text), nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
