package mirrord_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mirrord/daemon/debug/debugtest"
)

// A gdb is one that an editor speaks to by its machine interface (MI).
type gdb struct {
	*debuggee
	in     io.Writer
	last   int
	pid    int      // the debuggee's
	stops  []string // records of stops not asked for yet
	prints []string // lines that are no records: the debuggee's, and gdb's shell's
}

// startGDB starts gdb on a program that has debug information, in the place of
// the shop's web.
func startGDB(t *testing.T, program string) *gdb {
	t.Helper()
	cmd := mirrord(t, "exec", "--kubeconfig", kubeconfig, "-n", "shop", "-t", "deployment/web", "--steal", "--debugger", "--",
		"gdb", "-nx", "-q", "--interpreter=mi2", "-iex", "set debuginfod enabled off", program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &gdb{debuggee: started(t, cmd, nil), in: in}
}

// next reads a line, and keeps it where it is no result.
func (g *gdb) next(why string) (result string) {
	g.t.Helper()
	select {
	case line, ok := <-g.lines:
		switch {
		case !ok:
			g.t.Fatalf("%s: gdb has ended", why)
		case strings.HasPrefix(line, "*stopped"):
			g.stops = append(g.stops, line)
		case strings.HasPrefix(line, "=thread-group-started"):
			_, rest, _ := strings.Cut(line, `pid="`)
			text, _, _ := strings.Cut(rest, `"`)
			var err error
			if g.pid, err = strconv.Atoi(text); err != nil {
				g.t.Fatalf("%s: %v", line, err)
			}
		case line == "" || strings.Contains("~@&=*+(", line[:1]):
		case line[0] >= '0' && line[0] <= '9' && strings.Contains(line, "^"):
			return line
		default:
			g.prints = append(g.prints, line)
		}
	case <-time.After(patience):
		g.t.Fatalf("%s: gdb says nothing more; it printed %q", why, g.prints)
	}
	return ""
}

// do gives a command and returns its result.
func (g *gdb) do(command string) string {
	g.t.Helper()
	g.last++
	if _, err := fmt.Fprintf(g.in, "%d%s\n", g.last, command); err != nil {
		g.t.Fatal(err)
	}
	for {
		result, ok := strings.CutPrefix(g.next(command), strconv.Itoa(g.last)+"^")
		if ok && strings.HasPrefix(result, "error") {
			g.t.Fatalf("%s: %s", command, result)
		}
		if ok {
			return result
		}
	}
}

// stopped waits until the debuggee has stopped for a reason.
func (g *gdb) stopped(reason string) {
	g.t.Helper()
	for len(g.stops) == 0 {
		g.next("waiting for " + reason)
	}
	stop := g.stops[0]
	if g.stops = g.stops[1:]; !strings.Contains(stop, `reason="`+reason+`"`) {
		g.t.Fatalf("it stopped so: %s; want %s", stop, reason)
	}
}

// printed waits for a line that begins with prefix.
func (g *gdb) printed(prefix string) string {
	g.t.Helper()
	for {
		for i, line := range g.prints {
			if strings.HasPrefix(line, prefix) {
				g.prints = g.prints[i+1:]
				return line
			}
		}
		g.next("waiting for " + prefix)
	}
}

func (g *gdb) value(expression, want string) {
	g.t.Helper()
	if got := g.do("-data-evaluate-expression " + strconv.Quote(expression)); !strings.Contains(got, want) {
		g.t.Errorf("%s is %s, want %s", expression, got, want)
	}
}

// cWitness is the C program of testdata/apps/witness with debug information, and
// its source.
func cWitness(t *testing.T) (program, source string) {
	t.Helper()
	for _, tool := range []string{"gdb", "cc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	source, err := filepath.Abs("testdata/apps/witness/witness.c")
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(t.TempDir(), "witness")
	if out, err := exec.Command("cc", "-g", "-O0", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program, source
}

// A developer stops a C program where a request of another pod has reached it,
// looks around, goes on, runs it again and is there again. gdb itself and what it
// starts are on his machine.
func TestGDB(t *testing.T) {
	needCluster(t)
	program, source := cWitness(t)
	_, clientIP := podOf(t, "app=client")
	client := netip.MustParseAddr(clientIP).As4()
	g := startGDB(t, program)
	for _, mark := range []string{`printf("file %s", line)`, `printf("client %s`} {
		g.do(fmt.Sprintf("-break-insert %s:%d", source, debugtest.Mark(t, source, mark)))
	}
	g.do("-exec-arguments 8080 inventory")
	g.do(`-interpreter-exec console "shell test -e /etc/shop || echo not in the pod"`)
	g.printed("not in the pod")
	for _, round := range []string{"first", "again"} {
		g.do("-exec-run")
		g.stopped("breakpoint-hit")
		g.printed("env hello from the cluster")
		g.value("greeting", "hello from the cluster")
		g.value("line", "currency: EUR")
		g.do("-exec-next")
		g.stopped("end-stepping-range")
		g.do("-exec-continue")
		g.printed("http 200 ")
		g.printed("listening")
		// A pause while it waits in accept, as editors make it.
		if err := syscall.Kill(g.pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		g.stopped("signal-received")
		g.do("-exec-continue")
		answers := asking()
		g.stopped("breakpoint-hit")
		// Not show(&peer): gdb 13 cannot call functions on processors of another XSAVE layout.
		g.value("peer.sin_addr.s_addr", strconv.FormatUint(uint64(binary.NativeEndian.Uint32(client[:])), 10))
		if round == "first" { // he has seen enough, and runs it again while the client waits
			continue
		}
		g.do("-exec-continue")
		g.stopped("exited-normally")
		if answer := <-answers; !strings.Contains(answer, "witness") {
			t.Errorf("the Service answered %q", answer)
		}
	}
	g.do("-gdb-exit")
	if code := g.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	podAnswers(t)
}

// kill -9 of gdb while a request of another pod has stopped the debuggee: nothing
// of it is left, and the pod answers again.
func TestGDBKilled(t *testing.T) {
	needCluster(t)
	program, source := cWitness(t)
	g := startGDB(t, program)
	g.do(fmt.Sprintf("-break-insert %s:%d", source, debugtest.Mark(t, source, `printf("client %s`)))
	g.do("-exec-arguments 8080 inventory")
	g.do("-exec-run")
	g.printed("listening")
	answers := asking()
	g.stopped("breakpoint-hit")
	all := descendants(t, g.cmd.Process.Pid)
	if err := syscall.Kill(debuggerOf(t, g.cmd.Process.Pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := g.wait(); code != -int(syscall.SIGKILL) {
		t.Errorf("the launcher ended with %d", code)
	}
	<-answers
	podAnswers(t)
	for _, fd := range all {
		waitGone(t, fd)
	}
}
