package protocol

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// granted stands where a chunk's length does.
const granted = 1<<32 - 1

// MaxFirst is more than a connection's first chunks, which may come before an answer.
const MaxFirst = 64 << 10

// Granted is the agent's answer to IncomingReply.Asks.
func Granted() []byte { return binary.BigEndian.AppendUint32(nil, granted) }

// ReadGranted reads that answer, before which a connection's first chunks may come. had
// is what was read already; all but the answer is returned.
func ReadGranted(r io.Reader, had []byte) (chunks []byte, err error) {
	for at := 0; at < MaxFirst; {
		if missing := at + ChunkHead - len(had); missing > 0 {
			n := len(had)
			had = slices.Grow(had, missing)[:n+missing]
			if n, err := io.ReadFull(r, had[n:]); err != nil {
				return had[:len(had)-missing+n], err
			}
		}
		n := binary.BigEndian.Uint32(had[at:])
		if n == granted {
			return slices.Delete(had, at, at+ChunkHead), nil
		}
		at += ChunkHead + int(n)
	}
	return had, fmt.Errorf("more than %d bytes came before the answer: %w", MaxFirst, ErrFrameSize)
}
