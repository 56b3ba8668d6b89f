// Command mover is a debuggee of the tests: it gets and sends so many bytes of
// counted words at the same time, and meanwhile asks for one file after the
// other, none of which is there nor was ever asked for.
//
//	mover ADDRESS BYTES
//
// It prints when each question began and ended, in nanoseconds of the clock,
// and how the transfers ended.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"mirrord/testdata/apps/mover/words"
)

// The first byte of a connection says what the server is to do.
const (
	send    = 's'
	receive = 'r' // and answer a byte when all has come
)

// pace is the time between two questions.
const pace = time.Millisecond

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: mover ADDRESS BYTES")
		os.Exit(2)
	}
	addr := os.Args[1]
	size, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mover:", err)
		os.Exit(2)
	}
	done := make(chan struct{})
	var asking, moving sync.WaitGroup
	asking.Go(func() { ask(done) })
	moving.Go(func() { fmt.Println("down:", result(down(addr, size))) })
	moving.Go(func() { fmt.Println("up:", result(up(addr, size))) })
	moving.Wait()
	close(done)
	asking.Wait()
}

func result(err error) string {
	if err != nil {
		return err.Error()
	}
	return "whole"
}

func dial(addr string, what byte) (*net.TCPConn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{what})
	return c.(*net.TCPConn), err
}

func down(addr string, size int64) error {
	c, err := dial(addr, send)
	if err != nil {
		return err
	}
	defer c.Close()
	if n, err := io.Copy(new(words.Sink), c); err != nil || n != size {
		return fmt.Errorf("%d bytes came: %v", n, err)
	}
	return nil
}

func up(addr string, size int64) error {
	c, err := dial(addr, receive)
	if err != nil {
		return err
	}
	defer c.Close()
	if n, err := io.CopyN(c, new(words.Source), size); err != nil {
		return fmt.Errorf("%d bytes sent: %v", n, err)
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

func ask(done <-chan struct{}) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		began := time.Now()
		_, err := os.Stat("/unasked-" + strconv.Itoa(i))
		if ended := time.Now(); errors.Is(err, fs.ErrNotExist) {
			fmt.Println("asked", began.UnixNano(), ended.UnixNano())
		} else {
			fmt.Println("question failed:", err)
		}
	}
}
