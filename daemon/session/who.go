package session

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"mirrord/protocol"
)

// placeName is the file of the runtime directory that makes its daemons known
// to agents as each other's successors.
const placeName = "place"

// runName is the file with the number of its last daemon's run.
const runName = "run"

// whoWeAre is what agents are told of this daemon, the only one of dir.
func whoWeAre(dir string) (protocol.Client, error) {
	path := filepath.Join(dir, placeName)
	place, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(place) == 0 { // nobody else writes it: we hold the daemon's lock
		place = []byte(rand.Text())
		err = os.WriteFile(path, place, 0o600)
	}
	if err != nil {
		return protocol.Client{}, fmt.Errorf("naming the runtime directory: %w", err)
	}
	name := "user " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	const most = 100 // an agent refuses longer ones
	return protocol.Client{
		Name: name[:min(len(name), most)], Place: string(place[:min(len(place), most)]),
		Run: nextRun(filepath.Join(dir, runName)),
	}, nil
}

// nextRun is the time, but more than the last one, though the clock was set back; where
// the last one is not to be read, the time it is.
func nextRun(path string) int64 {
	b, _ := os.ReadFile(path)
	last, _ := strconv.ParseInt(string(b), 10, 64)
	run := max(last+1, time.Now().UnixNano())
	_ = os.WriteFile(path, strconv.AppendInt(nil, run, 10), 0o600)
	return run
}
