// Command stops gives a debugger something to stop at, again and again. With an
// address it has another goroutine that connects there all the while.
package main

import (
	"net"
	"os"
)

func main() {
	if len(os.Args) > 1 {
		go connect(os.Args[1])
	}
	for i := 0; ; i++ {
		stop(i)
	}
}

//go:noinline
func stop(i int) int {
	return i + 1 // here
}

func connect(addr string) {
	for {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
		}
	}
}
