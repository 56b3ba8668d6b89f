package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func targetList(k *conn, ctx context.Context, p ide.TargetListParams) (ide.TargetListResult, error) {
	return k.server.sessions.Targets(ctx, p)
}

func targetContexts(k *conn, ctx context.Context, p ide.TargetListParams) (ide.ContextsResult, error) {
	return k.server.sessions.Contexts(ctx, p)
}

func targetNamespaces(k *conn, ctx context.Context, p ide.TargetListParams) (ide.NamespacesResult, error) {
	return k.server.sessions.Namespaces(ctx, p)
}
