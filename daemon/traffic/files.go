package traffic

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"mirrord/protocol/ide"
)

// Limits of how files are told.
const (
	joinTime  = time.Second // openings of a path that are told as one
	maxJoined = 4096        // paths, each of a process
)

// An Opening is one file that was opened, or was to be.
type Opening struct {
	Path   string
	List   bool // as a directory
	Write  bool
	Bytes  int64
	Thread uint32 // of the debuggee
	Count  int    // so often
	Err    error
}

// File takes an opening. Ask Watched first.
func (s *Source) File(o Opening) {
	if w := s.current.Load(); w != nil {
		w.note(func() { w.files.add(w, o) })
	}
}

// joined are files that were told, whose next openings by the same process are told
// as one.
type joined struct {
	by   map[ide.File]*again
	next time.Duration  // when the first has to be told, 0: none
	pids map[uint32]int // of threads that were looked at since the last flush
}

type again struct {
	file  ide.File
	until time.Duration
	count int
}

func (j *joined) add(w *watcher, o Opening) {
	f := ide.File{Path: o.Path, Op: "open", Write: o.Write, Error: errorName(o.Err), PID: j.process(o.Thread)}
	if o.List {
		f.Op = "list"
	}
	key := f
	if a := j.by[key]; a != nil {
		a.count += max(o.Count, 1)
		return
	}
	if len(j.by) >= maxJoined {
		w.miss()
		return
	}
	if j.by == nil {
		j.by = map[ide.File]*again{}
	}
	f.Bytes = o.Bytes
	j.by[key] = &again{file: f, until: w.now() + joinTime}
	j.tell(w, f, max(o.Count, 1))
}

func (j *joined) tell(w *watcher, f ide.File, count int) {
	if count > 1 {
		f.Count = count
	}
	w.source.tell(ide.SessionEvent{Kind: ide.EventFile, File: &f})
}

// flush tells what is due, or all, and returns when to look again; 0: never.
func (j *joined) flush(w *watcher, all bool) time.Duration {
	now := w.now()
	clear(j.pids)
	if len(j.by) == 0 || now < j.next && !all {
		return max(j.next-now, 0)
	}
	j.next = now + joinTime
	for key, a := range j.by {
		switch {
		case a.until > now && !all:
			j.next = min(j.next, a.until)
		case a.count > 0:
			j.tell(w, a.file, a.count)
			a.count, a.until = 0, now+joinTime
		default:
			delete(j.by, key)
		}
	}
	return max(j.next-now, time.Millisecond)
}

// process is a thread's.
func (j *joined) process(thread uint32) int {
	pid, ok := j.pids[thread]
	if !ok {
		if j.pids == nil {
			j.pids = map[uint32]int{}
		}
		pid = process(thread)
		j.pids[thread] = pid
	}
	return pid
}

// process is a thread's, or the thread where that has ended.
func process(thread uint32) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	_, after, _ := bytes.Cut(status, []byte("\nTgid:\t"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	if pid, err := strconv.Atoi(string(line)); err == nil {
		return pid
	}
	return int(thread)
}
