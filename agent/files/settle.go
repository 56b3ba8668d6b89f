package files

import "time"

// A touched entry of a directory is one that we have changed, or the file there.
type touched struct {
	dev, ino uint64 // the directory's
	name     string
}

// settle ends the leases that rest on what we have changed. inotify tells of
// it, too, but perhaps later than the client asks again; and not of all: a
// file's second name is no event where its first one is. What the client keeps
// is true again when it has heard the Expired that has the answered number.
func (h *Handles) settle(list []touched) (seq uint64) {
	l := h.leases.Load()
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range list {
		for _, w := range l.dirs {
			if w.dev != t.dev || w.ino != t.ino {
				continue
			}
			for id := range w.names[t.name] {
				l.expire(id)
			}
			l.expireWithin(w)
			l.drop(join(w.path, t.name))
		}
	}
	if len(l.dead) == 0 && !l.all && !l.owed {
		return l.seq // which Next may be about to tell
	}
	l.owed = true
	_ = l.file.SetReadDeadline(time.Unix(1, 0))
	return l.seq + 1
}
