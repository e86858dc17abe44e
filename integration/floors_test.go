package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/runnel-project/runnel"

// room is a part of the house: a folder with everything below it.
// Imports inside a room are its own business; between rooms they go down.
type room struct {
	floor int
	// never lists prefixes of import paths that no package of the room imports itself.
	never []string
	// neverThrough lists prefixes that it does not reach through others either.
	neverThrough []string
	// only, where it is set, lists all that is not of the standard library.
	only []string
}

const (
	zerologPath = "github.com/rs/zerolog"
	natsPath    = "github.com/nats-io/"
	dockerPath  = "github.com/docker/" // only in Runnel's own worker: nobody who embeds one, or submits, carries an engine's client
)

// rooms is the table of DESIGN §2. The key is the folder below the module root; "" is the root package alone.
var rooms = map[string]room{
	"cmd/submit":  {floor: 5, never: []string{module + "/internal"}, neverThrough: []string{dockerPath}},
	"cmd/worker":  {floor: 5},
	"integration": {floor: 5},
	"embedded":    {floor: 4, neverThrough: []string{dockerPath}},
	"": {
		floor:        3,
		never:        []string{zerologPath},
		neverThrough: []string{module + "/internal/runner", module + "/internal/worker", zerologPath, dockerPath},
	},
	"internal/worker": {floor: 3, never: []string{natsPath, module + "/internal/runner/"}},
	"internal/queue": {
		floor: 2,
		never: []string{module + "/internal/runner", module + "/internal/artifacts", module + "/internal/worker", zerologPath},
	},
	"internal/runner": {
		floor: 2,
		never: []string{module + "/internal/queue", module + "/internal/artifacts", module + "/internal/worker", natsPath, zerologPath},
	},
	"internal/artifacts": {
		floor: 2,
		never: []string{module + "/internal/queue", module + "/internal/runner", module + "/internal/worker", zerologPath},
	},
	"internal/contracts": {
		floor: 1,
		only: []string{
			"github.com/vmihailenco/msgpack/v5", "github.com/vmihailenco/tagparser/v2", "github.com/go-json-experiment/json",
		},
	},
}

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

