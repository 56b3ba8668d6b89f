// Command image packs a static binary into a container image without a
// container engine: one layer, no base image, written as a docker-archive
// that every runtime imports. The same files make the same bytes.
//
//	go run ./agent/image -o bin/agent-image.tar -name mirrord-agent:1 bin/mirrord-agent
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
	"strings"
)

func main() {
	out := flag.String("o", "", "write the archive to `file`")
	spec := spec{added: make(added)}
	flag.StringVar(&spec.name, "name", "", "the image's `name:tag`")
	flag.Func("entrypoint", "the `path` in the image that is started, and its arguments by further flags (default: the binary)", func(s string) error {
		spec.entrypoint = append(spec.entrypoint, s)
		return nil
	})
	flag.Var(spec.added, "add", "put a further file at a path: `path/in/image=file`; may be repeated")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: image -o ARCHIVE -name NAME:TAG [flags] BINARY")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *out == "" || spec.name == "" || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	spec.binary = flag.Arg(0)
	if err := spec.write(*out); err != nil {
		fmt.Fprintf(os.Stderr, "image: writing %s: %v\n", *out, err)
		os.Exit(1)
	}
}

// added are further files: path in the image → file on disk.
type added map[string]string

func (a added) String() string { return "" }

func (a added) Set(s string) error {
	in, file, ok := strings.Cut(s, "=")
	if !ok || in == "" || file == "" {
		return fmt.Errorf("%q is not path/in/image=file", s)
	}
	in = inImage(in)
	if _, ok := a[in]; ok {
		return fmt.Errorf("%s is added twice", in)
	}
	a[in] = file
	return nil
}

// inImage spells a path as layers do: relative to the root, never above it.
func inImage(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }
