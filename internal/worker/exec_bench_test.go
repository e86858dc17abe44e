package worker_test

import (
	"os/exec"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner/standard"
	"github.com/runnel-project/runnel/internal/worker"
)

// BenchmarkExec is a short command through queue and worker at concurrency 8; BenchmarkExecBare is os/exec alone.
func BenchmarkExec(b *testing.B) {
	f := newFleet(b)
	reg, err := standard.Runners(standard.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer reg.Close()
	_, stop := f.worker(worker.Config{Slots: 8, Registry: reg})
	defer stop()
	open := make(chan struct{}, 64)
	sub, err := f.nc.Subscribe(f.topo.Names().LiveResults("default"), func(*nats.Msg) { <-open })
	if err != nil {
		b.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		open <- struct{}{}
		inv := contracts.Invocation{ID: contracts.NewID(), Kind: contracts.KindSubprocess, Command: []string{"sh", "-c", "echo hi"}}.WithDefaults()
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
	b.ReportMetric(float64(f.count(f.reply, "runnel.reply.*.*.*.start")), "starts")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

func BenchmarkExecBare(b *testing.B) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, 8)
	for b.Loop() {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if _, err := exec.Command("sh", "-c", "echo hi").Output(); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}