// roomOf returns the name of the room that a package of the module is in.
func roomOf(path string) (string, bool) {
	rest := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	if rest == "" {
		return "", true
	}
	for name := range rooms {
		if name != "" && (rest == name || strings.HasPrefix(rest, name+"/")) {
			return name, true
		}
	}
	return "", false
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// under reports whether path is prefix or inside it; a prefix that ends in / leaves itself out.
func under(path, prefix string) bool {
	if strings.HasSuffix(prefix, "/") {
		return strings.HasPrefix(path, prefix)
	}
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// broken returns every import among pkgs that breaks the table.
func broken(pkgs []listed) []string {
	standard := map[string]bool{}
	for _, p := range pkgs {
		standard[p.ImportPath] = p.Standard
	}
	var out []string
	say := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	for _, p := range pkgs {
		if !ours(p.ImportPath) {
			continue
		}
		name, ok := roomOf(p.ImportPath)
		if !ok {
			say("%s is in no room of the table", p.ImportPath)
			continue
		}
		from := rooms[name]
		for _, imp := range p.Imports {
			for _, never := range from.never {
				if under(imp, never) {
					say("%s imports %s, which its room never does", p.ImportPath, imp)
				}
			}
			if from.only != nil && !standard[imp] && !ours(imp) && !slices.ContainsFunc(from.only, func(prefix string) bool { return under(imp, prefix) }) {
				say("%s imports %s, which is not among what its room may import", p.ImportPath, imp)
			}
			if !ours(imp) {
				continue
			}
			other, ok := roomOf(imp)
			switch {
			case !ok:
				say("%s imports %s, which is in no room of the table", p.ImportPath, imp)
			case other == name:
			case rooms[other].floor >= from.floor:
				say("%s (floor %d) imports %s (floor %d): imports go down only", p.ImportPath, from.floor, imp, rooms[other].floor)
			}
		}
		for _, dep := range p.Deps {
			for _, never := range from.neverThrough {
				if under(dep, never) {
					say("%s reaches %s through %s", p.ImportPath, dep, strings.Join(through(pkgs, p, dep), ", "))
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// through names the direct imports of p that lead to dep.
func through(pkgs []listed, p listed, dep string) []string {
	var via []string
	for _, q := range pkgs {
		if slices.Contains(p.Imports, q.ImportPath) && (q.ImportPath == dep || slices.Contains(q.Deps, dep)) {
			via = append(via, q.ImportPath)
		}
	}
	return via
}

// list returns the packages of the module and all that they import, as goos sees them.
func list(t *testing.T, goos string) []listed {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	// go test caches a result by the files that the test itself looked at; go list is another process.
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Imports,Deps,Standard", "./...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestFloors(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			pkgs := list(t, goos)
			if !slices.ContainsFunc(pkgs, func(p listed) bool { return p.ImportPath == module+"/internal/contracts" }) {
				t.Fatal("go list does not see the module")
			}
			for _, b := range broken(pkgs) {
				t.Error(b)
			}
		})
	}
}

// The table must bite: each made-up import breaks one rule and is named.
func TestFloorsNameWhatBreaksThem(t *testing.T) {
	tests := map[string]struct {
		pkgs []listed
		want string
	}{
		"up": {
			pkgs: []listed{{ImportPath: module + "/internal/contracts", Imports: []string{module + "/internal/queue"}}},
			want: "imports go down only",
		},
		"across": {
			pkgs: []listed{{ImportPath: module + "/cmd/submit", Imports: []string{module + "/cmd/worker"}}},
			want: "imports go down only",
		},
		"a neighbour by name": {
			pkgs: []listed{{ImportPath: module + "/internal/artifacts", Imports: []string{module + "/internal/queue"}}},
			want: "internal/queue, which its room never does",
		},
		"the CLI past the client": {
			pkgs: []listed{{ImportPath: module + "/cmd/submit", Imports: []string{module + "/internal/contracts"}}},
			want: "internal/contracts, which its room never does",
		},
		"a concrete runner in the worker": {
			pkgs: []listed{{ImportPath: module + "/internal/worker", Imports: []string{module + "/internal/runner/subprocess"}}},
			want: "internal/runner/subprocess, which its room never does",
		},
		"NATS in a runner": {
			pkgs: []listed{{ImportPath: module + "/internal/runner/noop", Imports: []string{natsPath + "nats.go"}}},
			want: "nats.go, which its room never does",
		},
		"a library in contracts": {
			pkgs: []listed{{ImportPath: module + "/internal/contracts", Imports: []string{"golang.org/x/sys/unix"}}},
			want: "x/sys/unix, which is not among what its room may import",
		},
		"the worker through others": {
			pkgs: []listed{
				{ImportPath: module, Imports: []string{module + "/internal/queue"}, Deps: []string{module + "/internal/queue", module + "/internal/worker"}},
				{ImportPath: module + "/internal/queue", Deps: []string{module + "/internal/worker"}},
			},
			want: "reaches " + module + "/internal/worker through " + module + "/internal/queue",
		},
		"a room of its own": {
			pkgs: []listed{{ImportPath: module + "/internal/util"}},
			want: "internal/util is in no room",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(broken(tt.pkgs), "\n")
			if !strings.Contains(got, tt.want) {
				t.Errorf("broken() = %q, want %q in it", got, tt.want)
			}
		})
	}
	fine := []listed{
		{ImportPath: module + "/internal/runner/standard", Imports: []string{module + "/internal/runner/noop", module + "/internal/contracts"}},
		{ImportPath: module + "/internal/worker", Imports: []string{module + "/internal/runner", module + "/internal/queue", zerologPath}},
		{ImportPath: module + "/internal/contracts", Imports: []string{"github.com/vmihailenco/msgpack/v5"}},
	}
	if got := broken(fine); got != nil {
		t.Errorf("broken() = %q, want nothing", got)
	}
}
