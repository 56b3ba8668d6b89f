// Command server asks itself for something, in the HTTP that its argument names:
// three times on one connection.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
)

// answer is the handler: in HTTP/1, or in HTTP/2 on some stream.
func answer(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, r.RemoteAddr) // mark: serves
}

func main() {
	var proto http.Protocols
	proto.SetHTTP1(os.Args[1] == "HTTP/1")
	proto.SetUnencryptedHTTP2(os.Args[1] == "HTTP/2")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(answer), Protocols: &proto}
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	client := &http.Client{Transport: &http.Transport{Protocols: &proto}}
	for range 3 {
		r, err := client.Get("http://" + l.Addr().String())
		if err != nil {
			panic(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		fmt.Printf("answer %s %v\n", b, err)
	}
	fmt.Println("nobody asks") // mark: nobody
	s.Close()
	served.Wait()
}
