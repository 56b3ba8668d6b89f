// Command pulse counts in /data/count, some 100 times a second, and serves port 8080:
// HTTP, and gRPC's health service. With an argument it does nothing, as a probe.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		return
	}
	fmt.Println("error:", run())
	os.Exit(1)
}

// run counts for as long as it can.
func run() error {
	if err := os.MkdirAll("/data", 0o755); err != nil {
		return err
	}
	s := &http.Server{Addr: ":8080", Protocols: new(http.Protocols), Handler: http.HandlerFunc(answer)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.ListenAndServe() }()
	for n := 0; ; n++ {
		if err := os.WriteFile("/data/next", []byte(strconv.Itoa(n)), 0o644); err != nil {
			return err
		}
		if err := os.Rename("/data/next", "/data/count"); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/grpc.health.v1.Health/Check" {
		fmt.Fprint(w, "the pod")
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, 1}) // status: SERVING
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
}
