package session

import (
	"context"
	"fmt"

	"mirrord/daemon/config"
	"mirrord/daemon/forward"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// A security is how a session treats the TLS of what it steals.
type security struct {
	tls      *protocol.TLS     // opens it; nil: it stays closed
	delivery *forward.Delivery // nil: what it held is delivered in the clear
}

// secure reads and checks what a session's TLS needs. The key of a Secret is kept in
// memory only, and given to the agent.
func secure(ctx context.Context, cfg *config.Config, a *agent, t target) (s security, err error) {
	c := &cfg.Incoming
	if d := &c.Delivery; d.Protocol == config.DeliverTLS {
		s.delivery, err = forward.NewDelivery(forward.Roots{
			Files: d.TrustRoots, ServerCert: d.ServerCert, ServerName: d.ServerName, ClientCert: d.ClientCert, ClientKey: d.ClientKey,
		})
		if err != nil {
			return s, configError(fmt.Errorf("feature.network.incoming.tls_delivery: %w", err))
		}
	}
	if !c.OpensTLS() {
		return s, nil
	}
	s.tls = &protocol.TLS{CertPath: protocol.Path(c.TLS.Cert), KeyPath: protocol.Path(c.TLS.Key)}
	if c.TLS.Secret != "" {
		if a.cluster == nil {
			return s, &ide.Error{
				Code: ide.CodeConfig, Msg: fmt.Sprintf("reading secret %s: the agent is at an address, and no cluster is known", c.TLS.Secret),
				Hint: "give feature.network.incoming.tls.cert and .key, paths in the target's container",
			}
		}
		cert, key, err := a.cluster.Certificate(ctx, t.namespace, c.TLS.Secret)
		if err != nil {
			return s, err
		}
		s.tls = &protocol.TLS{Cert: cert, Key: key}
	}
	if _, err := a.tunnel.Call(ctx, protocol.KindCertify, s.tls, new(protocol.CertifyReply)); err != nil {
		from := "in the target's container"
		if c.TLS.Secret != "" {
			from = "of secret " + c.TLS.Secret
		}
		return s, &ide.Error{Code: ide.CodeConfig, Msg: fmt.Sprintf("feature.network.incoming.tls, %s: %v", from, err), Err: err}
	}
	return s, nil
}

// unsecured tells the user, once for each listener, that his debuggee does not take
// what was said in TLS. s.mu is held.
func (s *Session) unsecured(port uint16, l *listener, err error) {
	if !l.toldTLS {
		l.toldTLS = true
		s.say(fmt.Sprintf("a request to port %d goes to the pod: %v; tls_delivery.protocol tcp has it delivered without TLS", port, err))
	}
}
