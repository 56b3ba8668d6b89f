package provision

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// packages are unpacked, never installed: nothing of the host's changes.
var packages = []string{
	"containerd", "runc", "containernetworking-plugins", "nftables", "iptables",
	// What their programs link, in case the host lacks it.
	"libbsd0", "libedit2", "libip4tc2", "libip6tc2", "libjansson4", "libmd0", "libmnl0",
	"libnetfilter-conntrack3", "libnfnetlink0", "libnftables1", "libnftnl11", "libseccomp2",
	"libtinfo6", "libxtables12",
}

// alternatives are the links that installing iptables would make.
var alternatives = []string{
	"iptables", "iptables-save", "iptables-restore",
	"ip6tables", "ip6tables-save", "ip6tables-restore",
}

func (b builder) unpack(ctx context.Context) error {
	for _, tool := range []string{"apt-get", "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("finding %s: the cluster's container runtime comes from Debian's packages; use a Debian or Ubuntu, or a container of one: %w", tool, err)
		}
	}
	b.progress("downloading containerd, runc, CNI plugins and nftables")
	debs := filepath.Join(b.dir, "debs")
	root := filepath.Join(b.dir, "packages")
	for _, dir := range []string{debs, root} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("making a directory for packages: %w", err)
		}
	}
	defer os.RemoveAll(debs)
	if err := b.download(ctx, debs); err != nil {
		b.progress("updating the package lists")
		if err := b.run(ctx, debs, "apt-get", "update"); err != nil {
			return err
		}
		if err := b.download(ctx, debs); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return fmt.Errorf("listing the downloaded packages: %w", err)
	}
	for _, f := range files {
		if err := b.run(ctx, root, "dpkg", "-x", f, "."); err != nil {
			return err
		}
	}
	return links(root)
}

func (b builder) download(ctx context.Context, dir string) error {
	// As root: apt's own user may not enter a private cache.
	args := append([]string{"-o", "APT::Sandbox::User=root", "download"}, packages...)
	return b.run(ctx, dir, "apt-get", args...)
}

// links completes the unpacked root, of which only /usr is used.
func links(root string) error {
	for _, name := range alternatives {
		target := "xtables-nft-multi"
		if err := os.Symlink(target, filepath.Join(root, "usr", "sbin", name)); err != nil {
			return fmt.Errorf("linking %s: %w", name, err)
		}
	}
	return nil
}
