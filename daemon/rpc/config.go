package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func configVerify(k *conn, _ context.Context, p ide.ConfigVerifyParams) (ide.ConfigVerifyResult, error) {
	problems, err := k.server.sessions.Verify(p)
	if problems == nil {
		problems = []ide.Problem{} // an array on the wire
	}
	return ide.ConfigVerifyResult{Problems: problems}, err
}
