// Command witness is a debuggee of the tests in as many languages as there are:
// it says what it sees of its world, line by line, then serves one HTTP request
// and ends. Its arguments are the port to listen on and the name of a service.
//
//	env VALUE           of SHOP_GREETING
//	file LINE           the first of /etc/shop/config.yaml
//	name ADDRESS        of the service
//	http STATUS PEER    of its port 80
//	listening
//	client ADDRESS:PORT
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run(port, service string) error {
	fmt.Println("env", os.Getenv("SHOP_GREETING"))
	f, err := os.Open("/etc/shop/config.yaml")
	if err != nil {
		return err
	}
	line := bufio.NewScanner(f)
	line.Scan()
	fmt.Println("file", line.Text())
	f.Close()
	addrs, err := net.LookupHost(service)
	if err != nil {
		return err
	}
	fmt.Println("name", addrs[0])
	q, err := http.NewRequest("GET", "http://"+service+"/", nil)
	if err != nil {
		return err
	}
	var peer net.Addr
	trace := httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { peer = c.Conn.RemoteAddr() }}
	r, err := http.DefaultClient.Do(q.WithContext(httptrace.WithClientTrace(q.Context(), &trace)))
	if err != nil {
		return err
	}
	r.Body.Close()
	fmt.Println("http", r.StatusCode, peer)

	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("client", c.RemoteAddr())
	if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
		return err
	}
	_, err = fmt.Fprint(c, "HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\nwitness\n")
	return err
}
