package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func targetList(k *conn, ctx context.Context, p ide.TargetListParams) (ide.TargetListResult, error) {
	return k.server.sessions.Targets(ctx, p)
}
