package worker_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/worker"
)

// BenchmarkFiles is what files add to one invocation at a time, submit to result held: none, one of 4 KiB, one of
// 8 MiB, a log of as much.
func BenchmarkFiles(b *testing.B) {
	for name, bench := range map[string]struct {
		size int
		log  bool
	}{"none": {}, "small": {size: 4 << 10}, "large": {size: 8 << 20}, "log": {size: 8 << 20, log: true}} {
		b.Run(name, func(b *testing.B) {
			f := newFleet(b)
			js, err := jetstream.New(f.node.Connect(b))
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			f.worker(worker.Config{
				Files: func(ctx context.Context, tenant string) (worker.Files, error) {
					return artifacts.Open(ctx, js, artifacts.Config{Tenant: tenant})
				},
				Registry: runner.Registry{contracts.KindNoop: runner.Func(func(_ context.Context, job runner.Job, out runner.Sink) (contracts.Outcome, error) {
					data := make([]byte, bench.size)
					n++
					for i := 0; i < len(data); i += 4 << 10 {
						data[i], data[i+1], data[i+2] = byte(n), byte(n>>8), byte(i>>12)
					}
					var err error
					if bench.log {
						_, err = out.Stream(contracts.Stdout, "").Write(data)
					} else if bench.size > 0 {
						err = os.WriteFile(filepath.Join(job.Artifacts, "file"), data, 0o600)
					}
					if err != nil {
						return contracts.Outcome{}, err
					}
					return ok()
				})},
			})
			done := make(chan struct{}, 1)
			if _, err := f.nc.Subscribe(f.topo.Names().LiveResults("default"), func(*nats.Msg) { done <- struct{}{} }); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(bench.size))
			for b.Loop() {
				f.submit(contracts.Invocation{Kind: contracts.KindNoop, KeepLog: bench.log, OutputLimitBytes: 64 << 10})
				<-done
			}
		})
	}
}
