// Command shop answers as the sample shop's web does, in its place.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

type answer struct {
	Copy     string `json:"copy"`
	Host     string `json:"host"`
	Greeting string `json:"greeting"`
	Config   string `json:"config"`
	Path     string `json:"path"`
}

func answerTo(path string) answer {
	greeting := os.Getenv("SHOP_GREETING")
	host, _ := os.Hostname()
	config, err := os.ReadFile("/etc/shop/config.yaml")
	if err != nil {
		config = []byte(err.Error())
	}
	return answer{Copy: "go", Host: host, Greeting: greeting, Config: strings.TrimSpace(string(config)), Path: path}
}

func main() {
	a := answerTo("/")
	fmt.Printf("shop go on %s: %s\n", a.Host, a.Greeting)
	if len(os.Args) > 1 && os.Args[1] == "once" {
		return
	}
	l, err := net.Listen("tcp", ":"+port())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("shop go listens")
	log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := answerTo(r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(a) // the breakpoint of the tests
	})))
}

func port() string {
	if p := os.Getenv("PORT"); p != "" {
		return p
	}
	return "8080"
}
