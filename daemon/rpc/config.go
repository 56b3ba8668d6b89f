package rpc

import (
	"context"

	"mirrord/daemon/config"
	"mirrord/protocol/ide"
)

func configVerify(_ *conn, _ context.Context, p ide.ConfigVerifyParams) (ide.ConfigVerifyResult, error) {
	problems, err := config.Verify(p.Client, p.ConfigFile)
	if problems == nil {
		problems = []ide.Problem{} // an array on the wire
	}
	return ide.ConfigVerifyResult{Problems: problems}, err
}
