// Package engine adds kind container to package standard, for programs that import it for its sake. It is apart
// because it brings in a client of container engines, which most programs that embed a worker have no use for.
package engine

import (
	"maps"
	"slices"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/standard"
)

func init() { standard.Add(contracts.KindContainer, open) }

func open(cfg standard.Config) (runner.Runner, error) {
	c := cfg.Containers
	var warm []container.Warm
	for _, image := range slices.Sorted(maps.Keys(c.Warm)) {
		warm = append(warm, container.Warm{Image: image, N: c.Warm[image]})
	}
	return container.New(container.Config{
		WorkRoot: cfg.WorkRoot, AllowNetwork: c.AllowNetwork, AllowMount: c.AllowMount,
		MaxMemory: c.MaxMemory, MaxCPUs: c.MaxCPUs, MaxPIDs: c.MaxPIDs,
		MaxDisk: c.MaxDisk, MaxDiskFiles: c.MaxDiskFiles,
		MaxSetups: c.MaxSetups, MaxSetupBytes: c.MaxSetupBytes, SetupAge: c.SetupAge, Warm: warm,
		Sandboxes: cfg.Sandboxes, Slots: cfg.Slots, Warn: cfg.Warn,
	})
}
