//go:build unix

package subprocess_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/subprocess"
)

func init() {
	// writes N: the pattern on both streams in pieces, and out at once (S29).
	children["writes"] = func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		data := runnertest.Pattern(n)
		for len(data) > 0 {
			piece := data[:min(len(data), 100_000)]
			data = data[len(piece):]
			for _, file := range []*os.File{os.Stdout, os.Stderr} {
				if _, err := file.Write(piece); err != nil {
					return 1
				}
			}
		}
		return 0
	}
}

// self returns a job that is this test binary as the child of that name.
func self(t testing.TB, name string, args ...string) runner.Job {
	t.Helper()
	// The file is looked up, argv[0] is what was asked for: a link gives it the name that TestMain looks for.
	job := command(t, append([]string{childArgv0, name}, args...)...)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(exe, bin+"/"+childArgv0); err != nil {
		t.Fatal(err)
	}
	job.Environment = map[string]string{"PATH": bin + ":" + os.Getenv("PATH"), "GORACE": "atexit_sleep_ms=0"}
	return job
}

func TestRunner(t *testing.T) {
	for _, rung := range rungs {
		t.Run(rung, func(t *testing.T) {
			runnertest.Run(t, func(t *testing.T) runner.Runner {
				return open(t, subprocess.Config{Ladder: rung})
			}, runnertest.Options{
				Quick:  func(t testing.TB) runner.Job { return shell(t, "exit 0") },
				Fails:  func(t testing.TB) runner.Job { return shell(t, "exit 3") },
				Writes: func(t testing.TB, n int) runner.Job { return self(t, "writes", strconv.Itoa(n)) },
				Echo:   func(t testing.TB) runner.Job { return command(t, "cat") },
				Hangs:  hangs,
				Rejected: map[string]func(testing.TB) runner.Job{
					"no command": func(t testing.TB) runner.Job { return command(t) },
					"NUL in an argument": func(t testing.TB) runner.Job {
						return command(t, "echo", "a\x00b")
					},
					"NUL in the environment": func(t testing.TB) runner.Job {
						job := shell(t, "echo")
						job.Environment = map[string]string{"A": "\x00"}
						return job
					},
					"= in a name": func(t testing.TB) runner.Job {
						job := shell(t, "echo")
						job.Environment = map[string]string{"A=B": "c"}
						return job
					},
					"several patterns in one (T24)": func(t testing.TB) runner.Job {
						job := shell(t, "echo")
						job.EnvironmentPass = []string{"A B"}
						return job
					},
				},
			})
		})
	}
}

// hangs makes a shell with a child, in another group, that both go on.
func hangs(t testing.TB) (runner.Job, func() bool) {
	job := shell(t, "setsid sh -c 'echo $$ > 2; exec sleep 600' & echo $$ > 1; until test -s 2; do :; done; echo ready; wait")
	job.Stop = &contracts.Stop{GraceSeconds: new(float64(5))}
	return job, func() bool { return alive(t, job.Dir+"/1") || alive(t, job.Dir+"/2") }
}

// alive reports whether the process whose id is in the file runs.
func alive(t testing.TB, file string) bool {
	t.Helper()
	return running(readPID(t, file))
}

func readPID(t testing.TB, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		t.Errorf("%s holds %q, not a process id", file, text)
		return 0
	}
	return pid
}

// running reports whether there is such a process. A zombie that nobody has reaped yet is none: it has ended.
func running(pid int) bool {
	if pid <= 1 || syscall.Kill(pid, 0) != nil {
		return false
	}
	state, _ := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return len(state) > 0 && state[0] != 'Z'
}
