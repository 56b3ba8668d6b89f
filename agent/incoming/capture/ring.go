// Package capture sees what TCP brings to ports of this network namespace,
// without standing in its way: packets are copied by the kernel to a ring, and
// what finds no room there is lost to us alone.
//
//	kernel ─ filter ─▶ Ring ─▶ Segment ─▶ Assembly ─▶ the bytes as their receiver has them
package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ring's size. A block is handed over when it is full, or after a while.
const (
	blockSize  = 512 << 10 // several times the biggest segment
	blocks     = 32
	blockDelay = 10 // milliseconds
)

// Offsets in struct tpacket_block_desc, whose tpacket_hdr_v1 begins at 8, in
// struct tpacket3_hdr, and in the struct sockaddr_ll after it (linux/if_packet.h).
const (
	blockStatus  = 8
	blockPackets = 12
	blockFirst   = 16

	packetNext    = 0
	packetCaught  = 12
	packetNetwork = 26

	packetAddress = 48
	addressType   = packetAddress + 10
)

// A Ring is the packets of all interfaces for and, where they reset, from
// chosen ports. One goroutine reads it.
type Ring struct {
	file *os.File
	mem  []byte
	read uint64 // blocks

	interrupted atomic.Bool
}

// Open makes a ring of no port. It needs CAP_NET_RAW.
func Open() (*Ring, error) {
	// Protocol 0: nothing is captured before there is a filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if err == unix.EPERM {
			err = fmt.Errorf("%w (it needs CAP_NET_RAW)", err)
		}
		return nil, fmt.Errorf("making packet socket: %w", err)
	}
	r := &Ring{file: os.NewFile(uintptr(fd), "packets")}
	if err := r.setup(fd); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Ring) setup(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("choosing TPACKET_V3: %w", err)
	}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
		Block_size: blockSize, Block_nr: blocks,
		Frame_size: blockSize, Frame_nr: blocks, // of no meaning in version 3, but checked
		Retire_blk_tov: blockDelay,
	}); err != nil {
		return fmt.Errorf("making packet ring: %w", err)
	}
	var err error
	if r.mem, err = unix.Mmap(fd, 0, blockSize*blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("mapping packet ring: %w", err)
	}
	if err := r.Watch(nil); err != nil {
		return err
	}
	all := uint16(unix.ETH_P_ALL)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8}); err != nil { // network order
		return fmt.Errorf("binding packet socket: %w", err)
	}
	return nil
}

// Watch chooses the ports.
func (r *Ring) Watch(ports []uint16) error {
	prog, err := assemble(filter(ports))
	if err != nil {
		return fmt.Errorf("assembling filter for %d ports: %w", len(ports), err)
	}
	return r.control(func(fd int) error {
		err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
		if err != nil {
			return fmt.Errorf("attaching filter for %d ports: %w", len(ports), err)
		}
		return nil
	})
}

func (r *Ring) control(do func(fd int) error) error {
	raw, err := r.file.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	return errors.Join(raw.Control(func(fd uintptr) { done = do(int(fd)) }), done)
}

// Read waits until packets came, at most until the deadline, and gives each
// TCP segment to f, which must not keep it. os.ErrDeadlineExceeded: none came.
// os.ErrClosed: the ring was interrupted.
func (r *Ring) Read(deadline time.Time, f func(Segment)) error {
	if err := r.file.SetReadDeadline(deadline); err != nil {
		return err
	}
	if r.interrupted.Load() { // not before, lest its deadline be overwritten
		return os.ErrClosed
	}
	raw, err := r.file.SyscallConn()
	if err != nil {
		return err
	}
	block, status := r.next()
	err = raw.Read(func(fd uintptr) bool {
		return atomic.LoadUint32(status)&unix.TP_STATUS_USER != 0
	})
	if err != nil {
		return err
	}
	r.read++
	defer atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
	at := field(block, blockFirst)
	for range field(block, blockPackets) {
		packet := block[at:]
		network := int(binary.NativeEndian.Uint16(packet[packetNetwork:]))
		if s, ok := parse(packet[network:][:field(packet, packetCaught)]); ok {
			s.Outgoing = packet[addressType] == unix.PACKET_OUTGOING
			f(s)
		}
		at += field(packet, packetNext)
	}
	return nil
}

// next is the block to be read, and its status. The kernel writes that, and we give the
// block back by it: it orders all the rest.
func (r *Ring) next() (block []byte, status *uint32) {
	block = r.mem[r.read%blocks*blockSize:][:blockSize]
	return block, (*uint32)(unsafe.Pointer(&block[blockStatus]))
}

// Mark is for Passed. It is never 0.
func (r *Ring) Mark() uint64 { return r.read + blocks }

// Passed reports whether all that came before a mark was read; it is to be asked
// blockDelay after it at the earliest.
func (r *Ring) Passed(mark uint64) bool {
	_, status := r.next()
	return r.read >= mark || atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0
}

func field(b []byte, offset int) int { return int(binary.NativeEndian.Uint32(b[offset:])) }

// Drops is how many packets found no room since it was last asked.
func (r *Ring) Drops() (n int, err error) {
	err = r.control(func(fd int) error {
		stats, err := unix.GetsockoptTpacketStatsV3(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return fmt.Errorf("asking for packets dropped: %w", err)
		}
		n = int(stats.Drops)
		return nil
	})
	return n, err
}

// Interrupt ends Read, for good.
func (r *Ring) Interrupt() {
	r.interrupted.Store(true)
	_ = r.file.SetReadDeadline(time.Unix(1, 0))
}

// Close gives the ring back. Nobody may be reading it.
func (r *Ring) Close() error {
	var err error
	if r.mem != nil {
		err = unix.Munmap(r.mem)
		r.mem = nil
	}
	return errors.Join(err, r.file.Close())
}
