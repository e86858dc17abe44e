package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/internal/contracts"
)

// disk is a small one that a test can fill. It is mounted nowhere, and so goes with the test's process, however that ends.
type disk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, size int) *disk {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skipf("a disk to fill is a tmpfs of the test's own, which needs root and Linux 5.2: %v", err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", fmt.Sprint(size)), unix.FsconfigCreate(fs)); err != nil {
		t.Skipf("a disk to fill is a tmpfs of the test's own, which needs root: %v", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Skipf("a disk to fill is a tmpfs of the test's own, which needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(mount) })
	return &disk{t: t, dir: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), mount)}
}

// fill leaves not a byte.
func (d *disk) fill() {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "filler"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for n := 1 << 20; n > 0; {
		if _, err := f.Write(make([]byte, n)); errors.Is(err, unix.ENOSPC) {
			n /= 2
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *disk) free() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, "filler")); err != nil {
		d.t.Fatal(err)
	}
}

// recoveries are the ways back from a full disk. A server does not take up again what it could not write, so each has a restart.
var recoveries = []struct {
	name string
	do   func(f *fleet.Fleet, d *disk)
}{
	{"made room, stopped, started", func(f *fleet.Fleet, d *disk) {
		d.free()
		f.Servers.Stop(0)
		f.Servers.Restart(0)
	}},
	{"killed, made room, started", func(f *fleet.Fleet, d *disk) {
		f.Servers.Kill(0)
		d.free()
		f.Servers.Restart(0)
	}},
	{"stopped, made room, started", func(f *fleet.Fleet, d *disk) {
		f.Servers.Stop(0)
		d.free()
		f.Servers.Restart(0)
	}},
}

// The disk of the one server fills up under jobs that run, wait and are submitted. Nothing is stored any more, and nobody asks the
// more for it; workers and doctor say that it takes a restart; and after that all goes on by itself, with one result for each.
func TestSoakDiskFull(t *testing.T) {
	if rounds(t, 0) == 0 {
		t.Skip("RUNNEL_ROUNDS is not set: a disk stays full for seconds (make soak)")
	}
	t.Parallel()
	d := newDisk(t, 256<<20) // Runnel's streams promise a fraction of it; nothing of it is used but what is filled
	f := fleet.Start(t, fleet.Config{StoreDir: d.dir, InvokeMaxBytes: 8 << 20, ReplyMaxBytes: 24 << 20, DeadMaxBytes: 1 << 20})
	c := f.Client("default", "")
	var workers []*fleet.Worker
	for range 2 {
		// The disk is full for longer, and beats are answered: nobody may take that for a server that is gone.
		workers = append(workers, f.StartWorker(fleet.WorkerConfig{MaxDisconnect: 5 * time.Second}))
	}
	for round := range rounds(t, 1) {
		how := recoveries[round%len(recoveries)]
		var long, jobs []contracts.Invocation
		for range 4 {
			long = append(long, f.Count("default", f.ID("long"), "-n", "100", "-every", "50ms", "-both"))
		}
		f.Submit(c, long...)
		for _, inv := range long {
			awaitRuns(f, inv.ID, 1)
		}
		f.Follow(f.Client("default", ""), "default", long[0].ID, long[0].ID)
		for range 20 {
			jobs = append(jobs, f.Count("default", f.ID("job"), "-n", "10", "-every", "20ms"))
		}
		f.Submit(c, jobs...)
		load, stop := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { keepSubmitting(load, f, c) })

		logged, again := len(f.Servers.Log(0)), len(f.Second())
		d.fill()
		full := time.Now()
		asked, done := overheard(t, f)
		if round == 0 {
			saysDiskFull(t, f, c, workers)
		} else {
			f.Await("the server's write fails", fleet.Patience, func(context.Context) (bool, string) {
				log := f.Servers.Log(0)[logged:]
				return strings.Contains(log, "Critical write error"), log
			})
			// Not a wait for something: how long the disk is full is what is tried.
			time.Sleep(rand.N(9 * time.Second))
		}
		rate := float64(asked()) / time.Since(full).Seconds()
		done()
		if n := len(f.Second()) - again; n > 0 {
			t.Errorf("%d jobs began again while the disk was full", n)
		}
		figure(t, how.name, "%.0f messages a second while it was full", rate)
		if rate > 10_000 {
			t.Errorf("%.0f messages a second are sent to a server whose disk is full", rate)
		}
		f.ExcuseRunning("the only server was killed")
		how.do(f, d)
		f.Servers.WaitReady()
		back := time.Now()
		stop()
		loop.Wait()
		f.AwaitResults(fleet.Patience)
		figure(t, how.name, "all results %v after the restart", since(back))
		f.ExcuseRunning("the only server was killed")
	}
	second(t, f.Verify())
}

// keepSubmitting submits short jobs, two at a time; what it is told nothing of may be in the queue.
func keepSubmitting(ctx context.Context, f *fleet.Fleet, c *runnel.Client) {
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				inv := f.Count("default", f.ID("more"), "-n", "2")
				f.Submitted(inv)
				whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), fleet.Patience)
				if receipt, err := c.Submit(whole, inv); err == nil {
					f.Accepted("default", inv.ID, receipt.Digest)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

// overheard counts what everybody publishes.
func overheard(t *testing.T, f *fleet.Fleet) (count func() int64, done func()) {
	t.Helper()
	var n atomic.Int64
	nc := f.Servers.Connect(t)
	if _, err := nc.Subscribe(">", func(*nats.Msg) { n.Add(1) }); err != nil {
		t.Fatal(err)
	}
	return n.Load, nc.Close
}

// saysDiskFull looks at what workers, doctor and submitters say of a server that stores nothing any more.
func saysDiskFull(t *testing.T, f *fleet.Fleet, c *runnel.Client, workers []*fleet.Worker) {
	t.Helper()
	const next = "if its disk was full, make room and then restart it"
	var looks sync.WaitGroup
	defer looks.Wait()
	looks.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		inv := f.Count("default", f.ID("unsure"))
		inv.Stdin = &contracts.Input{Data: make([]byte, 100<<10)} // a block of a full disk may have room for less
		f.Submitted(inv)
		if _, err := c.Submit(ctx, inv); !errors.Is(err, runnel.ErrUnknown) || !strings.Contains(err.Error(), "submit doctor") {
			t.Errorf("Submit() = %v, want unknown and where to look", err)
		}
	})
	looks.Go(func() {
		out, err := exec.CommandContext(t.Context(), fleet.Program(t, "submit"), "--server", f.Servers.URL(), "doctor").CombinedOutput()
		// A few bytes may find room where a block of another stream was given back.
		if err == nil || !strings.Contains(string(out), next) {
			t.Errorf("doctor: %v, and does not say %q:\n%s", err, next, out)
		}
	})
	for _, w := range workers {
		f.Await("the worker says so", fleet.Patience, func(context.Context) (bool, string) {
			log := w.Log()
			return strings.Contains(log, "stores nothing although its server answers") && strings.Contains(log, next), log
		})
	}
}
