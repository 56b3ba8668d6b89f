// Command web is a debuggee: it asks another service, then serves one request
// and says what it saw of the world. Its argument is the port.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(port string) error {
	config, err := os.ReadFile("/etc/shop/config.yaml")
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	r, err := http.Get("http://web.shop/")
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	fmt.Printf("%s%s\n%s\n", config, host, body)
	_, err = net.LookupHost("nowhere.shop")
	fmt.Println(err)
	_, err = net.Dial("tcp", "10.96.9.9:81")
	fmt.Println(err)
	entries, err := os.ReadDir("/app/dir")
	if err != nil {
		return err
	}
	fmt.Println(len(entries))

	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	srv := http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Println("served", r.RemoteAddr, r.Context().Value(http.LocalAddrContextKey).(net.Addr).String() == net.JoinHostPort("10.244.0.99", os.Args[1]))
		_, _ = io.WriteString(rw, "from the debuggee")
		close(done)
	})}
	go srv.Serve(l)
	<-done
	return srv.Shutdown(context.Background()) // the answer goes first
}
