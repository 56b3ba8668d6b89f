package front

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAnswer(t *testing.T) {
	t.Setenv("SHOP_GREETING", "hello")
	stock := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "inventory-1: 3 apples\n")
	}))
	defer stock.Close()
	s := &server{copy: "test", inventory: stock.URL, client: stock.Client()}
	w := httptest.NewRecorder()
	s.answer(w, httptest.NewRequest("GET", "/cart", nil))

	var got Answer
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Copy != "test" || got.Greeting != "hello" || got.Inventory != "inventory-1: 3 apples" || got.Path != "/cart" {
		t.Errorf("got %+v", got)
	}
	if !strings.Contains(got.Token, "error: ") {
		t.Errorf("token is %q outside of a pod, want an error", got.Token)
	}
}

func TestNoInventory(t *testing.T) {
	s := &server{inventory: "http://127.0.0.1:1/", client: http.DefaultClient}
	if got := s.look(context.Background()).Inventory; !strings.Contains(got, "connection refused") {
		t.Errorf("inventory is %q, want a refused connection", got)
	}
}
