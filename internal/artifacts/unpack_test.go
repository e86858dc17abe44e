package artifacts_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
)

func TestUnpackTakesWhatPatternsMatch(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	files := make(map[string]entry)
	for _, name := range []string{"report.html", "log/a.txt", "log/b.txt", "log/old/c.txt", "log/old/[x].bin", "d{1}", "logs"} {
		files[name] = entry{0o644, "content of " + name}
	}
	r := result(t, collect(t, s, write(t, files)))
	for name, tt := range map[string]struct {
		patterns, want []string
	}{
		"all":                    {nil, []string{"d{1}", "log/a.txt", "log/b.txt", "log/old/[x].bin", "log/old/c.txt", "logs", "report.html"}},
		"a name":                 {[]string{"report.html"}, []string{"report.html"}},
		"a name like a pattern":  {[]string{"log/old/[x].bin", "d{1}"}, []string{"d{1}", "log/old/[x].bin"}},
		"a directory":            {[]string{"log/old"}, []string{"log/old/[x].bin", "log/old/c.txt"}},
		"a directory, marked":    {[]string{"log/"}, []string{"log/a.txt", "log/b.txt", "log/old/[x].bin", "log/old/c.txt"}},
		"a pattern":              {[]string{"*/*.txt"}, []string{"log/a.txt", "log/b.txt"}},
		"across directories":     {[]string{"**/*.txt"}, []string{"log/a.txt", "log/b.txt", "log/old/c.txt"}},
		"a pattern of directory": {[]string{"l?g"}, []string{"log/a.txt", "log/b.txt", "log/old/[x].bin", "log/old/c.txt"}},
		"either":                 {[]string{"{report,lo*}.html", "log/a.txt"}, []string{"log/a.txt", "report.html"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			written, err := s.Unpack(t.Context(), r, dir, tt.patterns...)
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(maps.Keys(tree(t, dir))); !slices.Equal(got, tt.want) || len(written) != len(tt.want) {
				t.Errorf("Unpack(%q) wrote %q, want %q", tt.patterns, got, tt.want)
			}
		})
	}
	for _, patterns := range [][]string{{"nothing"}, {"log/a.txt", "*.go"}, {"[z"}, {"../**"}} {
		dir := t.TempDir()
		_, err := s.Unpack(t.Context(), r, dir, patterns...)
		if !errors.Is(err, artifacts.ErrNoMatch) || !strings.Contains(err.Error(), fmt.Sprintf("%q", patterns[len(patterns)-1])) {
			t.Errorf("Unpack(%q) = %v, want ErrNoMatch that names the last", patterns, err)
		}
		if len(tree(t, dir)) > 0 {
			t.Errorf("Unpack(%q) wrote %v, want nothing", patterns, tree(t, dir))
		}
	}
}

