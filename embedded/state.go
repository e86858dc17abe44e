package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// StateDir is where Runnel keeps what outlives a process of this account: the
// data of `worker dev`, the tokens of servers, the journal of `submit`. It is
// $XDG_STATE_HOME/runnel or ~/.local/state/runnel, on macOS and Windows the
// account's own place for application data. It need not exist yet.
func StateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "runnel"), nil
	}
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("find the state directory: %w (set XDG_STATE_HOME)", err)
		}
		return filepath.Join(dir, "runnel", "state"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the state directory: %w (set XDG_STATE_HOME)", err)
	}
	return filepath.Join(home, ".local", "state", "runnel"), nil
}

// TokenFile is the file in which a server that listens at address (HOST:PORT)
// leaves its token for the other programs of this account.
func TokenFile(address string) (string, error) {
	dir, err := StateDir()
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", address, err)
	}
	switch host = strings.ToLower(host); host {
	// One server has many names on its own machine; a client may use another than the server did.
	case "", "localhost", "0.0.0.0", "::":
		host = "127.0.0.1"
	}
	// A colon cannot stand in a file name everywhere, a slash nowhere.
	name := strings.NewReplacer(":", "_", "/", "_", `\`, "_", "%", "_").Replace(host) + "_" + port
	return filepath.Join(dir, "tokens", name), nil
}

// Token reads what a server at address left in its TokenFile; "" where there is none.
func Token(address string) (string, error) {
	file, err := TokenFile(address)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the server's token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// keepToken leaves token for the other programs of this account, readable by it alone.
func keepToken(address, token string) error {
	file, err := TokenFile(address)
	if err != nil {
		return err
	}
	if err := ownDir(filepath.Dir(file)); err != nil {
		return err
	}
	// Renamed into place: a client never reads half a token.
	tmp, err := os.CreateTemp(filepath.Dir(file), ".token-")
	if err != nil {
		return fmt.Errorf("keep the server's token: %w", err)
	}
	_, err = tmp.WriteString(token + "\n") // made 0600 by CreateTemp
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("keep the server's token: %w", err)
	}
	return nil
}

// ownDir makes dir, or takes it as it is, and closes it to everybody else.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

func newToken() string { return strings.ToLower(rand.Text()) }
