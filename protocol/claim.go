package protocol

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// claimed stands where a chunk's length does.
const claimed = 1<<32 - 1

// maxFirst is more than a connection's first chunks.
const maxFirst = 64 << 10

// Claimed is the agent's answer to IncomingReply.Claims.
func Claimed() []byte { return binary.BigEndian.AppendUint32(nil, claimed) }

// ReadClaimed reads that answer, before which a connection's first chunks may come. had
// is what was read already; all but the answer is returned.
func ReadClaimed(r io.Reader, had []byte) (chunks []byte, err error) {
	for at := 0; at < maxFirst; {
		if missing := at + ChunkHead - len(had); missing > 0 {
			n := len(had)
			had = slices.Grow(had, missing)[:n+missing]
			if n, err := io.ReadFull(r, had[n:]); err != nil {
				return had[:len(had)-missing+n], err
			}
		}
		n := binary.BigEndian.Uint32(had[at:])
		if n == claimed {
			return slices.Delete(had, at, at+ChunkHead), nil
		}
		at += ChunkHead + int(n)
	}
	return had, fmt.Errorf("more than %d bytes came before the answer: %w", maxFirst, ErrFrameSize)
}
