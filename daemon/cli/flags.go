package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mirrord/protocol/ide"
)

// choice are the flags that say which cluster, and by which configuration.
type choice struct {
	config    string
	overrides ide.Overrides
}

// judged tells whether there is anything in it that the daemon may call nonsense.
func (c *choice) judged() bool {
	return c.overrides.Target != "" || c.overrides.FSMode != "" || c.overrides.Agent != ""
}

func (c *choice) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&c.config, "config-file", "f", "", "configuration `file`: JSON, TOML or YAML (default: .mirrord/mirrord.json, .toml, .yaml)")
	f.StringVarP(&c.overrides.Namespace, "target-namespace", "n", "", "`namespace` of the target (default: the kubeconfig's)")
	f.StringVar(&c.overrides.Namespace, "namespace", "", "the same")
	f.StringVar(&c.overrides.Context, "context", "", "`context` of the kubeconfig (default: its current one)")
	f.StringVar(&c.overrides.Kubeconfig, "kubeconfig", "", "`path` of the kubeconfig (default: $KUBECONFIG, ~/.kube/config)")
	mustComplete(cmd, "target-namespace", c.completeNamespace, cobra.ShellCompDirectiveNoFileComp)
	mustComplete(cmd, "namespace", c.completeNamespace, cobra.ShellCompDirectiveNoFileComp)
	mustComplete(cmd, "context", c.completeContext, cobra.ShellCompDirectiveNoFileComp)
	mustComplete(cmd, "config-file", func(string) []string { return nil }, cobra.ShellCompDirectiveDefault)
}

// flags are those that add adds.
func (c *choice) flags() []string {
	return []string{"config-file", "target-namespace", "namespace", "context", "kubeconfig"}
}

// mustComplete names the values of a flag; an error is a bug of ours.
func mustComplete(cmd *cobra.Command, flag string, values func(prefix string) []string, d cobra.ShellCompDirective) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return values(prefix), d
	})
	if err != nil {
		panic(err)
	}
}

const completionTime = 5 * time.Second // a shell waits for us

// completeTarget asks the cluster that the other flags choose for its targets.
func (c *choice) completeTarget(prefix string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	r, err := c.targets(ctx)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil
	}
	var list []string
	for _, t := range r.Targets {
		if t.Available && strings.HasPrefix(t.Path, prefix) {
			list = append(list, t.Path)
		}
		for _, container := range t.Containers {
			// Only once the target is typed: most have one container.
			if path := t.Path + "/container/" + container; strings.HasPrefix(path, prefix) && strings.HasPrefix(prefix, t.Path+"/") {
				list = append(list, path)
			}
		}
	}
	return list
}

func (c *choice) completeNamespace(string) []string {
	var r ide.NamespacesResult
	c.complete(ide.MethodTargetNamespaces, &r)
	return r.Namespaces
}

func (c *choice) completeContext(string) []string {
	var r ide.ContextsResult
	c.complete(ide.MethodTargetContexts, &r)
	return r.Contexts
}

// complete leaves r as it is where there is no answer in time.
func (c *choice) complete(method string, r any) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	if err := c.ask(ctx, method, r); err != nil {
		cobra.CompDebugln(err.Error(), false)
	}
}

func (c *choice) targets(ctx context.Context) (r ide.TargetListResult, err error) {
	err = c.ask(ctx, ide.MethodTargetList, &r)
	return r, err
}

// ask asks the daemon about the cluster that the flags choose.
func (c *choice) ask(ctx context.Context, method string, r any) error {
	me, err := client()
	if err != nil {
		return err
	}
	d, err := dial(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Call(ctx, method, ide.TargetListParams{Client: me, ConfigFile: c.config, Overrides: c.overrides}, r)
}
