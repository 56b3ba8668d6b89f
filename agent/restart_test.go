package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// The container is killed and started again: the steal and what was taken go
// on, and soon the files and the environment are the new container's.
func TestContainerRestarts(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	client, _ := agenttest.New(t, a.addr)
	client.Steal(podPort)
	k := p.dial(t, false, podV4)
	stream, _ := client.Offered()
	relayed(t, stream)
	k.says("hello")
	k.hears("debuggee heard hello")
	colour := func() (string, error) {
		b, err := client.Ask(protocol.KindOpen, protocol.Open{Path: "/config", Inline: 64 << 10}, new(protocol.OpenReply))
		return string(b), err
	}
	if got, err := colour(); err != nil || got != "colour: blue\n" {
		t.Errorf("%q, %v", got, err)
	}
	var kept protocol.OpenReply
	if _, err := client.Ask(protocol.KindOpen, protocol.Open{Path: "/config"}, &kept); err != nil {
		t.Fatal(err)
	}

	for _, next := range []string{"green", "red"} {
		p.end()
		a.logs("target's container ended")
		if _, err := colour(); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "restarting") {
			t.Errorf("while there is no container: %v", err)
		}
		if _, err := client.Ask(protocol.KindStat, protocol.Stat{Path: "/none"}, new(protocol.StatReply)); !errors.Is(err, unix.EIO) {
			t.Errorf("while there is no container: %v", err)
		}
		if _, err := client.Ask(protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply)); !errors.Is(err, unix.EIO) {
			t.Errorf("while there is no container: %v", err)
		}
		k.says(next)
		k.hears("debuggee heard " + next)

		p.enter(t, func() { p.run(t, next, 0) })
		a.logs("target's container restarted")
		if got, err := colour(); err != nil || got != "colour: "+next+"\n" {
			t.Errorf("%q, %v", got, err)
		}
		environ, err := client.Ask(protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply))
		if err != nil || !slices.Contains(strings.Split(string(environ), "\x00"), "COLOUR="+next) {
			t.Errorf("environment: %q, %v", environ, err)
		}
		stolen := p.dial(t, false, podV6)
		stream, _ := client.Offered()
		if err := protocol.WriteError(stream, "incoming", unix.ECONNREFUSED); err != nil {
			t.Fatal(err)
		}
		stolen.hearsPod()
	}
	// What was opened before is still that.
	b, err := client.Ask(protocol.KindRead, protocol.Read{Handle: kept.Handle, Len: 100}, new(protocol.ReadReply))
	if err != nil || string(b) != "colour: blue\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A pod that comes back with another network is not the agent's any more.
func TestPodMadeAnew(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	p.end()
	a.logs("target's container ended")
	p.run(t, "green", unix.CLONE_NEWNET)
	a.logs("agent ends", "another network")
	if err := a.Wait(); err != nil {
		t.Errorf("agent ended with %v", err)
	}
}
