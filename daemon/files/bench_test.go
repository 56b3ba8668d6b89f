package files

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"
)

// BenchmarkSequential reads a file from its beginning to its end through a
// fresh node (nothing in the page cache but on the Source's side) and locally.
func BenchmarkSequential(b *testing.B) {
	const size = 256 << 20
	path, _ := bigFile(b, size)
	d := newDisk(b)
	s := serveDisk(b, d)
	for _, chunk := range []int{4 << 10, 64 << 10, 1 << 20} {
		buf := make([]byte, chunk)
		read := func(b *testing.B, open func() *os.File) {
			b.SetBytes(size)
			for b.Loop() {
				f := open()
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
				if n != size || err != nil {
					b.Fatal(n, err)
				}
				f.Close()
			}
		}
		b.Run(fmt.Sprintf("node/%dKiB", chunk>>10), func(b *testing.B) {
			read(b, func() *os.File { return mustOpen(b, s, d.add(b, path)) })
		})
		b.Run(fmt.Sprintf("local/%dKiB", chunk>>10), func(b *testing.B) {
			read(b, func() *os.File {
				f, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				return f
			})
		})
	}
}

// BenchmarkLatency reads sequentially what each request takes 20 ms for.
func BenchmarkLatency(b *testing.B) {
	const size = 64 << 20
	path, _ := bigFile(b, size)
	d := newDisk(b)
	s := serveDisk(b, &far{d})
	buf := make([]byte, 64<<10)
	b.SetBytes(size)
	for b.Loop() {
		f := mustOpen(b, s, d.add(b, path))
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf); n != size || err != nil {
			b.Fatal(n, err)
		}
		f.Close()
	}
}

type far struct{ *disk }

func (f *far) Read(ctx context.Context, node uint64, p []byte, off int64) (int, error) {
	<-time.After(20 * time.Millisecond)
	return f.disk.Read(ctx, node, p, off)
}

// BenchmarkOpen opens, reads 2 KiB and closes.
func BenchmarkOpen(b *testing.B) {
	path, _ := bigFile(b, 2<<10)
	d := newDisk(b)
	s := serveDisk(b, d)
	node := d.add(b, path)
	buf := make([]byte, 4<<10)
	for b.Loop() {
		f, err := open(s, node, os.O_RDONLY)
		if err != nil {
			b.Fatal(err)
		}
		f.Read(buf)
		f.Close()
		<-d.released
	}
}
