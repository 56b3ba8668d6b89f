package mirrord_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// states of /proc/net/tcp.
const (
	timeWait = "06"
	listen   = "0A"
)

// A sock is a line of /proc/net/tcp.
type sock struct{ local, remote, state, inode string } // addresses as the kernel writes them

// socksOf lists the TCP sockets in the network of a process.
func socksOf(t *testing.T, pid int) (all []sock) {
	t.Helper()
	for _, file := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] != "sl" {
				all = append(all, sock{f[1], f[2], f[3], f[9]})
			}
		}
	}
	return all
}

// descriptors lists what a process has open.
func descriptors(t *testing.T, pid int) (all []string) {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(names) == 0 {
		t.Fatalf("process %d has no descriptors: %v", pid, err)
	}
	for _, name := range names {
		if what, err := os.Readlink(name); err == nil {
			all = append(all, what)
		}
	}
	slices.Sort(all)
	return all
}

// atEndpoints lists the sockets of both ends of a daemon's endpoints, by the
// far end's address and port.
func atEndpoints(t *testing.T, daemon int) (open int, waiting map[string]int) {
	t.Helper()
	ours := map[string]bool{} // ports
	all, mine := socksOf(t, daemon), descriptors(t, daemon)
	for _, s := range all {
		if s.state == listen && slices.Contains(mine, "socket:["+s.inode+"]") {
			ours[port(s.local)] = true
		}
	}
	if len(ours) == 0 {
		t.Fatal("the daemon has no endpoint")
	}
	waiting = map[string]int{}
	for _, s := range all {
		far := s.remote
		if ours[port(s.remote)] {
			far = s.local
		} else if !ours[port(s.local)] {
			continue
		}
		switch s.state {
		case listen:
		case timeWait:
			waiting[strings.TrimSuffix(far, port(far))]++
		default:
			open++
		}
	}
	return open, waiting
}

func port(address string) string { return address[strings.LastIndex(address, ":")+1:] }

// Many connections at once and one after the other, both ways, leave nothing
// behind: no descriptor, no port.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	const many, each = 200, 2000
	namespace, address := ownShop(t)
	dir := ownDaemon(t)
	w, l := stealing(t, namespace, address)
	l.end()
	server := podIP(t, namespace, "client")
	w.wants("HTTP/1.0 200 OK", "many %s 8080 2", server) // whatever stays from the first time on does

	daemons := daemonsIn(t, dir)
	if len(daemons) != 1 {
		t.Fatalf("the daemons are %v", daemons)
	}
	pod := processOf(t, namespace, "web")
	processes := map[string]int{
		"daemon": daemons[0], "launcher": w.cmd.Process.Pid, "agent": processOf(t, namespace, agentPod(t, namespace)), "pod": pod,
	}
	for name, parent := range map[string]int{"file server": daemons[0], "keeper": w.cmd.Process.Pid} {
		if all := childrenOf(t, parent); len(all) == 1 {
			processes[name] = all[0]
		}
	}
	if all := childrenOf(t, processes["keeper"]); len(all) == 1 {
		processes["debuggee"] = all[0]
	}
	// count is what may not have grown.
	count := func() map[string]int {
		n := map[string]int{}
		for name, pid := range processes {
			n["descriptors of "+name] = len(descriptors(t, pid))
		}
		n["sockets at the daemon's endpoints"], _ = atEndpoints(t, daemons[0])
		for _, s := range socksOf(t, pod) {
			if s.state != timeWait {
				n["sockets in the pod"]++
			}
		}
		return n
	}
	before := count()
	for again := count(); !maps.Equal(before, again); again = count() {
		before = again
	}
	_, waited := atEndpoints(t, daemons[0])

	began := time.Now()
	w.wants("HTTP/1.0 200 OK", "many %s 8080 %d", server, many)
	atOnce := time.Since(began)
	began = time.Now()
	w.wants("HTTP/1.0 200 OK", "each %s 8080 %d", server, each)
	inTurn := time.Since(began)
	_, waiting := atEndpoints(t, daemons[0])

	began = time.Now()
	incoming(t, namespace, address, many)
	incomingAtOnce := time.Since(began)
	began = time.Now()
	l = loadAt(t, namespace, "client", address, 0)
	l.until(each, fromDebuggee)
	incomingInTurn := time.Since(began)
	if failed := failures(l.end()); len(failed) > 0 {
		t.Errorf("%d incoming connections failed, the first: %v", len(failed), failed[0].err)
	}
	notMore(t, before, count)

	// The kernel remembers a closed connection for a minute. Ours have many
	// addresses, so that the 28,000 ports of one are no limit.
	most := 0
	for from, n := range waiting {
		most = max(most, n-waited[from])
	}
	if len(waiting) < each/2 || most > each/100 {
		t.Errorf("%d connections had %d source addresses, one of them %d ports", many+each, len(waiting), most)
	}
	w.finish()
	report(t, fmt.Sprintf("nothing: %d connections at once, then %d opened and closed, each way", many, each), "all are answered; no descriptor and no socket is left",
		"outgoing %v and %.0f/s, at most %d ports of one source address; incoming %v and %.0f/s",
		round(atOnce), each/inTurn.Seconds(), most, round(incomingAtOnce), each/incomingInTurn.Seconds())
}

// notMore waits until nothing counted is more than before.
func notMore(t *testing.T, before map[string]int, count func() map[string]int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var more []string
		for what, n := range count() {
			if n > before[what] {
				more = append(more, fmt.Sprintf("%s: %d, before %d", what, n, before[what]))
			}
		}
		if len(more) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %s", strings.Join(more, "; "))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// incoming opens n connections to the target from pod client, then asks on all
// of them, then reads the answers.
func incoming(t *testing.T, namespace, address string, n int) {
	t.Helper()
	all := make([]net.Conn, n)
	err := inNetwork(t, namespace, "client", func() (err error) {
		for i := range all {
			if all[i], err = net.DialTimeout("tcp", address, patience); err != nil {
				return err
			}
			all[i].SetDeadline(time.Now().Add(patience))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		defer c.Close()
		if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range all {
		body, err := io.ReadAll(bufio.NewReader(c))
		if err != nil || !strings.Contains(string(body), fromDebuggee) {
			t.Fatalf("connection %d was answered %q, %v", i, body, err)
		}
	}
}
