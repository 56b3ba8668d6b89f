package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func configVerify(k *conn, _ context.Context, p ide.ConfigVerifyParams) (ide.ConfigVerifyResult, error) {
	r, err := k.server.sessions.Verify(p)
	if r.Problems == nil {
		r.Problems = []ide.Problem{} // an array on the wire
	}
	return r, err
}

func configDefault(k *conn, _ context.Context, _ ide.Empty) (ide.ConfigDefaultResult, error) {
	return k.server.sessions.DefaultConfig(), nil
}

func configExplain(k *conn, ctx context.Context, p ide.ConfigExplainParams) (ide.ConfigExplainResult, error) {
	return k.server.sessions.Explain(ctx, p)
}
