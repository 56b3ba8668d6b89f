package traffic

import (
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// maxNames bounds the addresses whose names are known.
const maxNames = 4096

// resolverPort is where names are looked up.
const resolverPort = 53

// names are those that were looked up for addresses.
type names struct {
	mu sync.Mutex
	by map[netip.Addr]string // guarded by mu
}

func (n *names) of(a netip.Addr) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.by[a.Unmap()]
}

// learn reads a resolver's answer, which may be anything.
func (n *names) learn(answer []byte) {
	var p dnsmessage.Parser
	head, err := p.Start(answer)
	if err != nil || !head.Response {
		return
	}
	q, err := p.Question()
	if err != nil || q.Type != dnsmessage.TypeA && q.Type != dnsmessage.TypeAAAA || p.SkipAllQuestions() != nil {
		return
	}
	name := strings.TrimSuffix(q.Name.String(), ".")
	for {
		r, err := p.AnswerHeader()
		if err != nil {
			return
		}
		var a netip.Addr
		switch r.Type { // others, as CNAME, lead to these
		case dnsmessage.TypeA:
			body, err := p.AResource()
			if err != nil {
				return
			}
			a = netip.AddrFrom4(body.A)
		case dnsmessage.TypeAAAA:
			body, err := p.AAAAResource()
			if err != nil {
				return
			}
			a = netip.AddrFrom16(body.AAAA).Unmap()
		default:
			if p.SkipAnswer() != nil {
				return
			}
			continue
		}
		n.put(a, name)
	}
}

func (n *names) put(a netip.Addr, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil || len(n.by) >= maxNames {
		n.by = map[netip.Addr]string{}
	}
	n.by[a] = name
}
