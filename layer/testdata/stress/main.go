// Command stress reads the target's files from many goroutines, with the
// garbage collector, timers and forks at work, and checks every byte.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"sync"
	"time"
)

func main() {
	d, err := time.ParseDuration(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	debug.SetGCPercent(5)
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for time.Now().Before(end) {
				check("/etc/shop/config.yaml", len("color: blue\n"))
				check("/app/big", 1<<20)
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for time.Now().Before(end) {
				if out, err := exec.Command("cat", "/etc/shop/config.yaml").Output(); err != nil || string(out) != "color: blue\n" {
					failed("cat", fmt.Sprintf("%q %v", out, err))
				}
			}
		})
	}
	wg.Wait()
	fmt.Println("fine")
}

func check(name string, size int) {
	b, err := os.ReadFile(name)
	if err != nil || len(b) != size {
		failed(name, fmt.Sprintf("%d bytes, %v", len(b), err))
	}
}

func failed(name, what string) {
	fmt.Println(name, what)
	os.Exit(1)
}
