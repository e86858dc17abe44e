package engine_test

import (
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/standard"
	_ "github.com/runnel-project/runnel/internal/runner/standard/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An engine that does not answer is no error of the worker's: the kind is withdrawn, and said to be.
func TestWithoutAnEngine(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+t.TempDir()+"/nobody.sock")
	if !slices.Contains(standard.Kinds(), contracts.KindContainer) {
		t.Fatalf("Kinds() = %v, want container among them", standard.Kinds())
	}
	registry, err := standard.Runners(standard.Config{Kinds: []contracts.Kind{contracts.KindContainer}, WorkRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if registry.Serves(contracts.KindContainer) {
		t.Error("Serves() = true without an engine")
	}
	if said := registry.Capabilities()["container.engine"]; said == "" {
		t.Errorf("Capabilities() = %v, want a word on the engine", registry.Capabilities())
	}
	if err := registry.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

func TestPolicyIsChecked(t *testing.T) {
	cfg := standard.Config{Kinds: []contracts.Kind{contracts.KindContainer}}
	cfg.Containers.AllowMount = []string{"relative"}
	if registry, err := standard.Runners(cfg); err == nil {
		registry.Close()
		t.Error("Runners() takes an allowed mount that is not absolute")
	}
}
