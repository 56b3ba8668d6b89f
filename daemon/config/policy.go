package config

import (
	"slices"
	"time"

	"mirrord/protocol/ide"
)

// Policy is the part of the configuration that the layer decides by. mounts
// are the paths of the target's volume mounts.
func (c *Config) Policy(mounts []string) ide.Policy {
	ports, not := c.Incoming.taken()
	p := ide.Policy{
		FSMode:        c.FS.Mode,
		ReadWrite:     c.FS.ReadWrite,
		ReadOnly:      c.FS.ReadOnly,
		Local:         c.FS.Local,
		Places:        c.Places,
		NotFound:      c.FS.NotFound,
		CacheTime:     new(int(c.FS.CacheTime / time.Second)),
		Steal:         c.Incoming.Mode == "steal",
		Mirror:        c.Incoming.Mode == "mirror",
		Ports:         ports,
		IgnorePorts:   not,
		PortMapping:   c.Incoming.PortMapping,
		ListenPorts:   c.Incoming.ListenPorts,
		OutgoingTCP:   c.Outgoing.TCP,
		OutgoingUDP:   c.Outgoing.UDP,
		DNS:           c.DNS,
		Hostname:      c.Hostname,
		OutgoingLocal: slices.Clone(c.Outgoing.Local),
		SkipProcesses: c.SkipProcesses,

		IgnoreLocalhost: c.Incoming.IgnoreLocalhost,
	}
	if c.AutoMount {
		p.Mounts = mounts
	}
	for _, m := range c.FS.Mapping {
		if p.Mapping == nil {
			p.Mapping = map[string]string{}
		}
		p.Mapping[m.Pattern] = m.Value
	}
	return p
}
