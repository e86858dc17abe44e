//go:build unix

package conformance_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/embedded/conformance"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// A test binary that is started with this is a twin, with the fault that it names.
const twinEnv = "CONFORMANCE_TWIN"

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(twinEnv); ok {
		part, fault, _ := strings.Cut(text, ":")
		if part == "producer" {
			os.Exit(producerTwin(fault, os.Args[1:]))
		}
		os.Exit(responderTwin(fault, "conformance"))
	}
	goleak.VerifyTestMain(m)
}

type kitFunc = func(context.Context, conformance.Config, func(conformance.Check)) error

// run checks a program, and returns the rules that it breaks and those that there are.
func run(t *testing.T, kit kitFunc, cfg conformance.Config) (broken map[string]error, all []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	broken = map[string]error{}
	err := kit(ctx, cfg, func(c conformance.Check) {
		all = append(all, c.Rule)
		if c.Err != nil {
			broken[c.Rule] = c.Err
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return broken, all
}

// twin is this test binary with a fault; env sets it before the program.
func twin(t *testing.T, part, fault string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"env", twinEnv + "=" + part + ":" + fault, "GORACE=atexit_sleep_ms=0", self}
}

// A twin without a fault keeps every rule, and one for each rule breaks that.
func TestTwins(t *testing.T) {
	for part, kit := range map[string]kitFunc{"producer": conformance.Producer, "responder": conformance.Responder} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			broken, all := run(t, kit, conformance.Config{Command: twin(t, part, "none"), Stderr: t.Output()})
			if len(broken) > 0 || len(all) < 10 {
				t.Fatalf("a right program of %d rules breaks %v", len(all), broken)
			}
			for _, rule := range all {
				t.Run(rule, func(t *testing.T) {
					t.Parallel()
					broken, _ := run(t, kit, conformance.Config{
						Command: twin(t, part, rule), Rules: []string{rule}, Patience: 3 * time.Second,
					})
					if broken[rule] == nil {
						t.Errorf("a program that breaks it passes")
					}
					t.Logf("%v", broken[rule])
				})
			}
		})
	}
}

// The programs of docs/examples keep every rule.
func TestExamples(t *testing.T) {
	example := func(name string) string {
		path, err := filepath.Abs("../../docs/examples/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		kit     kitFunc
		command []string
	}{
		// Without what is installed beside the standard library it speaks JSON.
		"python":                   {conformance.Producer, []string{"python3", "-S", example("runnel.py"), "submit"}},
		"python responder":         {conformance.Responder, []string{"python3", "-S", example("runnel.py"), "respond", "conformance"}},
		"python msgpack":           {conformance.Producer, []string{msgpackPython(), example("runnel.py"), "submit"}},
		"python msgpack responder": {conformance.Responder, []string{msgpackPython(), example("runnel.py"), "respond", "conformance"}},
		"shell":                    {conformance.Producer, []string{"bash", example("runnel.sh")}},
		"node":                     {conformance.Producer, []string{"node", example("runnel.mjs")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.command[0] == "" {
				t.Skip("no python3 with msgpack on this machine: Debian's package is python3-msgpack")
			}
			if _, err := exec.LookPath(test.command[0]); err != nil {
				t.Skipf("no %s on this machine", test.command[0])
			}
			broken, all := run(t, test.kit, conformance.Config{Command: test.command, Patience: time.Minute, Stderr: t.Output()})
			for rule, err := range broken {
				t.Errorf("%s: %v", rule, err)
			}
			if len(all) < 10 {
				t.Errorf("only %v are checked", all)
			}
		})
	}
}

// On a server of somebody else's, streams of its own are made and removed again, and no others are touched.
func TestOutsideServer(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 on this machine")
	}
	servers := queuetest.Process(t)
	nc := servers.Connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(t.Context(), js, queue.Topology{}); err != nil {
		t.Fatal(err)
	}
	heard, err := nc.SubscribeSync("runnel.>")
	if err != nil {
		t.Fatal(err)
	}
	before := streams(t, js)
	python, err := filepath.Abs("../../docs/examples/runnel.py")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		kit   kitFunc
		args  []string
		rules []string // those with a part of their own to play for names and streams
	}{
		"producer":  {conformance.Producer, []string{"submit"}, []string{"subject", "live", "gap", "exit", "again"}},
		"responder": {conformance.Responder, []string{"respond", "conformance"}, []string{"outcome", "output", "resend"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken, all := run(t, test.kit, conformance.Config{
				Command: append([]string{"python3", "-S", python}, test.args...), Patience: time.Minute, Stderr: t.Output(),
				Conn: servers.Connect(t), Rules: test.rules, Environment: []string{"RUNNEL_SERVER=" + servers.URL()},
			})
			if len(broken) > 0 || len(all) != len(test.rules) {
				t.Errorf("of %d rules it breaks %v", len(all), broken)
			}
		})
	}
	t.Cleanup(func() { // when both have ended
		if after := streams(t, js); !slices.Equal(after, before) {
			t.Errorf("streams = %v, want %v as before", after, before)
		}
		if m, err := heard.NextMsg(time.Millisecond); err == nil {
			t.Errorf("%s is somebody else's", m.Subject)
		}
	})
}

