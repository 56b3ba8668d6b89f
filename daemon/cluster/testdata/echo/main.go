// Command echo stands where the agent will: it listens on its pod's loopback
// and sends back what it reads. The tests make it misbehave.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7000", "")
	crash := flag.String("crash", "", "say this and exit with 3")
	flag.Parse()
	if *crash != "" {
		fmt.Fprintln(os.Stderr, *crash)
		os.Exit(3)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn)
	}
}

// serve obeys the first line, then echoes: "crash" and "exit" end the program,
// "flood" sends without end, anything else is echoed too.
func serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	switch strings.TrimSpace(line) {
	case "crash":
		fmt.Fprintln(os.Stderr, "told to crash")
		os.Exit(3)
	case "exit":
		os.Exit(0)
	case "flood":
		block := make([]byte, 64<<10)
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}
	if _, err := io.WriteString(conn, line); err != nil {
		return
	}
	io.Copy(conn, r) //nolint:errcheck // the peer's end
}
