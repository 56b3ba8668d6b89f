// Command probe is a debuggee of the tests: it looks at its world in the ways
// programs do, prints what it saw as one line of JSON, and then serves HTTP
// until it is told to end. probe.js and probe.py do the same in their words.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Seen is what a probe prints.
type Seen struct {
	Language  string   `json:"language"`
	Greeting  string   `json:"greeting"` // a variable of the pod
	Hostname  string   `json:"hostname"`
	Secret    string   `json:"secret"`    // a small file
	Mode      string   `json:"mode"`      // its permissions, octal
	Mapped    string   `json:"mapped"`    // the same, by mmap
	Config    []string `json:"config"`    // a directory's names
	Large     int64    `json:"large"`     // size of a large file by fstat
	LargeHash string   `json:"largeHash"` // its SHA-256, read by mmap where the language has it
	Absent    string   `json:"absent"`    // error of opening what the pod has not
	Address   string   `json:"address"`   // of a name of the cluster
	NoName    string   `json:"noName"`    // error of a name that is none
	Inventory string   `json:"inventory"` // what another service answered
	Refused   string   `json:"refused"`   // error of a connection that the pod's kernel refuses
	Local     string   `json:"local"`     // getsockname of a connection
	Peer      string   `json:"peer"`      // getpeername of it
}

const (
	secret = "/etc/shop-secret/token"
	config = "/etc/shop"
	large  = "/shop"
)

func main() {
	seen := Seen{Language: "go", Greeting: os.Getenv("SHOP_GREETING")}
	seen.Hostname, _ = os.Hostname()
	seen.files()
	seen.network()
	line, _ := json.Marshal(seen)
	fmt.Println(string(line))

	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		fmt.Println("listening:", err)
		os.Exit(1)
	}
	fmt.Println("listening", l.Addr())
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "probe go for %s at %v\n", r.RemoteAddr, r.Context().Value(http.LocalAddrContextKey))
	})}
	go func() { fmt.Println("serving:", server.Serve(l)) }()
	<-end
	fmt.Println("ending")
}

func (s *Seen) files() {
	b, _ := os.ReadFile(secret)
	s.Secret = string(b)
	if f, err := os.Open(secret); err == nil {
		if info, err := f.Stat(); err == nil {
			s.Mode = fmt.Sprintf("%o", info.Mode().Perm())
		}
		s.Mapped = string(mapped(f, len(b)))
		f.Close()
	}
	entries, _ := os.ReadDir(config)
	for _, e := range entries {
		s.Config = append(s.Config, e.Name())
	}
	if f, err := os.Open(large); err == nil {
		if info, err := f.Stat(); err == nil {
			s.Large = info.Size()
			sum := sha256.Sum256(mapped(f, int(s.Large)))
			s.LargeHash = hex.EncodeToString(sum[:])
		}
		f.Close()
	}
	_, err := os.Open("/etc/shop/absent")
	s.Absent = errno(err)
}

func mapped(f *os.File, n int) []byte {
	m, err := syscall.Mmap(int(f.Fd()), 0, n, syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return []byte(err.Error())
	}
	return m
}

func (s *Seen) network() {
	if addrs, err := net.LookupHost("inventory"); err == nil {
		s.Address = strings.Join(addrs, " ")
	}
	_, err := net.LookupHost("none.shop.svc.cluster.local")
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		s.NoName = "ENOTFOUND"
	} else {
		s.NoName = fmt.Sprint(err)
	}
	if r, err := http.Get("http://inventory/"); err == nil {
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		s.Inventory = string(b)
	} else {
		s.Inventory = err.Error()
	}
	_, err = net.Dial("tcp", net.JoinHostPort(os.Getenv("PROBE_REFUSED"), "9"))
	s.Refused = errno(err)
	if c, err := net.Dial("tcp", "inventory:80"); err == nil {
		s.Local, s.Peer = c.LocalAddr().String(), c.RemoteAddr().String()
		c.Close()
	}
}

func errno(err error) string {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		switch no {
		case syscall.ENOENT:
			return "ENOENT"
		case syscall.ECONNREFUSED:
			return "ECONNREFUSED"
		}
	}
	return fmt.Sprint(err)
}
