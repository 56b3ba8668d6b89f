// Command debuggee does what a test asks for, where a debugger can stop it.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func add(a, b int) (sum int) {
	sum = a + b
	return sum
}

func count(n int) (total int) {
	for i := range n {
		total = add(total, i) // mark: loop
	}
	return total // mark: counted
}

func work(id int, release <-chan struct{}, started, done *sync.WaitGroup) {
	defer done.Done()
	started.Done()
	<-release
	_ = id
}

// workers are three goroutines that wait.
func workers() {
	release := make(chan struct{})
	var started, done sync.WaitGroup
	for id := range 3 {
		started.Add(1)
		done.Add(1)
		go work(id, release, &started, &done)
	}
	started.Wait()
	for waiting() < 3 {
		runtime.Gosched()
	}
	fmt.Println("waiting") // mark: waiting
	close(release)
	done.Wait()
}

// waiting counts the workers that wait to be released.
func waiting() (n int) {
	all := make([]byte, 1<<16)
	for g := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(g, " [chan receive]:\nmain.work(") {
			n++
		}
	}
	return n
}

func read(name string) {
	b, err := os.ReadFile(name)
	fmt.Printf("%s: %q %v\n", name, b, err)
}

// remote is a file of the target's.
const remote = "/etc/shop/config.yaml"

// hold waits in a remote call while main goes on.
func hold(call func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		call()
		fmt.Println("released")
	}()
	read("/app/held")   // is answered when the other call is on its way
	fmt.Println("here") // mark: held
	<-ended
}

// connect makes a connection on a socket that blocks.
func connect() (socket int) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Connect(socket, &syscall.SockaddrInet4{Addr: [4]byte{10, 96, 1, 1}, Port: 80})
	}
	if err != nil {
		fmt.Println(err)
	}
	return socket
}

// readFar reads where nothing was read yet.
func readFar(f *os.File, ended chan<- struct{}) {
	defer close(ended)
	n, err := f.ReadAt(make([]byte, 1), 5_000_000)
	fmt.Println("read", n, err)
}

// waits tells whether one of our threads waits in a system call.
func waits(number int) bool {
	all, err := filepath.Glob("/proc/self/task/*/syscall")
	if err != nil {
		panic(err)
	}
	return slices.ContainsFunc(all, func(path string) bool {
		b, _ := os.ReadFile(path) // it may have ended
		return strings.HasPrefix(string(b), fmt.Sprint(number, " "))
	})
}

// idle asks a server twice on one connection.
func idle(addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	answers := bufio.NewReader(c)
	for i := range 2 {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: idle\r\n\r\n")
		r, err := http.ReadResponse(answers, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		fmt.Println("answer", i, err) // mark: answered
	}
}

func main() {
	switch os.Args[1] {
	case "count":
		fmt.Println("total", count(5))
	case "workers":
		workers()
	case "loop":
		for i := 0; ; i++ {
			time.Sleep(time.Millisecond)
			if i == 0 {
				fmt.Println("looping")
			}
		}
	case "exit":
		fmt.Println("exit")
		os.Exit(3)
	case "panic":
		panic("out of order")
	case "crash":
		var p *int
		fmt.Println("crash")
		*p = 1
	case "killed":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "fork":
		read(remote)
		out, err := exec.Command("/bin/sh", "-c", "cat "+remote+"; echo $TEST_REMOTE").CombinedOutput()
		fmt.Printf("%q %v\n", out, err)
	case "daemonise":
		out, err := exec.Command("/bin/sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!").Output()
		fmt.Printf("left %s %v\n", strings.TrimSpace(string(out)), err) // mark: daemonised
	case "limits":
		limit := syscall.Rlimit{Cur: 20, Max: 4096}
		fmt.Println("limit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		read(remote)
		limit.Cur = limit.Max
		fmt.Println("limit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		read(remote)
	case "drop":
		fmt.Println("groups", syscall.Setgroups(nil), "group", syscall.Setgid(65534), "user", syscall.Setuid(65534))
		read(remote)
	case "held connect":
		hold(func() { connect() })
	case "held dial":
		hold(func() {
			if _, err := net.Dial("tcp", "10.96.1.1:80"); err != nil {
				fmt.Println(err)
			}
		})
	case "held open":
		hold(func() { os.ReadFile("/app/slow") })
	case "held read":
		hold(func() {
			socket := connect()
			os.Stat("/app/connected")
			n, err := syscall.Read(socket, make([]byte, 1))
			fmt.Println("read", n, err)
		})
	case "held file":
		f, err := os.Open("/shop")
		fmt.Println("opened", err) // mark: opened
		ended := make(chan struct{})
		go readFar(f, ended)
		for !waits(syscall.SYS_PREAD64) {
			time.Sleep(time.Millisecond)
		}
		fmt.Println("waits") // mark: waits
		<-ended
	case "eat":
		var all [][]byte // mark: eats
		for range 1 << 10 {
			all = append(all, bytes.Repeat([]byte("x"), 1<<20))
		}
		fmt.Println("ate", len(all))
	case "idle":
		idle(os.Args[2])
	case "environment":
		for _, name := range os.Args[2:] {
			value, ok := os.LookupEnv(name)
			fmt.Printf("%s=%q %v\n", name, value, ok)
		}
	}
	fmt.Println("end")
}
