//go:build kube

package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd runs a single member that need not survive a power cut: it never syncs.
func etcd(args []string) int {
	flags := flag.NewFlagSet("etcd", flag.ExitOnError)
	dir := flags.String("data-dir", "", "where the data lies")
	client := flags.String("listen-client-url", "http://127.0.0.1:2379", "where clients connect")
	peer := flags.String("listen-peer-url", "http://127.0.0.1:2380", "where peers would connect")
	flags.Parse(args)

	if err := serveEtcd(*dir, *client, *peer); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		return 1
	}
	return 0
}

func serveEtcd(dir, client, peer string) error {
	clientURL, err := url.Parse(client)
	if err != nil {
		return fmt.Errorf("parsing client URL %q: %w", client, err)
	}
	peerURL, err := url.Parse(peer)
	if err != nil {
		return fmt.Errorf("parsing peer URL %q: %w", peer, err)
	}
	c := embed.NewConfig()
	c.Dir = dir
	c.LogLevel = "error"
	c.UnsafeNoFsync = true
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
	c.InitialCluster = c.Name + "=" + peerURL.String()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	e, err := embed.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("starting in %s: %w", dir, err)
	}
	defer e.Close()
	select {
	case <-stop:
		return nil
	case err := <-e.Err():
		return err
	}
}
