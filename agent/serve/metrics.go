package serve

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"mirrord/protocol"
)

// scrapeTime bounds one request for metrics.
const scrapeTime = 10 * time.Second

// Metrics serves what Prometheus asks for at /metrics, until l is closed.
func (s *Server) Metrics(l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(s.metrics())
	})
	srv := &http.Server{Handler: mux, ReadTimeout: scrapeTime, WriteTimeout: scrapeTime}
	_ = srv.Serve(l)
}

// metrics are in Prometheus' text format, version 0.0.4.
func (s *Server) metrics() []byte {
	var b bytes.Buffer
	about := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP mirrord_agent_%s %s\n# TYPE mirrord_agent_%[1]s %[3]s\n", name, help, kind)
	}
	value := func(name, labels string, v int64) {
		fmt.Fprintf(&b, "mirrord_agent_%s%s %d\n", name, labels, v)
	}
	one := func(name, kind, help string, v int64) {
		about(name, kind, help)
		value(name, "", v)
	}
	clients, holders := s.holders()
	one("clients", "gauge", "Daemons that use this agent.", int64(clients))
	ports := map[string]int64{}
	for _, h := range holders {
		mode := "steal"
		switch {
		case h.Pause: // of no port
			continue
		case h.Mirror:
			mode = "mirror"
		case h.Filter != "":
			mode = "filter"
		}
		ports[mode]++
	}
	about("ports", "gauge", "Ports held, once for each holder.")
	for _, mode := range []string{"steal", "filter", "mirror"} {
		value("ports", fmt.Sprintf("{mode=%q}", mode), ports[mode])
	}
	if s.incoming != nil {
		c := &s.incoming.Counts
		one("connections_open", "gauge", "Incoming connections, and copies of such, that are open.", c.Open.Load())
		about("connections_total", "counter", "Incoming connections that have ended, by who served them; of mirrored ones, copies.")
		value("connections_total", `{served="holder"}`, c.Stolen.Load())
		value("connections_total", `{served="pod"}`, c.Passed.Load())
		value("connections_total", `{served="copy"}`, c.Mirrored.Load())
		about("requests_total", "counter", "Requests on filtered ports, by who got them.")
		value("requests_total", `{served="holder"}`, c.RequestsStolen.Load())
		value("requests_total", `{served="pod"}`, c.RequestsPassed.Load())
		about("bytes_total", "counter", "Bytes of incoming connections that have ended.")
		value("bytes_total", `{direction="in"}`, c.BytesIn.Load())
		value("bytes_total", `{direction="out"}`, c.BytesOut.Load())
	}
	about("streams_total", "counter", "Operations that clients have begun, by kind.")
	for kind := range s.streams {
		if n := s.streams[kind].Load(); n > 0 {
			value("streams_total", fmt.Sprintf("{kind=%q}", protocol.Kind(kind)), n)
		}
	}
	one("goroutines", "gauge", "Goroutines of the agent.", int64(runtime.NumGoroutine()))
	one("resident_memory_bytes", "gauge", "Memory of the agent.", resident())
	return b.Bytes()
}

// resident is this process's memory in bytes: proc_pid_statm(5).
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	var size, pages int64
	if _, scan := fmt.Sscan(string(text), &size, &pages); err != nil || scan != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
