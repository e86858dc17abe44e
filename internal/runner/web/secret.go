package web

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
)

const (
	maxSecretBytes     = 64 << 10
	maxSecretFileBytes = 1 << 20
)

// secrets finds the values of secrets on this machine. Errors have their names only.
type secrets struct{ dir, file, env string }

// errNoSecret says that no source has a secret.
var errNoSecret = errors.New("this worker has no such secret")

// check says what cannot work.
func (s secrets) check() error {
	if s.dir != "" {
		if info, err := os.Stat(s.dir); err != nil {
			return fmt.Errorf("secrets: %w", err)
		} else if !info.IsDir() {
			return fmt.Errorf("secrets: %s is not a directory", s.dir)
		}
	}
	if s.file != "" {
		if _, err := s.inFile(""); err != nil && !errors.Is(err, errNoSecret) {
			return fmt.Errorf("secrets: %w", err)
		}
	}
	return nil
}

func (s secrets) String() string {
	var from []string
	for _, source := range [][2]string{{s.dir, "a directory"}, {s.file, "a file"}, {s.env, "the environment"}} {
		if source[0] != "" {
			from = append(from, source[1])
		}
	}
	if len(from) == 0 {
		return "none"
	}
	return strings.Join(from, ", ")
}

// find returns the value of a secret. It is read anew each time: secrets are changed under a running worker.
func (s secrets) find(name string) (string, error) {
	for _, source := range []struct {
		set  string
		find func(string) (string, error)
	}{{s.dir, s.inDir}, {s.file, s.inFile}, {s.env, s.inEnv}} {
		if source.set == "" {
			continue
		}
		value, err := source.find(name)
		if errors.Is(err, errNoSecret) {
			continue
		}
		if err == nil && value == "" {
			err = errors.New("it is empty")
		}
		return value, err
	}
	return "", errNoSecret
}

func (s secrets) inDir(name string) (string, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return "", errors.New("the directory of secrets cannot be opened")
	}
	defer root.Close()
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errNoSecret
	}
	if err != nil || !info.Mode().IsRegular() {
		return "", errors.New("it is not a file that can be read")
	}
	f, err := root.Open(name)
	if err != nil {
		return "", errors.New("it is not a file that can be read")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil || len(data) > maxSecretBytes {
		return "", fmt.Errorf("it cannot be read, or is more than %d bytes", maxSecretBytes)
	}
	// One line feed at the end is the editor's.
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

func (s secrets) inFile(name string) (string, error) {
	f, err := os.Open(s.file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxSecretFileBytes))
	lines.Buffer(nil, maxSecretBytes+256)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if text := strings.TrimSpace(line); text == "" || text[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return "", fmt.Errorf("%s: line %d is not NAME=value", s.file, n)
		}
		if strings.TrimSpace(key) == name {
			return value, nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("%s: %w", s.file, err)
	}
	return "", errNoSecret
}

func (s secrets) inEnv(name string) (string, error) {
	value, ok := os.LookupEnv(s.env + strings.NewReplacer("-", "_", ".", "_").Replace(name))
	if !ok {
		return "", errNoSecret
	}
	return value, nil
}

// mask stands where a secret was.
const mask = "[secret]"

// scrubber takes secrets, and the forms in which they are sent, out of what comes back.
type scrubber struct{ values [][]byte } // longest first

func (s *scrubber) add(value string) {
	quoted, _ := json.Marshal(value) // a string always has a form
	for _, form := range []string{value, string(quoted[1 : len(quoted)-1]), url.QueryEscape(value)} {
		if form != "" && !slices.ContainsFunc(s.values, func(v []byte) bool { return string(v) == form }) {
			s.values = append(s.values, []byte(form))
		}
	}
	slices.SortFunc(s.values, func(a, b []byte) int { return len(b) - len(a) })
}

// text returns s without secrets.
func (s *scrubber) text(text string) string {
	for _, value := range s.values {
		text = strings.ReplaceAll(text, string(value), mask)
	}
	return text
}

// scrubbed is a writer that keeps secrets from the one behind it. It holds back what may be
// the beginning of one, and nothing else, until more comes or flush.
type scrubbed struct {
	w      io.Writer
	values [][]byte
	held   []byte
}

func (s *scrubbed) Write(p []byte) (int, error) {
	if len(s.values) == 0 {
		return s.w.Write(p)
	}
	data := p
	if len(s.held) > 0 {
		data = append(s.held, p...)
		s.held = nil
	}
	for {
		at, size := -1, 0
		for _, value := range s.values {
			if i := bytes.Index(data, value); i >= 0 && (at < 0 || i < at) {
				at, size = i, len(value)
			}
		}
		if at < 0 {
			break
		}
		if err := s.pass(data[:at]); err != nil {
			return 0, err
		}
		if err := s.pass([]byte(mask)); err != nil {
			return 0, err
		}
		data = data[at+size:]
	}
	keep := 0
	for _, value := range s.values {
		for n := min(len(value)-1, len(data)); n > keep; n-- {
			if bytes.HasPrefix(value, data[len(data)-n:]) {
				keep = n
			}
		}
	}
	if err := s.pass(data[:len(data)-keep]); err != nil {
		return 0, err
	}
	s.held = bytes.Clone(data[len(data)-keep:])
	return len(p), nil
}

func (s *scrubbed) pass(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := s.w.Write(p)
	return err
}

// flush passes on what was held back.
func (s *scrubbed) flush() error {
	held := s.held
	s.held = nil
	return s.pass(held)
}
