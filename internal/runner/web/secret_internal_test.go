package web

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("token", "in the directory\n")
	write("crlf", "windows\r\n")
	write("large", strings.Repeat("x", maxSecretBytes+1))
	write("outside.txt", "out")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("token", filepath.Join(dir, "inner")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte("# comment\n\ntoken=in the file\nfile.only = a = b \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SECRET_token", "in the environment")
	t.Setenv("SECRET_env_only_x", "e")
	s := secrets{dir: dir, file: file, env: "SECRET_"}
	for name, want := range map[string]string{
		"token": "in the directory", "crlf": "windows", "inner": "in the directory", "file.only": " a = b ", "env-only.x": "e",
	} {
		if got, err := s.find(name); got != want || err != nil {
			t.Errorf("find(%s) = %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"link", "sub", "large"} {
		if got, err := s.find(name); err == nil || errors.Is(err, errNoSecret) || got != "" {
			t.Errorf("find(%s) = %q, %v, want an error", name, got, err)
		}
	}
	if _, err := s.find("nobody"); !errors.Is(err, errNoSecret) {
		t.Errorf("find(nobody) = %v", err)
	}
	if got := s.String(); got != "a directory, a file, the environment" {
		t.Errorf("String() = %q", got)
	}
	if err := s.check(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("no equals sign: hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.check(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("check() = %v, want an error without the line", err)
	}
}

// However what is written is cut into pieces, no secret comes through, and nothing else is lost.
func FuzzScrubbed(f *testing.F) {
	f.Add([]byte("a hunter2 b hunhunter2 huntertwo"), "hunter2", "hunt", uint8(3))
	f.Add([]byte("ababab abab"), "abab", "ba", uint8(1))
	f.Add([]byte("\xff\x00\xff\x00\xff"), "\xff\x00", "\x00", uint8(2))
	f.Fuzz(func(t *testing.T, text []byte, one, two string, step uint8) {
		if len(one) < 2 || len(two) < 2 || strings.Contains(mask, one) || strings.Contains(mask, two) {
			return
		}
		var s scrubber
		s.add(one)
		s.add(two)
		var whole, pieces bytes.Buffer
		w := &scrubbed{w: &whole, values: s.values}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		w = &scrubbed{w: &pieces, values: s.values}
		for rest := text; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			if wrote, err := w.Write(rest[:n]); err != nil || wrote != n {
				t.Fatal(wrote, err)
			}
			rest = rest[n:]
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, value := range s.values {
			found = found || bytes.Contains(text, value)
			for _, got := range [][]byte{whole.Bytes(), pieces.Bytes()} {
				// What stands around a mask may make up the text of a secret that was never there.
				for _, part := range bytes.Split(got, []byte(mask)) {
					if bytes.Contains(part, value) {
						t.Fatalf("%q is in %q", value, part)
					}
				}
			}
		}
		if !found && (!bytes.Equal(whole.Bytes(), text) || !bytes.Equal(pieces.Bytes(), text)) {
			t.Fatalf("%q became %q and %q", text, whole.Bytes(), pieces.Bytes())
		}
	})
}