// What lies in the directory already is a trap, or in the way, or replaced.
func TestUnpackIntoADirectoryInUse(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	r := result(t, collect(t, s, write(t, map[string]entry{"sub/file": {0o640, "new"}})))
	for name, tt := range map[string]struct {
		lay  func(dir, outside string) error
		want string // of the error; "" is none
	}{
		"an older file": {func(dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("old and longer"), 0o600))
		}, ""},
		"a read-only file": {func(dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("old"), 0o400))
		}, ""},
		"a link in the file's place": {func(dir, outside string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.Symlink(filepath.Join(outside, "file"), filepath.Join(dir, "sub", "file")))
		}, ""},
		"a link out in the directory's place": {func(dir, outside string) error {
			return os.Symlink(outside, filepath.Join(dir, "sub"))
		}, `"sub" is a symbolic link, not a directory`},
		"a link in in the directory's place": {func(dir, outside string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "other"), 0o755), os.Symlink("other", filepath.Join(dir, "sub")))
		}, `"sub" is a symbolic link, not a directory`},
		"a file in the directory's place": {func(dir, _ string) error {
			return os.WriteFile(filepath.Join(dir, "sub"), nil, 0o600)
		}, `"sub" is a regular file, not a directory`},
		"a directory in the file's place": {func(dir, _ string) error {
			return os.MkdirAll(filepath.Join(dir, "sub", "file"), 0o755)
		}, "there is a directory of that name"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, outside := t.TempDir(), write(t, map[string]entry{"file": {0o644, "not to be touched"}})
			must(t, tt.lay(dir, outside))
			_, err := s.Unpack(t.Context(), r, dir)
			if tt.want == "" {
				if got := tree(t, dir); err != nil || !equal(got, map[string]entry{"sub/file": {0o640, "new"}}) {
					t.Errorf("Unpack() = %v, and there is %v; want the new file", err, summary(got))
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"sub/file"`) {
				t.Errorf("Unpack() = %v, want an error that names the artifact and says %q", err, tt.want)
			}
			if got := tree(t, outside); got["file"].Data != "not to be touched" || len(got) != 1 {
				t.Errorf("Unpack() reached outside: %v", got)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "*", ".runnel-*"))
			if len(left) > 0 {
				t.Errorf("Unpack() left %v", left)
			}
		})
	}
}

func TestUnpackHasLimits(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	r := result(t, collect(t, s, write(t, map[string]entry{"a": {0o644, "123"}, "b": {0o644, "456"}, "c": {0o644, "789"}})))
	for name, cfg := range map[string]artifacts.Config{"files": {MaxFiles: 2}, "bytes": {MaxRunBytes: 8}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			narrow := openOn(t, js, cfg)
			if _, err := narrow.Unpack(t.Context(), r, dir); !errors.Is(err, artifacts.ErrLimit) || !strings.Contains(err.Error(), "by patterns") {
				t.Errorf("Unpack() = %v, want ErrLimit and what to do", err)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("Unpack() made its directory, want nothing")
			}
			if written, err := narrow.Unpack(t.Context(), r, dir, "[ab]"); err != nil || len(written) != 2 {
				t.Errorf("Unpack() of two = %d, %v", len(written), err)
			}
		})
	}
}

func TestCollectHasLimits(t *testing.T) {
	_, js := open(t, artifacts.Config{})
	dir := write(t, map[string]entry{
		"a": {0o644, "1234"}, "b": {0o644, "12345"}, "c": {0o644, "1234"}, "d": {0o644, ""}, "e": {0o644, "1"},
	})
	for name, tt := range map[string]struct {
		cfg  artifacts.Config
		kept string
		left map[string]string // what the warnings name, and say
	}{
		"files": {artifacts.Config{MaxFiles: 3}, "a b c", map[string]string{`"d"`: "may leave 3 files", `"e"`: "may leave 3 files"}},
		"bytes": {artifacts.Config{MaxRunBytes: 9}, "a b d", map[string]string{`"c"`: "4 bytes, and of the 9 that a run may leave 0 are free", `"e"`: "1 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := collect(t, openOn(t, js, tt.cfg), dir)
			if got := paths(c); got != tt.kept || len(c.Warnings) != len(tt.left) {
				t.Errorf("Collect() kept %s, warns %q; want %s and %d warnings", got, c.Warnings, tt.kept, len(tt.left))
			}
			for name, why := range tt.left {
				if all := strings.Join(c.Warnings, "\n"); !strings.Contains(all, name) || !strings.Contains(all, why) {
					t.Errorf("Collect() warns %q, want %s and %q", c.Warnings, name, why)
				}
			}
		})
	}
	many := make(map[string]entry)
	for i := range 200 {
		many[fmt.Sprintf("%03d %s", i, strings.Repeat("long ", 40))] = entry{0o644, "x"}
	}
	r := result(t, collect(t, openOn(t, js, artifacts.Config{MaxFiles: 20}), write(t, many)))
	if last := r.Warnings[len(r.Warnings)-1]; !strings.Contains(last, "156 more") || len(r.Warnings) != 25 {
		t.Errorf("Collect() warns %d times of 180 files, the last %q; want 24 and a count of 156 more", len(r.Warnings), last)
	}
	for _, w := range r.Warnings {
		if strings.HasSuffix(w, "...") {
			t.Errorf("the warning %q was cut", w)
		}
	}
	// So many that the walk ends before their number is known.
	crowd := make(map[string]entry)
	for i := range 100 {
		crowd[fmt.Sprintf("%03d/x", i)] = entry{0o644, "x"}
	}
	c := collect(t, openOn(t, js, artifacts.Config{MaxFiles: 2}), write(t, crowd))
	if last := c.Warnings[len(c.Warnings)-1]; c.Count != 2 || !strings.Contains(last, "more than 32 names") {
		t.Errorf("Collect() kept %d, warns %q last; want 2 and an end", c.Count, last)
	}
}

// What Collect takes, Unpack gives back: any names, sizes around every boundary, any modes.
func TestUnpackUndoesCollect(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	names := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(rapid.OneOf(
			rapid.SampledFrom([]string{"a", "b", "c", "-", "\xff", "\n", " ", "\uFFFD", ".x", "...", "*"}),
			rapid.Custom(func(t *rapid.T) string {
				b := rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "element")
				for i := range b {
					if b[i] == 0 || b[i] == '/' {
						b[i] = '_'
					}
				}
				return string(b)
			}),
		).Filter(func(s string) bool { return s != "." && s != ".." }), 1, 4).Draw(t, "parts")
		return strings.Join(parts, "/")
	}), 0, 12, rapid.ID[string])
	few, many := rapid.IntRange(0, 64), rapid.SampledFrom([]int{128 << 10, 128<<10 + 1, 1 << 20, 1<<20 + 1, artifacts.PartBytes, artifacts.PartBytes + 1})
	rapid.Check(t, func(rt *rapid.T) {
		files := make(map[string]entry)
		var order []string
		for _, name := range names.Draw(rt, "names") {
			free := true // neither a file nor a directory yet
			for other := range files {
				if strings.HasPrefix(other+"/", name+"/") || strings.HasPrefix(name+"/", other+"/") {
					free = false
				}
			}
			if !free {
				continue
			}
			mode := os.FileMode(rapid.IntRange(0, 0o777).Draw(rt, "mode")) | 0o400
			size := few
			if rapid.IntRange(0, 29).Draw(rt, "large") == 29 {
				size = many
			}
			files[name] = entry{mode, random(size.Draw(rt, "size"))}
			order = append(order, name)
		}
		c := collect(t, s, write(t, files))
		if len(c.Warnings) > 0 || c.Count != len(files) {
			rt.Fatalf("Collect() of %q kept %d, warns %q", order, c.Count, c.Warnings)
		}
		out := t.TempDir()
		if _, err := s.Unpack(t.Context(), result(t, c), out); err != nil {
			rt.Fatalf("Unpack() = %v", err)
		}
		if got := tree(t, out); !equal(got, files) {
			rt.Fatalf("unpacked %v, want %v", summary(got), summary(files))
		}
		os.RemoveAll(out)
	})
}

// Other lists than ours name stretches in any order, and the same one often.
func TestStretchesInAnyOrder(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	data := random(700 << 10)
	store, err := js.CreateObjectStore(t.Context(), objectStore())
	must(t, err)
	blob := "3." + hexSum(data)
	_, err = store.PutBytes(t.Context(), blob, []byte(data))
	must(t, err)
	small := "4." + hexSum("small")
	_, err = store.PutBytes(t.Context(), small, []byte("small"))
	must(t, err)
	var list []contracts.Artifact
	want := make(map[string]entry)
	for i, segs := range [][]contracts.Segment{
		{seg(blob, 0, 700<<10)},
		{seg(blob, 700<<10-1, 1)},
		{seg(blob, 131072, 131072), seg(blob, 0, 131072)},
		{seg(blob, 131071, 2), seg(small, 1, 3), seg(blob, 131071, 2), seg(blob, 5, 1)},
		{seg(small, 4, 1), seg(small, 0, 5)},
		{seg(blob, 300000, 300000)},
	} {
		content := ""
		for _, sg := range segs {
			from := map[string]string{blob: data, small: "small"}[sg.Blob]
			content += from[sg.Offset : sg.Offset+sg.Length]
		}
		a := contracts.Artifact{Path: fmt.Sprint("f", i), Mode: 0o600, Size: int64(len(content)), SHA256: hexSum(content), Segments: segs}
		list = append(list, a)
		want[a.Path] = entry{0o600, content}
		if got := readAll(t, s, a); got != content {
			t.Errorf("Open(%s) reads other content", a.Path)
		}
	}
	out := t.TempDir()
	_, err = s.Unpack(t.Context(), contracts.Result{Artifacts: list}, out)
	must(t, err)
	if got := tree(t, out); !equal(got, want) {
		t.Errorf("unpacked %v, want %v", summary(got), summary(want))
	}
}
