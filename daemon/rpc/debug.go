package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func debugStart(k *conn, ctx context.Context, p ide.DebugStartParams) (ide.Debug, error) {
	k.progress(ctx, p.Progress, "begin", "")
	defer k.progress(ctx, p.Progress, "end", "")
	return k.server.sessions.Debug(ctx, p, func(message string) { k.progress(ctx, p.Progress, "report", message) })
}
