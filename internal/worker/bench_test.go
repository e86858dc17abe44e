package worker_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
	"github.com/runnel-project/runnel/internal/runner/noop"
	"github.com/runnel-project/runnel/internal/worker"
)

// BenchmarkNoop is the way of one invocation through queue and worker, 256 open, with
// server, worker and submitter in one process. `submit bench noop --limit` is the measure
// with processes of their own.
func BenchmarkNoop(b *testing.B) {
	f := newFleet(b)
	f.worker(worker.Config{Slots: 16, Registry: runner.Registry{contracts.KindNoop: noop.Runner{}}})
	open := make(chan struct{}, 256)
	sub, err := f.nc.Subscribe(f.topo.Names().LiveResults("default"), func(*nats.Msg) { <-open })
	if err != nil {
		b.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		open <- struct{}{}
		inv := contracts.Invocation{ID: contracts.NewID(), Kind: contracts.KindNoop}.WithDefaults()
		data, err := contracts.Encode(inv)
		if err != nil {
			b.Fatal(err)
		}
		f.in.PutAsync(f.topo.Names().Invoke(queue.AddressOf(inv)), nats.Header{contracts.HeaderVersion: {contracts.Version}}, data, func(_ uint64, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	for range cap(open) {
		open <- struct{}{}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkLatency is one invocation at a time, submit to result held.
func BenchmarkLatency(b *testing.B) {
	f := newFleet(b)
	f.worker(worker.Config{Slots: 16, Registry: runner.Registry{contracts.KindNoop: noop.Runner{}}})
	done := make(chan struct{}, 1)
	if _, err := f.nc.Subscribe(f.topo.Names().LiveResults("default"), func(*nats.Msg) { done <- struct{}{} }); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f.submit(contracts.Invocation{Kind: contracts.KindNoop})
		<-done
	}
}
