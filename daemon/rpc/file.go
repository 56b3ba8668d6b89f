package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

func fileList(k *conn, ctx context.Context, p ide.FileParams) (ide.FileListResult, error) {
	r, err := k.server.sessions.ListFiles(ctx, p)
	if r.Entries == nil {
		r.Entries = []ide.FileEntry{} // an array on the wire
	}
	return r, err
}

func fileStat(k *conn, ctx context.Context, p ide.FileParams) (ide.FileEntry, error) {
	return k.server.sessions.StatFile(ctx, p)
}

func fileRead(k *conn, ctx context.Context, p ide.FileReadParams) (ide.FileReadResult, error) {
	r, err := k.server.sessions.ReadFile(ctx, p)
	if r.Data == nil {
		r.Data = []byte{} // text on the wire
	}
	return r, err
}
