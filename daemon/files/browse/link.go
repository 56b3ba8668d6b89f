package browse

import (
	"context"
	"path"
	"strings"
	"syscall"
)

// maxLinks is how many symlinks lead on from one, as the kernel has it.
const maxLinks = 40

// Readlink leads links to where they lead in the target, whose root has nothing
// above it.
func (n *node) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	at := n.path()
	text, errno := during(ctx, func() (string, error) {
		text, err := n.target.Readlink(at)
		if err != nil {
			return "", err
		}
		return n.within(path.Dir(at), text)
	}, nil)
	return []byte(text), errno
}

// within spells the text of a link in dir so that it does not lead out of the
// mount: ".." is only in front of names, and not more often than dir has parents.
func (n *node) within(dir, text string) (string, error) {
	ups := strings.Count(strings.TrimSuffix(dir, "/"), "/") // what is mounted has no links among a file's parents
	parts := strings.Split(text, "/")
	last, count := -1, 0 // of ".."
	for i, part := range parts {
		if part == ".." {
			last, count = i, count+1
		}
	}
	if !path.IsAbs(text) && last+1 == count && count <= ups {
		return text, nil
	}
	if path.IsAbs(text) {
		dir = "/"
	}
	left := maxLinks
	at, err := n.walk(dir, strings.Join(parts[:last+1], "/"), &left)
	if err != nil {
		return "", err
	}
	rest := strings.TrimLeft(strings.Join(parts[last+1:], "/"), "/")
	return strings.Repeat("../", ups) + "." + strings.TrimSuffix(at, "/") + "/" + rest, nil
}

// walk tells where a text leads in the target, a directory.
func (n *node) walk(dir, text string, left *int) (string, error) {
	if path.IsAbs(text) {
		dir = "/"
	}
	for part := range strings.SplitSeq(text, "/") {
		if part == "" || part == "." || part == ".." {
			dir = path.Join(dir, part) // "/.." is "/"
			continue
		}
		at := path.Join(dir, part)
		a, err := n.target.Stat(at)
		switch kind := a.Mode & syscall.S_IFMT; {
		case err != nil:
			return "", err
		case kind == syscall.S_IFDIR:
			dir = at
		case kind != syscall.S_IFLNK:
			return "", syscall.ENOTDIR
		case *left == 0:
			return "", syscall.ELOOP
		}
		if dir == at {
			continue
		}
		*left--
		to, err := n.target.Readlink(at)
		if err != nil {
			return "", err
		}
		if dir, err = n.walk(dir, to, left); err != nil {
			return "", err
		}
	}
	return dir, nil
}
