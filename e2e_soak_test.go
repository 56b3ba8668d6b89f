package mirrord_test

import (
	"os"
	"testing"
	"time"
)

// A session that nobody used for a long time works as at first.
func TestSoak(t *testing.T) {
	const variable = "MIRRORD_TEST_SOAK"
	if os.Getenv(variable) == "" {
		t.Skip("takes as long as " + variable + " says, such as 10m; `go test` itself ends after 10m unless -timeout says otherwise")
	}
	idle, err := time.ParseDuration(os.Getenv(variable))
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	namespace, address := ownShop(t)
	ownDaemon(t)
	w, l := stealing(t, namespace, address)
	l.end()
	session := sessions(t)
	select {
	case <-time.After(idle):
	case line, ok := <-w.lines:
		t.Fatalf("the debuggee says %q, or has ended: %v; %s", line, !ok, w.errors())
	}
	began := time.Now()
	w.wants("HTTP/1.0 200 OK", "ask") // on the connection of before
	w.wants("4096", "more 5000000")   // of the file of before
	w.wants("100", "open /shop")
	w.wants("connected", "dial %s 8080", podIP(t, namespace, "client"))
	w.wants("HTTP/1.0 200 OK", "ask")
	took := time.Since(began)
	again := loadFrom(t, namespace, "client", address)
	again.until(100, fromDebuggee)
	all := again.end()
	if failed := failures(all); len(failed) > 0 {
		t.Errorf("%d requests failed, the first: %v", len(failed), failed[0].err)
	}
	if now := sessions(t); len(now) != 1 || now[0][0] != session[0][0] {
		t.Errorf("the sessions are %v, they were %v", now, session)
	}
	w.finish()
	report(t, "nothing: a session idle for "+idle.String(), "open connections and files, new ones, the stolen port",
		"five operations took %v; %s", round(took), tally(all))
}
