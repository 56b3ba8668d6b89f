// Command streams serves HTTP/1 and HTTP/2 without TLS at port 8080, or with it at
// 8443: it says which paths it hears, and gives each body back while it comes, its own
// name in a field before and in a trailer after. It also takes WebSockets, and with
// greet it speaks first at port 8025.
//
//	streams NAME [greet | CERTIFICATE KEY]
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	if err := serve(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func serve(name string, files []string) error {
	address := ":8080"
	if len(files) == 1 {
		files = nil
		l, err := net.Listen("tcp", ":8025")
		if err != nil {
			return err
		}
		go greet(l, name)
	}
	if len(files) > 0 {
		address = ":8443"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("heard", r.URL.Path)
		if r.Header.Get("Upgrade") == "websocket" {
			if err := webSocket(w, r, name); err != nil {
				fmt.Println("error:", err)
			}
			return
		}
		w.Header().Set("X-Name", name)
		w.Header().Set("Trailer", "X-End")
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		_ = c.Flush()
		_, _ = io.Copy(flushing{w, c}, r.Body)
		w.Header().Set("X-End", name)
	})}
	s.Protocols.SetHTTP1(true)
	if len(files) > 0 {
		s.Protocols.SetHTTP2(true)
		return s.ServeTLS(l, files[0], files[1])
	}
	s.Protocols.SetUnencryptedHTTP2(true)
	return s.Serve(l)
}

// flushing sends what is written at once.
type flushing struct {
	io.Writer
	c *http.ResponseController
}

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.Writer.Write(b)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}
