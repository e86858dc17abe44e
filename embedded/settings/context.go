package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// natsContext is a file of the nats CLI, ~/.config/nats/context/NAME.json: the
// fields of it that say how to connect. It is that program's file, so fields that
// are not known here are left alone.
type natsContext struct {
	URL         string `json:"url"`
	Token       string `json:"token"`
	User        string `json:"user"`
	Password    string `json:"password"`
	Creds       string `json:"creds"`
	NKey        string `json:"nkey"`
	Cert        string `json:"cert"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
	TLSFirst    bool   `json:"tls_first"`
	UserJWT     string `json:"user_jwt"`
	UserSeed    string `json:"user_seed"`
	InboxPrefix string `json:"inbox_prefix"`
	Domain      string `json:"jetstream_domain"`
	APIPrefix   string `json:"jetstream_api_prefix"`
	NSCURL      string `json:"nsc"`
}

func readContext(name string) (natsContext, error) {
	var c natsContext
	dir, err := contextDir()
	if err != nil {
		return c, err
	}
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return c, fmt.Errorf("context %q: it is a name, not a path", name)
	}
	path := filepath.Join(dir, name+".json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("context %q: there is no %s (%s)", name, path, others(dir))
	}
	if err != nil {
		return c, fmt.Errorf("context %q: %w", name, err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("context %q: %s: %w", name, path, err)
	}
	// Quietly talking to another JetStream than the one meant would be worse than not at all.
	for field, value := range map[string]string{"jetstream_domain": c.Domain, "jetstream_api_prefix": c.APIPrefix, "nsc": c.NSCURL} {
		if value != "" {
			return c, fmt.Errorf("context %q: %s is not supported", name, field)
		}
	}
	for _, p := range []*string{&c.Creds, &c.NKey, &c.Cert, &c.Key, &c.CA} {
		*p = expandHome(*p)
	}
	return c, nil
}

func contextDir() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "nats", "context"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the contexts of the nats CLI: %w", err)
	}
	return filepath.Join(home, ".config", "nats", "context"), nil
}

// others says which contexts there are instead.
func others(dir string) string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	if len(files) == 0 {
		return "there are no contexts at all: `nats context save` makes one"
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".json")
	}
	return "there are: " + strings.Join(files, ", ")
}

func expandHome(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return path
}
