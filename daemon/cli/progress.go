package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	patience = time.Second            // what takes less is not worth a word
	maxLine  = 66                     // runes: a line that wraps cannot be taken back
	frame    = 100 * time.Millisecond // of the spinner
)

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// A progress tells what is being waited for: on a terminal one line that turns,
// else a line for each step. Its goroutine ends with end.
type progress struct {
	w        io.Writer
	terminal bool
	messages chan string
	done     chan struct{} // closed by end
	wg       sync.WaitGroup
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, messages: make(chan string), done: make(chan struct{})}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	p.wg.Go(p.run)
	return p
}

func (p *progress) report(message string) {
	select {
	case p.messages <- message:
	case <-p.done:
	}
}

// end takes the line back.
func (p *progress) end() {
	close(p.done)
	p.wg.Wait()
}

func (p *progress) run() {
	wait := time.NewTimer(patience)
	defer wait.Stop()
	var turn <-chan time.Time // nil: patience is not over, or this is no terminal
	var message string
	speaking := false
	for n := 0; ; {
		select {
		case <-p.done:
			if turn != nil {
				fmt.Fprint(p.w, "\r\x1b[K")
			}
			return
		case <-wait.C:
			speaking = true
			if p.terminal {
				ticker := time.NewTicker(frame)
				defer ticker.Stop()
				turn = ticker.C
				continue
			}
			if message != "" {
				fmt.Fprintf(p.w, "mirrord: %s\n", message)
			}
		case message = <-p.messages:
			if speaking && !p.terminal {
				fmt.Fprintf(p.w, "mirrord: %s\n", message)
			}
		case <-turn:
			line := []rune(message)
			fmt.Fprintf(p.w, "\r\x1b[K%c mirrord: %s", spinner[n%len(spinner)], string(line[:min(len(line), maxLine)]))
			n++
		}
	}
}
