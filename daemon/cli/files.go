package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

// filesName is the directory, in the runtime directory, where files are shown.
const filesName = "files"

func filesCommand(full *Full) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "files [ID]",
		Short: "Show the files of a session's target as a directory",
		Long: `files mounts the files of session ID's target, to be looked at with whatever looks
at files, and prints where. They are read as the user of the target's process may
read them, and cannot be changed. Without ID it is the one session that runs.

It goes on until it is interrupted (Ctrl+C) or the session ends, and takes the
mount away.`,
		Example: "  mirrord session files\n  mirrord session files 1f2e3d4c --mount /tmp/web",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("session files takes one session, got %q, too", args[1])
			}
			return nil
		},
		ValidArgsFunction: completeOneSession,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if full.Show == nil {
				return become(fullProgram, os.Args)
			}
			c, err := dialSessions(ctx, "showing files")
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := oneOf(ctx, c, args)
			if err != nil {
				return err
			}
			return showFiles(ctx, cmd, c, s, full, dir)
		}),
	}
	cmd.Flags().StringVar(&dir, "mount", "", "`directory` to show them at (default: one in the runtime directory)")
	mustComplete(cmd, "mount", func(string) []string { return nil }, cobra.ShellCompDirectiveFilterDirs)
	return cmd
}

// oneOf is the session that is meant.
func oneOf(ctx context.Context, c *rpc.Client, args []string) (ide.Session, error) {
	list, err := c.Sessions(ctx)
	if err != nil {
		return ide.Session{}, err
	}
	for _, s := range list {
		if len(args) == 0 && len(list) == 1 || len(args) > 0 && s.ID == args[0] {
			return s, nil
		}
	}
	e := &ide.Error{Code: ide.CodeSession, Msg: fmt.Sprintf("showing files: %d sessions run, and none is named", len(list)), Hint: "`mirrord session ls` lists them"}
	if len(args) > 0 {
		e.Msg = fmt.Sprintf("showing files: no session %s", args[0])
	}
	return ide.Session{}, e
}

func showFiles(ctx context.Context, cmd *cobra.Command, c *rpc.Client, s ide.Session, full *Full, dir string) error {
	f := &Files{c, s.ID}
	if _, err := f.Stat(ctx, "/"); err != nil {
		return err
	}
	base, err := runtimeDir()
	if err != nil {
		return err
	}
	if dir == "" {
		dir = filepath.Join(base, filesName, s.ID)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	old, _ := filepath.Glob(filepath.Join(base, filesName, "*"))
	for _, at := range append(old, dir) {
		full.Sweep(at)
	}
	made, err := place(dir)
	if err != nil {
		return fmt.Errorf("showing files at %s: %w", dir, err)
	}
	if made {
		defer os.Remove(dir)
	}
	undo, err := full.Show(f, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "mirrord: the files of %s, until Ctrl+C\n", s.Target)
	fmt.Fprintln(cmd.OutOrStdout(), dir)
	err = c.Events(ctx, ide.SessionEventsParams{ID: s.ID}, func(ide.SessionEvent) {}) // its end is the session's
	end := undo()
	switch {
	case ctx.Err() != nil: // as its user wanted
		return end
	case err != nil:
		return errors.Join(err, end)
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "mirrord: the session has ended")
	return end
}

// place makes a directory where there is none; what somebody has there is not
// to be hidden.
func place(dir string) (made bool, err error) {
	list, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, os.MkdirAll(dir, 0o700)
	case err != nil:
		return false, err
	case len(list) > 0:
		return false, errors.New("the directory is not empty")
	}
	return false, nil
}

// Files are those of a session's target, as the daemon tells of them.
type Files struct {
	c  *rpc.Client
	id string
}

// List lists a directory.
func (f *Files) List(ctx context.Context, path string) ([]ide.FileEntry, error) {
	var r ide.FileListResult
	err := f.c.Call(ctx, ide.MethodFileList, ide.FileParams{ID: f.id, Path: path}, &r)
	return r.Entries, err
}

// Stat tells of a file, or what a symlink leads to.
func (f *Files) Stat(ctx context.Context, path string) (e ide.FileEntry, err error) {
	err = f.c.Call(ctx, ide.MethodFileStat, ide.FileParams{ID: f.id, Path: path}, &e)
	return e, err
}

// Read reads bytes of a file.
func (f *Files) Read(ctx context.Context, path string, offset int64, length int) ([]byte, error) {
	var r ide.FileReadResult
	err := f.c.Call(ctx, ide.MethodFileRead, ide.FileReadParams{ID: f.id, Path: path, Offset: offset, Length: length}, &r)
	return r.Data, err
}
