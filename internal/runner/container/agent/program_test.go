package agent_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/runner/container/agent"
)

var rebuild = flag.Bool("rebuild", false, "build the programs again, and keep them")

// made is what the programs were made of, and by which Go.
const made = "program.made"

// The programs that are kept are those of the sources beside them: `make agent` after a change of these.
func TestProgramsAreCurrent(t *testing.T) {
	current := runtime.Version() + " " + sources(t) + "\n"
	archs := []string{"amd64", "arm64"}
	if *rebuild {
		for _, arch := range archs {
			var packed bytes.Buffer
			w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(build(t, arch)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile("program_"+arch+".gz", packed.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(made, []byte(current), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	kept, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	version, of, _ := strings.Cut(string(kept), " ")
	if of != sources(t)+"\n" {
		t.Fatal("the sources of the agent have changed since it was built: make agent")
	}
	if version != runtime.Version() {
		t.Logf("kept were programs of %s; this is %s, so their bytes are not compared", version, runtime.Version())
		return
	}
	if rounds, _ := strconv.Atoi(os.Getenv("RUNNEL_ROUNDS")); rounds < 10 {
		archs = archs[:1] // to build the library for another machine takes its time
	}
	for _, arch := range archs {
		if !bytes.Equal(program(t, arch), build(t, arch)) {
			t.Errorf("the agent for %s is not what its sources make: make agent", arch)
		}
	}
}

// sources is a digest of what the programs are built of.
func sources(t *testing.T) string {
	t.Helper()
	sum := sha256.New()
	for _, dir := range []string{"frame", "program"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(sum, "%s %d\n%s", filepath.ToSlash(file), len(data), data)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// build builds the program, the same on every machine.
func build(t *testing.T, arch string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "agent")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, "./program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOTOOLCHAIN=local")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("figure: the agent for %s has %d bytes", arch, len(data))
	return data
}

// program returns the program that is kept.
func program(t *testing.T, arch string) []byte {
	t.Helper()
	archive, err := agent.Program("linux", arch)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(archive))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOtherPlatformsHaveNone(t *testing.T) {
	if _, err := agent.Program("linux", "s390x"); err == nil || agent.Runs("linux", "s390x") || !agent.Runs("linux", "arm64") {
		t.Errorf("Program() of a platform without one = %v", err)
	}
}