// What was made is removed, too, when the check fails, or is ended in the middle.
func TestOutsideServerIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	// Nearly all the room that there is has been reserved by others.
	nc := queuetest.Server(t, func(o *server.Options) { o.JetStreamMaxStore = 1<<20 + 1 }).Connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHERS", Subjects: []string{"others"}, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	before := streams(t, js)
	stop := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	err = conformance.Producer(ctx, conformance.Config{Command: []string{"true"}, Patience: 50 * time.Millisecond, Conn: nc}, func(conformance.Check) {
		if len(streams(t, js)) != len(before)+4 {
			t.Error("there are no streams to check on")
		}
		cancel(stop)
	})
	if !errors.Is(err, stop) {
		t.Errorf("Producer() = %v, want %v", err, stop)
	}
	if left := streams(t, js); !slices.Equal(left, before) {
		t.Errorf("after an end in the middle there is %v", left)
	}
	if err := conformance.Responder(t.Context(), conformance.Config{Command: []string{"true"}, Conn: nc}, func(conformance.Check) {}); err == nil {
		t.Error("Responder() of a program that has ended is no error")
	}
	if left := streams(t, js); !slices.Equal(left, before) {
		t.Errorf("after a failure there is %v", left)
	}
}

// streams are the names of all streams there are, sorted.
func streams(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	var all []string
	list := js.StreamNames(context.Background())
	for name := range list.Name() {
		all = append(all, name)
	}
	if err := list.Err(); err != nil {
		t.Error(err)
	}
	slices.Sort(all)
	return all
}

// msgpackPython returns a python3 that has msgpack, or "".
func msgpackPython() string {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import msgpack").Run() == nil {
			return python
		}
	}
	return ""
}

func TestRefuses(t *testing.T) {
	tell := func(conformance.Check) { t.Error("a rule is judged") }
	for name, cfg := range map[string]conformance.Config{
		"no program":      {},
		"no such program": {Command: []string{filepath.Join(t.TempDir(), "none")}},
		"no such rule":    {Command: []string{"true"}, Rules: []string{"none"}},
		"ends at once":    {Command: []string{"true"}},
	} {
		if err := conformance.Responder(t.Context(), cfg, tell); err == nil {
			t.Errorf("%s: Responder() is no error", name)
		}
	}
	if err := conformance.Producer(t.Context(), conformance.Config{Command: []string{"true"}, Rules: []string{"none"}}, tell); err == nil {
		t.Error("Producer() of a rule that there is not is no error")
	}
	var rules []string
	err := conformance.Producer(t.Context(), conformance.Config{Command: []string{"true"}, Patience: 100 * time.Millisecond}, func(c conformance.Check) {
		if c.Err != nil {
			rules = append(rules, c.Rule)
		}
	})
	if err != nil || !slices.Contains(rules, "subject") || len(rules) < 10 {
		t.Errorf("Producer() of a program that does nothing = %v, and breaks %v", err, rules)
	}
}
