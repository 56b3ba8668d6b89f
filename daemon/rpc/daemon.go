package rpc

import (
	"context"
	"encoding/json"
	"os"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

func initialize(k *conn, _ context.Context, p ide.InitializeParams) (ide.InitializeResult, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.client = &p
	k.log.Debug("client", "op", ide.MethodInitialize, "client", p.Client, "build", p.Build)
	return ide.InitializeResult{
		Version: ide.Version,
		Build:   protocol.Build,
		PID:     os.Getpid(),
		Layer:   k.server.layer,
		Busy:    len(k.server.sessions.List()),
	}, nil
}

// shutdown ends the daemon once its answer is sent.
func shutdown(k *conn, _ context.Context, raw json.RawMessage) (any, func(), error) {
	p, err := decode[ide.ShutdownParams](raw)
	if err != nil {
		return nil, nil, err
	}
	if busy := len(k.server.sessions.List()); busy > 0 && !p.Force {
		return nil, nil, otherBuild(k.build(), busy)
	}
	return ide.Empty{}, func() { k.server.stop(errShutdown) }, nil
}

// build is the client's.
func (k *conn) build() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.client.Build
}
