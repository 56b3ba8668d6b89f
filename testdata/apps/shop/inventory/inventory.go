// Package inventory is the sample shop's back: a web server that lists items
// and says which copy of it did.
package inventory

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

// Run serves on $PORT, else 8080, until ctx ends.
func Run(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	srv := &http.Server{
		Addr: net.JoinHostPort("", cmp.Or(os.Getenv("PORT"), "8080")),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s: 3 apples, 5 pears (asked by %s)\n", host, r.RemoteAddr)
		}),
	}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	log.Printf("inventory %s listens on %s", host, srv.Addr)
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}
