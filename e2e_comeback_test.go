package mirrord_test

import (
	"testing"
	"time"
)

// When the daemon is killed the debuggee lives on: what was open ends by
// ECONNRESET and EIO, and another daemon has its session at once: the report tells
// when.
func TestDaemonKilledUnderLoad(t *testing.T) {
	namespace, address := ownShop(t)
	dir := ownDaemon(t)
	w, l := stealing(t, namespace, address)
	session := sessions(t)
	_, killed := killDaemon(t, dir)
	w.wants("ECONNRESET", "wait")
	w.wants("EIO", "more 5000000")
	w.wants("100", "open /shop")
	w.wants("4096", "more 5000000")
	w.wants("connected", "dial %s 8080", podIP(t, namespace, "client"))
	w.wants("HTTP/1.0 200 OK", "ask")
	took := time.Since(killed)
	l.until(100, fromDebuggee)
	stolen := time.Since(killed)
	cost := l.brief(killed, 200*time.Millisecond)
	if now := sessions(t); len(now) != 1 || now[0][0] != session[0][0] {
		t.Errorf("the sessions are %v, they were %v", now, session)
	}
	if o := run(t, "exec", "--session", session[0][0], "--", "printenv", "KUBERNETES_SERVICE_HOST"); o.code != 0 || o.stdout == "" {
		t.Errorf("the pod's environment: exit code %d, %q; %s", o.code, o.stdout, o.stderr)
	}
	w.finish()
	report(t, "daemon killed", "the debuggee and its session: a daemon is started at once; open connections end by ECONNRESET, open files by EIO",
		"new operations work after %v, the port is stolen again after %v; %s", round(took), round(stolen), cost)
}
