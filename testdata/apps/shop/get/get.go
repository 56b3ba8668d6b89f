// Package get is the sample shop's client, for pods whose image has no other.
package get

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Run asks for each URL and prints the answers; the first that is none ends it.
func Run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	n := flags.Int("n", 1, "ask so many times, each over a connection of its own")
	timeout := flags.Duration("timeout", 10*time.Second, "give up on an answer after this time")
	header := make(http.Header)
	flags.Func("H", "send a header, as in curl: `Name:value`; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return fmt.Errorf("%q is not Name:value", s)
		}
		header.Add(name, strings.TrimSpace(value))
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("get: no URL")
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for range *n {
		for _, url := range flags.Args() {
			if err := get(ctx, client, url, header, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func get(ctx context.Context, client *http.Client, url string, header http.Header, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for %s: %s", url, resp.Status)
	}
	return nil
}
