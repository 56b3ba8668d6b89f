package rpc

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/sourcegraph/jsonrpc2"

	"mirrord/protocol/ide"
)

// A method answers one request; after, if not nil, runs once the answer is sent.
type method func(k *conn, ctx context.Context, params json.RawMessage) (result any, after func(), err error)

// methods are all requests; each group has a file of its own.
var methods = map[string]method{
	ide.MethodInitialize:       answer(initialize),
	ide.MethodShutdown:         shutdown,
	ide.MethodTargetList:       answer(targetList),
	ide.MethodTargetContexts:   answer(targetContexts),
	ide.MethodTargetNamespaces: answer(targetNamespaces),
	ide.MethodConfigVerify:     answer(configVerify),
	ide.MethodConfigDefault:    answer(configDefault),
	ide.MethodConfigExplain:    answer(configExplain),
	ide.MethodSessionStart:     answer(sessionStart),
	ide.MethodSessionLaunch:    answer(sessionLaunch),
	ide.MethodSessionStop:      answer(sessionStop),
	ide.MethodSessionList:      answer(sessionList),
	ide.MethodSessionHolders:   answer(sessionHolders),
	ide.MethodRestart:          answer(sessionRestart),
	ide.MethodSessionArm:       answer(sessionArm),
	ide.MethodSessionEvents:    answer(sessionEvents),
	ide.MethodSessionRequest:   answer(sessionRequest),
	ide.MethodSessionServing:   answer(sessionServing),
	ide.MethodFileList:         answer(fileList),
	ide.MethodFileStat:         answer(fileStat),
	ide.MethodFileRead:         answer(fileRead),
	ide.MethodDebugStart:       answer(debugStart),
}

// answer makes a method of a function of typed parameters and result.
func answer[P, R any](f func(*conn, context.Context, P) (R, error)) method {
	return func(k *conn, ctx context.Context, raw json.RawMessage) (any, func(), error) {
		p, err := decode[P](raw)
		if err != nil {
			return nil, nil, err
		}
		r, err := f(k, ctx, p)
		return r, nil, err
	}
}

func decode[P any](raw json.RawMessage) (P, error) {
	var p P
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, &jsonrpc2.Error{Code: jsonrpc2.CodeInvalidParams, Message: fmt.Sprintf("decoding parameters: %v", err)}
	}
	return p, nil
}
