package get

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestGet(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintln(w, r.Header.Get("User"))
	}))
	defer s.Close()
	var out bytes.Buffer
	if err := Run(t.Context(), []string{"-n", "2", "-H", "User: ann", s.URL}, &out); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "ann\nann\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, bad := range [][]string{nil, {"-H", "User", s.URL}, {s.URL + "/none"}, {"http://127.0.0.1:1"}} {
		if err := Run(t.Context(), bad, &out); err == nil {
			t.Errorf("%s: no error", strings.Join(bad, " "))
		}
	}
}
