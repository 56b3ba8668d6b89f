package session

import (
	"net/netip"
	"slices"

	"mirrord/daemon/forward"
)

// addresses are where a debuggee listens for one port: one address, or one of
// each family where it has a socket for each (IPV6_V6ONLY). They are replaced,
// never changed.
type addresses []forward.Listener

// add makes a listener one of them, or one more socket of one (SO_REUSEPORT), or
// else puts it in place of its family's. Of the others those stay that listen.
func (a addresses) add(at forward.Listener) addresses {
	all := addresses{at}
	for _, old := range a {
		switch {
		case old.Addr != at.Addr:
			if old.Addr.Addr().Is4() != at.Addr.Addr().Is4() && !gone(old) {
				all = append(all, old)
			}
		case len(old.Inodes) > 0:
			// Those that are gone have to go, or there would be ever more of them.
			old.Inodes = slices.DeleteFunc(slices.Clone(old.Inodes), func(inode uint64) bool {
				return gone(forward.Listener{Addr: at.Addr, Inodes: []uint64{inode}})
			})
			all[0].Inodes = append(old.Inodes, at.Inodes...)
		}
	}
	return all
}

// to is where a client's connection goes: to its own family's. Where there is
// none the other's has it: an IPv6 socket that does IPv4, too, is at IPv4's loopback.
func (a addresses) to(client netip.Addr) forward.Listener {
	for _, at := range a {
		if at.Addr.Addr().Is4() == client.Unmap().Is4() {
			return at
		}
	}
	return a[0]
}

// has tells whether at is one of them as it is.
func (a addresses) has(at forward.Listener) bool {
	return slices.ContainsFunc(a, func(l forward.Listener) bool { return l.Addr == at.Addr && slices.Equal(l.Inodes, at.Inodes) })
}

// without are those that are not at's.
func (a addresses) without(at forward.Listener) addresses {
	return slices.DeleteFunc(slices.Clone(a), func(l forward.Listener) bool { return l.Addr == at.Addr })
}

// left are those that may still listen.
func (a addresses) left() addresses { return slices.DeleteFunc(slices.Clone(a), gone) }

// gone tells whether it is known that a listener does not listen any more.
func gone(at forward.Listener) bool { return len(at.Inodes) > 0 && !at.Listens() }
