package container

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/registry"
)

// dockerHub is the name under which credentials of the registry without a name are kept.
const dockerHub = "https://index.docker.io/v1/"

// dockerConfig is the part of Docker's client configuration that says who one is to a registry.
type dockerConfig struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		IdentityToken string `json:"identitytoken"`
	} `json:"auths"`
	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`
}

// credentials returns what the registry of an image is shown, from the worker's Docker configuration, as the
// engine wants it; "" is nothing.
func credentials(ctx context.Context, dir, ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	if dir == "" {
		return "", nil
	}
	file := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var cfg dockerConfig
	if err := json.Unmarshal(data, &cfg); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	host := reference.Domain(named)
	if host == "docker.io" {
		host = dockerHub
	}
	found, err := cfg.find(ctx, host)
	if err != nil || found == nil {
		return "", err
	}
	return registry.EncodeAuthConfig(*found)
}

func (c dockerConfig) find(ctx context.Context, host string) (*registry.AuthConfig, error) {
	helper := c.CredHelpers[host]
	if helper == "" {
		helper = c.CredsStore
	}
	if helper != "" {
		return helped(ctx, helper, host)
	}
	for _, name := range []string{host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"} {
		a, ok := c.Auths[name]
		switch {
		case !ok:
			continue
		case a.IdentityToken != "":
			return &registry.AuthConfig{IdentityToken: a.IdentityToken, ServerAddress: host}, nil
		case a.Auth == "":
			continue
		}
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		user, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			// Not with the text: it is a secret.
			return nil, fmt.Errorf("the credentials of %s are not base64 of USER:PASSWORD", name)
		}
		return &registry.AuthConfig{Username: user, Password: strings.TrimRight(password, "\x00"), ServerAddress: host}, nil
	}
	return nil, nil
}

var helperName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// helped asks a credential helper, as Docker's client does.
func helped(ctx context.Context, helper, host string) (*registry.AuthConfig, error) {
	if !helperName.MatchString(helper) {
		return nil, fmt.Errorf("credential helper %q is no name", helper)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get")
	cmd.Stdin = strings.NewReader(host)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		if strings.Contains(out.String(), "credentials not found") {
			return nil, nil
		}
		return nil, fmt.Errorf("credential helper %s: %w", helper, err)
	}
	var said struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &said); err != nil {
		return nil, fmt.Errorf("credential helper %s does not answer with JSON", helper)
	}
	if said.Username == "<token>" {
		return &registry.AuthConfig{IdentityToken: said.Secret, ServerAddress: host}, nil
	}
	return &registry.AuthConfig{Username: said.Username, Password: said.Secret, ServerAddress: host}, nil
}
