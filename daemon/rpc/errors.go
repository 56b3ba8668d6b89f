package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sourcegraph/jsonrpc2"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// errEnds cancels what is asked when the daemon is about to end.
var errEnds = &ide.Error{Code: ide.CodeCancelled, Msg: "the daemon ends"}

var errCancelled = &ide.Error{Code: ide.CodeCancelled, Msg: "cancelled"}

// otherBuild is the refusal of client and daemon of different builds.
func otherBuild(client string, busy int) error {
	return &ide.Error{
		Code: ide.CodeBuild,
		Msg: fmt.Sprintf("the running daemon is build %s, this mirrord is build %s, and %d session(s) run in the daemon",
			protocol.Build, client, busy),
		Hint: "end them, or `mirrord daemon stop --force` ends them all",
	}
}

// otherVersion is the refusal of a client that may not understand us.
func otherVersion(c *ide.InitializeParams) error {
	e := &ide.Error{
		Code: ide.CodeBuild,
		Msg:  fmt.Sprintf("client %.40q speaks version %d of this protocol, the daemon speaks version %d", c.Client, c.Version, ide.Version),
		Hint: "update the extension, or install the mirrord that it was made for",
	}
	if c.Version > ide.Version {
		e.Hint = "update mirrord"
	}
	return e
}

// toWire makes a JSON-RPC error of what a method returned; fromWire is its inverse.
func toWire(err error) *jsonrpc2.Error {
	if e, ok := errors.AsType[*jsonrpc2.Error](err); ok {
		return e
	}
	e, ok := errors.AsType[*ide.Error](err)
	switch {
	case ok:
	case errors.Is(err, context.Canceled):
		e = errCancelled
	default:
		return &jsonrpc2.Error{Code: jsonrpc2.CodeInternalError, Message: err.Error()}
	}
	w := &jsonrpc2.Error{Code: cmp.Or(int64(e.Code), jsonrpc2.CodeInternalError), Message: e.Msg}
	if data := (ide.ErrorData{Hint: e.Hint, Errno: e.Errno}); data != (ide.ErrorData{}) {
		w.SetError(data)
	}
	return w
}

func fromWire(err error) error {
	w, ok := errors.AsType[*jsonrpc2.Error](err)
	if !ok {
		return err
	}
	e := &ide.Error{Code: int(w.Code), Msg: w.Message}
	var data ide.ErrorData
	if w.Data != nil && json.Unmarshal(*w.Data, &data) == nil {
		e.Hint, e.Errno = data.Hint, data.Errno
	}
	return e
}
