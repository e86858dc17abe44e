//go:build unix

package artifacts_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/artifacts"
)

// What is not a regular file is named and left out, whatever opening it would do.
func TestWhatIsNoFileIsAWarning(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	dir := write(t, map[string]entry{"kept": {0o644, "k"}, "sub/kept too": {0o644, "t"}})
	outside := write(t, map[string]entry{"secret": {0o600, "nobody's"}})
	must(t,
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644), // to open it would wait for a writer
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "link-out")),
		os.Symlink("../../../../../../../../etc/passwd", filepath.Join(dir, "link-up")),
		os.Symlink("kept", filepath.Join(dir, "link-in")),
		os.Symlink(outside, filepath.Join(dir, "link-dir")),
		os.Symlink("nowhere", filepath.Join(dir, "link-dangling")),
		os.Symlink(".", filepath.Join(dir, "sub", "loop")),
	)
	// A socket's path is short by law.
	here, err := os.Getwd()
	must(t, err, os.Chdir(dir))
	defer os.Chdir(here)
	l, err := net.Listen("unix", "sock")
	must(t, err)
	defer l.Close()

	want := map[string]string{
		"pipe": "named pipe", "link-out": "symbolic link", "link-up": "symbolic link", "link-in": "symbolic link",
		"link-dir": "symbolic link", "link-dangling": "symbolic link", "sub/loop": "symbolic link", "sock": "socket",
	}
	if err := mknod(filepath.Join(dir, "null")); err == nil {
		want["null"] = "character device"
	} else {
		t.Logf("no device among them: %v", err)
	}
	if os.Getuid() != 0 { // root reads everything
		must(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0))
		must(t, os.Mkdir(filepath.Join(dir, "closed"), 0))
		want["mine"], want["closed/"] = "permission denied", "permission denied"
	}
	c := collect(t, s, dir)
	if got := len(c.Artifacts); got != 2 || c.Artifacts[0].Path != "kept" || c.Artifacts[1].Path != "sub/kept too" {
		t.Errorf("Collect() has %v, want the two regular files", c.Artifacts)
	}
	if len(c.Warnings) != len(want) {
		t.Errorf("Collect() warns %d times, want %d: %q", len(c.Warnings), len(want), c.Warnings)
	}
	for name, why := range want {
		found := false
		for _, w := range c.Warnings {
			found = found || strings.Contains(w, `"`+name+`"`) && strings.Contains(w, why)
		}
		if !found {
			t.Errorf("no warning names %q and says %q: %q", name, why, c.Warnings)
		}
	}
}

func TestTheDirectoryItselfIsReplaced(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	outside := write(t, map[string]entry{"secret": {0o600, "nobody's"}})
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(outside, link))
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for name, tt := range map[string]struct{ dir, want string }{
		"by a link": {link, "symbolic link"},
		"by a file": {file, "regular file"},
		"by none":   {filepath.Join(outside, "gone"), "removed"},
	} {
		t.Run(name, func(t *testing.T) {
			c := collect(t, s, tt.dir)
			if len(c.Artifacts) != 0 || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], tt.want) {
				t.Errorf("Collect() = %v, %q; want nothing and a warning with %q", c.Artifacts, c.Warnings, tt.want)
			}
		})
	}
}

// A job that goes on while its files are collected swaps them for pipes, on which an
// open waits for ever, and for links to what is not its own.
func TestASwappingJobGetsNothingRead(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	const secret = "what the worker may read and the job may not"
	outside := write(t, map[string]entry{"secret": {0o600, secret}})
	dir := write(t, map[string]entry{"steady": {0o644, "s"}, "d/file": {0o644, "f"}})
	ctx, stop := context.WithCancel(t.Context())
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		swap, d := filepath.Join(dir, "swap"), filepath.Join(dir, "d")
		for ctx.Err() == nil {
			os.WriteFile(swap, []byte("harmless"), 0o644)
			os.Remove(swap)
			syscall.Mkfifo(swap, 0o644)
			os.Remove(swap)
			os.Symlink(filepath.Join(outside, "secret"), swap)
			os.Remove(swap)
			os.Rename(d, d+".away")
			os.Symlink(outside, d)
			os.Remove(d)
			os.Rename(d+".away", d)
		}
	}()
	for round := 0; round < 300; round++ {
		within, cancel := context.WithTimeout(ctx, 30*time.Second)
		c, err := s.Collect(within, dir)
		cancel()
		if err != nil {
			t.Fatalf("Collect() = %v", err)
		}
		for _, a := range c.Artifacts {
			if a.SHA256 == hexSum(secret) {
				t.Fatalf("round %d: %q is the secret", round, a.Path)
			}
		}
		if !strings.Contains(paths(c), "steady") {
			t.Fatalf("round %d: Collect() = %s, want the file that stands still among them", round, paths(c))
		}
	}
	stop()
	<-swapped
}

// A file that grows while it is read is stored as it was read.
func TestAGrowingFileIsStoredAsRead(t *testing.T) {
	s, _ := open(t, artifacts.Config{MaxRunBytes: 64 << 20})
	dir := write(t, map[string]entry{"huge": {0o644, random(9 << 20)}, "large": {0o644, random(3 << 20)}, "small": {0o644, "x"}})
	ctx, stop := context.WithCancel(t.Context())
	grown := make(chan struct{})
	go func() {
		defer close(grown)
		for ctx.Err() == nil {
			for name, size := range map[string]int64{"huge": 9 << 20, "large": 3 << 20, "small": 0} {
				f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					return
				}
				if info, err := f.Stat(); err == nil && info.Size() > size+3<<20 {
					f.Truncate(size) // and shrinks
				}
				f.WriteString(strings.Repeat("grown ", 1000))
				f.Close()
			}
		}
	}()
	for range 3 {
		c := collect(t, s, dir)
		if c.Count != 3 {
			t.Errorf("Collect() = %s, %q; want all three files", paths(c), c.Warnings)
		}
		for _, a := range c.Artifacts { // verified by the reader
			if got := readAll(t, s, a); int64(len(got)) != a.Size {
				t.Errorf("%s reads %d bytes, want %d", a.Path, len(got), a.Size)
			}
		}
	}
	stop()
	<-grown
}
