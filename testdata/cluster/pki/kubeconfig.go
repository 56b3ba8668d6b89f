package pki

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Kubeconfig writes a kubeconfig that needs no other file, for the user whose
// pair is in dir. It is JSON, which every reader of kubeconfigs takes.
func Kubeconfig(file, dir, user, cluster, server string) error {
	pem := make(map[string][]byte) // encoding/json spells it in base64, as a kubeconfig does
	for _, name := range []string{"ca.crt", user + ".crt", user + ".key"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("reading a certificate for %s: %w", file, err)
		}
		pem[name] = b
	}
	type object = map[string]any
	b, err := json.MarshalIndent(object{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []object{{"name": cluster, "cluster": object{
			"server": server, "certificate-authority-data": pem["ca.crt"],
		}}},
		"users": []object{{"name": user, "user": object{
			"client-certificate-data": pem[user+".crt"], "client-key-data": pem[user+".key"],
		}}},
		"contexts":        []object{{"name": cluster, "context": object{"cluster": cluster, "user": user}}},
		"current-context": cluster,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", file, err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}
