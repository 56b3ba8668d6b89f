// Package front is the sample shop's web server. It answers every request
// with all that it knows of where it runs, so that one request shows whether
// a process is in its pod's context.
package front

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

// Where shop.yaml mounts the ConfigMap and the Secret.
const (
	configFile = "/etc/shop/config.yaml"
	tokenFile  = "/etc/shop-secret/token"
)

// A server answers for one copy of the shop's front.
type server struct {
	copy      string // who answers: "cluster" for the deployed one
	inventory string // URL
	client    *http.Client
}

// Run serves on $PORT, else 8080, until ctx ends.
func Run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("web", flag.ContinueOnError)
	name := flags.String("copy", cmp.Or(os.Getenv("SHOP_COPY"), "local"), "how this copy calls itself in its answers")
	inventory := flags.String("inventory", "http://inventory/", "URL of the inventory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := &server{copy: *name, inventory: *inventory, client: &http.Client{Timeout: 5 * time.Second}}

	// Said at the start too: a program that reads its configuration once must see the pod's.
	a := s.look(ctx)
	log.Printf("web %s on %s: greeting %q, config %q, token %q", a.Copy, a.Host, a.Greeting, a.Config, a.Token)

	l, err := net.Listen("tcp", net.JoinHostPort("", cmp.Or(os.Getenv("PORT"), "8080")))
	if err != nil {
		return err
	}
	log.Printf("web %s listens on %s", a.Copy, l.Addr())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", s.answer)
	return serve(ctx, l, mux)
}

// serve ends within a second of ctx, whatever the clients do.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return srv.Close()
}

func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	a := s.look(r.Context())
	a.Method, a.Path, a.Client = r.Method, r.URL.Path, r.RemoteAddr
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		a.Local = local.String()
	}
	log.Printf("%s %s from %s", r.Method, r.URL.Path, r.RemoteAddr)
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(a); err != nil {
		log.Printf("answering %s: %v", r.RemoteAddr, err)
	}
}
