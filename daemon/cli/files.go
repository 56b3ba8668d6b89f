package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mirrord/daemon/rpc"
	"mirrord/layer"
	"mirrord/layer/policy"
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
read them. In mode write, and where feature.fs.read_write says so, they can be
changed, as far as the session's debuggee may: they are made and changed in the
target, as that user, and what one writes the other reads a second later at most.
Without ID it is the one session that runs.

It goes on until it is interrupted (Ctrl+C) or the session ends, and takes the
mount away, also where it is killed. Where the daemon is killed
it mounts them again by the next one.`,
		Example:           "  mirrord session files\n  mirrord session files 1f2e3d4c --mount /tmp/web",
		Args:              oneSessionOrNone,
		ValidArgsFunction: completeOneSession,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if full.Show == nil {
				return become(fullProgram, os.Args)
			}
			c, err := dialSessions(ctx, "showing files")
			if err != nil {
				return err
			}
			s, err := oneOf(ctx, c, args)
			if err != nil {
				c.Close()
				return err
			}
			return follow(ctx, cmd.ErrOrStderr(), c, s.ID, func(c *rpc.Client) error { return showFiles(ctx, cmd, c, s, full, dir) })
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
	// It says why there are none, if so.
	if err := c.Call(ctx, ide.MethodFileStat, ide.FileParams{ID: s.ID, Path: "/"}, new(ide.FileEntry)); err != nil {
		return err
	}
	l, err := c.Launch(ctx, s.ID)
	if err != nil {
		return err
	}
	p, err := policy.New(l.Policy, policy.Client{})
	if err != nil {
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
	for _, at := range old {
		if full.Sweep(at) {
			_ = os.Remove(at)
		}
	}
	full.Sweep(dir) // where its user may have made it
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	tree, err := layer.DialTree(ctx, log, c.Info.Layer, s.ID, p)
	if err != nil {
		return fmt.Errorf("showing files: %w", err)
	}
	defer tree.Close()
	writable := l.Policy.FSMode == "write" || len(l.Policy.ReadWrite) > 0
	undo, err := full.Show(tree, dir, writable)
	if err != nil {
		return err
	}
	how := "to be read"
	if writable {
		how = "to be changed where the session may"
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "mirrord: the files of %s, %s, until Ctrl+C\n", s.Target, how)
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
