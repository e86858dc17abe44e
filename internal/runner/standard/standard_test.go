package standard_test

import (
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/runnertest"
	"github.com/runnel-project/runnel/internal/runner/standard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunners(t *testing.T) {
	tests := map[string]struct {
		kinds, want []contracts.Kind
		says        string
	}{
		"all":         {nil, standard.Kinds(), ""},
		"one":         {[]contracts.Kind{"noop"}, []contracts.Kind{"noop"}, ""},
		"twice":       {[]contracts.Kind{"subprocess", "noop", "subprocess"}, []contracts.Kind{"noop", "subprocess"}, ""},
		"unknown":     {[]contracts.Kind{"subprocess", "teleport"}, nil, `no runner for kind "teleport"`},
		"wrong case":  {[]contracts.Kind{"Noop"}, nil, `"Noop"`},
		"empty token": {[]contracts.Kind{""}, nil, `""`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			registry, err := standard.Runners(standard.Config{Kinds: test.kinds})
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("Runners() = %v, %v, want an error with %s", registry, err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := registry.Kinds(); !slices.Equal(got, test.want) {
				t.Errorf("kinds = %v, want %v", got, test.want)
			}
			if err := registry.Close(); err != nil {
				t.Errorf("Close() = %v", err)
			}
		})
	}
}

// The worker's policy reaches the runner that it is for.
func TestConfigIsPassedOn(t *testing.T) {
	t.Setenv("STANDARD_PASSED", "yes")
	t.Setenv("STANDARD_DENIED", "no")
	dir := t.TempDir()
	registry, err := standard.Runners(standard.Config{
		PassEnv: []string{"STANDARD_*"}, DenyEnv: []string{"*DENIED"}, AllowWorkdir: []string{dir}, Ladder: "subreaper",
	})
	if err != nil {
		t.Skip(err)
	}
	defer registry.Close()
	if got := registry.Capabilities()["subprocess.kill"]; !strings.HasPrefix(got, "subreaper") {
		t.Errorf("rung = %q, want the one that was asked for", got)
	}
	sink := &runnertest.Sink{}
	_, err = registry.Run(t.Context(), runner.Job{
		Invocation: contracts.Invocation{
			Kind: contracts.KindSubprocess, Command: []string{"sh", "-c", "echo $STANDARD_PASSED$STANDARD_DENIED; pwd"}, WorkingDirectory: dir,
		},
		Dir: t.TempDir(),
	}, sink)
	if want := "yes\n" + dir + "\n"; err != nil || sink.Stdout() != want {
		t.Errorf("Run() = %v, %q, want %q", err, sink.Stdout(), want)
	}

	if registry, err := standard.Runners(standard.Config{Ladder: "rope"}); err == nil || !strings.Contains(err.Error(), "open runner subprocess") {
		t.Errorf("Runners() = %v, %v, want the error of the runner", registry, err)
	}
}
