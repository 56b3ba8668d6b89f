package front

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// maxInventory bounds what is read of the inventory's answer.
const maxInventory = 1 << 20

// An Answer is what web says to each request. What cannot be had is told as
// an error in its place.
type Answer struct {
	Copy      string `json:"copy"`
	Host      string `json:"host"`
	Pid       int    `json:"pid"`
	Greeting  string `json:"greeting"` // SHOP_GREETING, from the ConfigMap
	Config    string `json:"config"`   // the mounted ConfigMap's file
	TokenEnv  string `json:"tokenEnv"` // SHOP_TOKEN, from the Secret
	Token     string `json:"token"`    // the mounted Secret's file; a sample's is no secret
	Inventory string `json:"inventory"`
	Method    string `json:"method,omitempty"`
	Path      string `json:"path,omitempty"`
	Client    string `json:"client,omitempty"` // as the listening socket saw it
	Local     string `json:"local,omitempty"`
}

func (s *server) look(ctx context.Context) Answer {
	host, err := os.Hostname()
	return Answer{
		Copy:      s.copy,
		Host:      or(host, err),
		Pid:       os.Getpid(),
		Greeting:  os.Getenv("SHOP_GREETING"),
		TokenEnv:  os.Getenv("SHOP_TOKEN"),
		Config:    or(read(configFile)),
		Token:     or(read(tokenFile)),
		Inventory: or(s.stock(ctx)),
	}
}

func read(file string) (string, error) {
	b, err := os.ReadFile(file)
	return string(b), err
}

// stock asks the inventory, over a new connection so that both copies take turns.
func (s *server) stock(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.inventory, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxInventory))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", s.inventory, resp.Status, b)
	}
	return string(b), err
}

func or(s string, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return strings.TrimSpace(s)
}
