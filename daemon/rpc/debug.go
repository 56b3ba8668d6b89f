package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func debugStart(k *conn, ctx context.Context, p ide.DebugStartParams) (ide.Debug, error) {
	report, end := k.reports(ctx, p.Progress)
	defer end()
	return k.server.sessions.Debug(ctx, p, report)
}
