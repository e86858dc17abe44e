package artifacts_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
)

func TestCollectOfAWorkspace(t *testing.T) {
	t.Parallel()
	workspace := write(t, map[string]entry{
		"top.txt": {0o600, "1"}, "build/a.tar": {0o600, "2"}, "build/b.zip": {0o600, "3"}, "build/deep/c.tar": {0o600, "4"},
		"src/x/y/junit.xml": {0o600, "5"}, "src/cover.xml": {0o600, "6"}, "a b/[1]": {0o755, "7"}, "both": {0o600, "of the workspace"},
		"dir/file": {0o600, "8"}, ".runnel/stdout.log": {0o600, "not ours"},
	})
	dir := write(t, map[string]entry{"both": {0o600, "left"}, "dir": {0o600, "a file"}, "new/x": {0o600, "9"}})
	tests := map[string]struct {
		globs, want, warnings []string
	}{
		"none":               {nil, nil, nil},
		"a file":             {[]string{"top.txt"}, []string{"top.txt"}, nil},
		"a directory":        {[]string{"build/"}, []string{"build/a.tar", "build/b.zip", "build/deep/c.tar"}, nil},
		"within an element":  {[]string{"build/*.tar"}, []string{"build/a.tar"}, nil},
		"across elements":    {[]string{"**/*.tar"}, []string{"build/a.tar", "build/deep/c.tar"}, nil},
		"below a directory":  {[]string{"src/**/*.xml"}, []string{"src/cover.xml", "src/x/y/junit.xml"}, nil},
		"alternatives":       {[]string{"{build/deep,src}/*.{tar,xml}"}, []string{"build/deep/c.tar", "src/cover.xml"}, nil},
		"escaped":            {[]string{`a b/\[1\]`}, []string{"a b/[1]"}, nil},
		"two of one file":    {[]string{"top.*", "*.txt"}, []string{"top.txt"}, nil},
		"nothing":            {[]string{"nope/*", "top.txt"}, []string{"top.txt"}, []string{`artifacts: "nope/*" matches nothing in the workspace`}},
		"a name that is had": {[]string{"both"}, nil, []string{`artifact "both" of the workspace left out: $RUNNEL_ARTIFACTS has it, or a part of its path`}},
		"below a file":       {[]string{"dir/*"}, nil, []string{`artifact "dir/file" of the workspace left out: $RUNNEL_ARTIFACTS has it, or a part of its path`}},
		"our own name":       {[]string{".runnel/*"}, nil, []string{`artifact ".runnel" left out: the name is Runnel's own`, `artifacts: ".runnel/*" matches nothing in the workspace`}},
	}
	s, _ := open(t, artifacts.Config{})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := s.Collect(t.Context(), dir, artifacts.Workspace(workspace, tt.globs))
			if err != nil {
				t.Fatal(err)
			}
			want := append([]string{"both", "dir", "new/x"}, tt.want...)
			slices.Sort(want)
			if diff := cmp.Diff(strings.Join(want, " "), paths(got)); diff != "" {
				t.Errorf("Collect() (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, got.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			for _, a := range got.Artifacts {
				if a.Path == "both" && string(read(t, s, a)) != "left" {
					t.Error("both is not the one of $RUNNEL_ARTIFACTS")
				}
			}
		})
	}
}

// What lies elsewhere is not had by a link in the workspace, whichever element of the path it is.
func TestCollectOfAWorkspaceFollowsNoLink(t *testing.T) {
	t.Parallel()
	outside := write(t, map[string]entry{"secret": {0o600, "x"}})
	workspace := write(t, map[string]entry{"in/file": {0o600, "y"}})
	for name, to := range map[string]string{"file": outside + "/secret", "dir": outside, "inner": "in", "up": "../../.."} {
		if err := os.Symlink(to, filepath.Join(workspace, name)); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := open(t, artifacts.Config{})
	for glob, linked := range map[string]string{"file": "file", "dir/secret": "dir", "dir/**": "dir", "inner/file": "inner", "up/*": "up", "[f]ile": "file"} {
		got, err := s.Collect(t.Context(), t.TempDir(), artifacts.Workspace(workspace, []string{glob}))
		if err != nil || got.Count != 0 {
			t.Errorf("Collect(%s) = %d files, %v; want none", glob, got.Count, err)
		}
		want := `artifact "` + linked + `" left out: it is a symbolic link, not a regular file`
		if !slices.Contains(got.Warnings, want) {
			t.Errorf("Collect(%s) warns %q, want %q", glob, got.Warnings, want)
		}
	}
	gone := filepath.Join(t.TempDir(), "gone")
	got, err := s.Collect(t.Context(), gone, artifacts.Workspace(gone, []string{"*"}))
	want := []string{"no artifacts: the directory was removed", "no files of the workspace: the directory was removed", `artifacts: "*" matches nothing in the workspace`}
	if diff := cmp.Diff(want, got.Warnings); diff != "" || err != nil {
		t.Errorf("Collect() of what was removed: %v (-want +got):\n%s", err, diff)
	}
}

// FuzzGlob holds that a glob that an invocation may have is one to who matches it, and that looking only
// where it reaches finds what looking everywhere does.
func FuzzGlob(f *testing.F) {
	for _, glob := range []string{"a", "a/**/*.[ch]", "{a,b/{c,d}}/x", `\[a\]*`, "logs/", "[!x]?", "**", "a/b/c", "{a/b,c}", "[!]", "}", "[-a]", "a**b/c", "[{]}", "*{,a}{*,a*}{,*}{?,a*}x"} {
		f.Add(glob, "a/b/c")
	}
	f.Fuzz(func(t *testing.T, glob, name string) {
		inv := contracts.Invocation{ID: "a", Kind: contracts.KindNoop, ArtifactGlobs: []string{glob}}
		if inv.Validate() != nil {
			return
		}
		trimmed := strings.TrimSuffix(glob, "/")
		if !doublestar.ValidatePattern(trimmed) {
			t.Fatalf("%q is valid in an invocation, and not to doublestar", glob)
		}
		ok, err := doublestar.Match(trimmed, name)
		if err != nil {
			t.Fatalf("%q is valid in an invocation: Match(%q) = %v", glob, name, err)
		}
		if ok && !artifacts.Reaches(glob, name) {
			t.Fatalf("%q matches %q, which is not looked at", glob, name)
		}
	})
}
