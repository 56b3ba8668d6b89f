package files

import (
	"bytes"
	"context"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// A file that is open grows for its reader, without a byte that is not the
// file's, however its end lies in a page or block; and what is written over, too.
func TestGrowingFile(t *testing.T) {
	d := newDisk(t)
	s := serveDisk(t, d)
	for _, size := range []int{100_001, 1 << 17, 3*blockSize + 5} {
		path := t.TempDir() + "/log"
		want := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		f := mustOpen(t, s, d.add(t, path))
		got := readMore(t, f, size)
		for i := range 3 {
			more := bytes.Repeat([]byte{byte('A' + i)}, []int{7, 5000, 200_000}[i])
			log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := log.Write(more); err != nil {
				t.Fatal(err)
			}
			log.Close()
			want = append(want, more...)
			got = append(got, readMore(t, f, len(more))...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("of a file of %d bytes that grew to %d: read %d bytes, and others", size, len(want), len(got))
		}
		copy(want, "written over")
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		again := make([]byte, len(want))
		for end := time.Now().Add(10 * time.Second); !bytes.Equal(again, want); time.Sleep(10 * time.Millisecond) {
			if _, err := f.ReadAt(again, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Stat(); err != nil { // as readers do; it is when the kernel asks
				t.Fatal(err)
			}
			if time.Now().After(end) {
				t.Fatalf("what was written over is not seen: %q", again[:20])
			}
		}
		f.Close()
	}
}

// readMore reads until n bytes have come.
func readMore(t *testing.T, f *os.File, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	end := time.Now().Add(10 * time.Second)
	for have := 0; have < n; {
		got, _ := f.Read(b[have:])
		if have += got; got == 0 {
			if time.Now().After(end) {
				t.Fatalf("%d of %d bytes came", have, n)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return b
}

// limited limits what is read ahead.
type limited struct {
	*disk
	most int64
	read atomic.Int64 // bytes that were asked for
}

func (l *limited) Ahead(uint64) (int64, bool) { return l.most, true }

func (l *limited) Read(ctx context.Context, node uint64, p []byte, off int64) (int, error) {
	l.read.Add(int64(len(p)))
	return l.disk.Read(ctx, node, p, off)
}

// No more is fetched ahead of a reader than may be.
func TestReadAheadLimit(t *testing.T) {
	path, _ := bigFile(t, 16<<20)
	for most, limit := range map[int64]int64{0: 1 << 20, 100_000: 2 << 20} {
		d := &limited{disk: newDisk(t), most: most}
		f := mustOpen(t, serveDisk(t, d), d.add(t, path))
		for range 8 { // in order, which is when a reader is read ahead of
			if _, err := io.ReadFull(f, make([]byte, 64<<10)); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		if got := d.read.Load(); got > limit {
			t.Errorf("with %d bytes ahead: %d were fetched for %d", most, got, 8*64<<10)
		}
	}
}
