package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func targetList(k *conn, ctx context.Context, p ide.TargetListParams) (ide.TargetListResult, error) {
	if p.Progress == "" {
		return k.server.sessions.Targets(ctx, p, func([]ide.Target) {})
	}
	tell := func(v ide.ProgressValue) {
		k.notify(ctx, ide.MethodProgress, ide.Progress{Token: p.Progress, Value: v})
	}
	tell(ide.ProgressValue{Kind: "begin"})
	defer tell(ide.ProgressValue{Kind: "end"})
	return k.server.sessions.Targets(ctx, p, func(part []ide.Target) { tell(ide.ProgressValue{Kind: "report", Targets: part}) })
}

func targetContexts(k *conn, ctx context.Context, p ide.TargetListParams) (ide.ContextsResult, error) {
	return k.server.sessions.Contexts(ctx, p)
}

func targetNamespaces(k *conn, ctx context.Context, p ide.TargetListParams) (ide.NamespacesResult, error) {
	return k.server.sessions.Namespaces(ctx, p)
}
