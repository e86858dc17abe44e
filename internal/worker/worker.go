// Package worker takes invocations off the queue, runs each with its runner and sees
// it through to its last word. It is the only place where what a runner says becomes
// a status (see conclude).
package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/runner"
)

// Config says what a worker is. Registry, Files and WorkRoot must be set.
type Config struct {
	// Name is unique in the fleet; "" is the host's name and eight random characters.
	Name string
	// Pool is the set of workers that it belongs to; "" is "default".
	Pool string
	// Slots is how many runs it has at once; 0 is 1.
	Slots int
	// Labels are shown with the worker.
	Labels map[string]string
	// Version is the program's, shown with the worker.
	Version string
	// WorkRoot is the directory under which workspaces are made. Workers of one machine may share it.
	WorkRoot string
	// DrainTimeout is how long runs may go on once the worker is asked to stop; 0 is 30 s.
	DrainTimeout time.Duration
	// MaxDisconnect ends runs when no server has answered for so long; 0 is 5 minutes.
	MaxDisconnect time.Duration
	// OutputLimit is what is kept of a run's output where the invocation does not say; 0 is 64 MiB.
	OutputLimit int64
	// MaxOutputLimit caps what an invocation may ask for; 0 is 1 GiB.
	MaxOutputLimit int64
	// DiskFloor is how many bytes must be free for WorkRoot: with less no more work is taken, and what runs goes on. 0 is
	// 256 MiB, a negative one none.
	DiskFloor int64
	// DiskFree returns how many bytes are free for a directory; nil asks the system.
	DiskFree func(dir string) (int64, error)
	// Topology is the queue's.
	Topology queue.Topology
	// Registry has the runner of every kind that this worker serves. The worker does not close it.
	Registry runner.Registry
	// Files opens the files of one tenant.
	Files func(ctx context.Context, tenant string) (Files, error)
	// Log gets one line per event that an operator acts on.
	Log zerolog.Logger
	// Ready is called once, when the first pulls are out.
	Ready func()
	// OrphansWithin is queue.TakerConfig's.
	OrphansWithin time.Duration
	// Clock is this machine's; nil is time.Now. Tests have it wrong.
	Clock func() time.Time
	// Step observes the life of each delivery; nil is nobody. Crash tests kill the process here.
	Step func(step queue.Step, id, run string)
}

// Worker runs what it takes off the queue.
type Worker struct {
	cfg     Config
	host    string
	began   time.Time
	taker   *queue.Taker
	desk    *desk
	kinds   []contracts.Kind
	rooms   *workspaces
	disk    disk
	stopAll context.CancelCauseFunc
	stopped chan struct{}
	once    sync.Once
	finish  sync.WaitGroup
	aside   sync.WaitGroup // of finish, those that store files
	ending  chan struct{}  // a place for each delivery whose lost run is ended elsewhere
}

// New returns a worker on two connections: control for what must not wait, data for output.
// The caller owns both, and closes them after Run has returned.
func New(conns Conns, cfg Config) (*Worker, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if cfg.Name == "" {
		cfg.Name = token(host) + "-" + contracts.NewRun()
	}
	if !contracts.ValidToken(cfg.Name) {
		return nil, fmt.Errorf("worker name %q: only a-z, 0-9, _ and - are allowed, at most 64", cfg.Name)
	}
	if cfg.Pool == "" {
		cfg.Pool = contracts.DefaultPool
	}
	if !contracts.ValidToken(cfg.Pool) {
		return nil, fmt.Errorf("pool %q: only a-z, 0-9, _ and - are allowed, at most 64", cfg.Pool)
	}
	cfg.Slots = max(cfg.Slots, 1)
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = 30 * time.Second
	}
	if cfg.OutputLimit <= 0 {
		cfg.OutputLimit = contracts.DefaultOutputLimit
	}
	if cfg.MaxOutputLimit <= 0 {
		cfg.MaxOutputLimit = 1 << 30
	}
	cfg.OutputLimit = min(cfg.OutputLimit, cfg.MaxOutputLimit)
	if cfg.DiskFloor == 0 {
		cfg.DiskFloor = defaultDiskFloor
	}
	if cfg.DiskFree == nil {
		cfg.DiskFree = freeBytes
	}
	if cfg.Step == nil {
		cfg.Step = func(queue.Step, string, string) {}
	}
	w := &Worker{cfg: cfg, host: host, began: time.Now().UTC(), stopped: make(chan struct{})}
	w.kinds = cfg.Registry.Kinds()
	if len(w.kinds) == 0 {
		return nil, errors.New("a worker needs at least one kind")
	}
	w.taker, err = queue.NewTaker(conns, queue.TakerConfig{
		Topology: cfg.Topology, Kinds: w.kinds, Pool: cfg.Pool, Worker: cfg.Name, Host: host,
		MaxDisconnect: cfg.MaxDisconnect, OrphansWithin: cfg.OrphansWithin, Step: cfg.Step, Clock: cfg.Clock, Serves: cfg.Registry.Serves,
		Elsewhere: func(k contracts.Kind) bool { _, ok := cfg.Registry[k].(runner.Canceller); return ok },
		Problem:   func(err error) { cfg.Log.Warn().Err(err).Msg("queue") },
	})
	if err != nil {
		return nil, err
	}
	w.desk = newDesk(w.taker, cfg.Slots)
	w.ending = make(chan struct{}, cfg.Slots)
	return w, nil
}

// Conns are the two connections of a worker.
type Conns = queue.Conns

// Name is the worker's, as it is in results and presence.
func (w *Worker) Name() string { return w.cfg.Name }

// Run serves until ctx ends, and then drains: it takes no more, lets runs finish for
// DrainTimeout, ends what is left (its runs are handed back) and returns nil. Stop cuts the drain short.
func (w *Worker) Run(ctx context.Context) error {
	rooms, err := openWorkspaces(w.cfg.WorkRoot, w.cfg.Name)
	if err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	defer func() {
		if err := rooms.close(); err != nil {
			w.cfg.Log.Warn().Err(err).Msg("workspaces not removed")
		}
	}()
	w.rooms = rooms

	leases, endLeases := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	defer watch.Wait()
	defer endLeases()
	if w.cfg.DiskFloor > 0 {
		w.disk = disk{dir: rooms.dir, floor: w.cfg.DiskFloor, free: w.cfg.DiskFree}
		if err := w.lookAtDisk(); err != nil {
			return fmt.Errorf("work directory: %w", err)
		}
		watch.Go(func() { w.watchDisk(leases) })
	}
	runs, stopAll := context.WithCancelCause(leases)
	defer stopAll(nil)
	w.stopAll = stopAll

	took := make(chan error, 1)
	go func() {
		took <- w.taker.Run(leases, (*deskSide)(w), w.desk.open, func() {
			if w.cfg.Ready != nil {
				w.cfg.Ready()
			}
		})
	}()
	var slots sync.WaitGroup
	for range w.cfg.Slots {
		slots.Go(func() { w.slot(runs) })
	}

	select {
	case <-ctx.Done():
	case <-w.stopped:
	case err := <-took:
		w.desk.close()
		stopAll(runner.ErrStopped)
		slots.Wait()
		w.aside.Wait() // they read workspaces
		return err
	}
	w.drain(stopAll, &slots)
	endLeases()
	return <-took
}

// Stop ends the runs at once, in the order of their stop settings, and Run with them.
func (w *Worker) Stop() { w.once.Do(func() { close(w.stopped) }) }

func (w *Worker) drain(stopAll context.CancelCauseFunc, slots *sync.WaitGroup) {
	w.taker.Stop()
	w.desk.close()
	idle := make(chan struct{})
	go func() {
		slots.Wait()
		w.finish.Wait()
		close(idle)
	}()
	patience := time.NewTimer(w.cfg.DrainTimeout)
	defer patience.Stop()
	select {
	case <-idle:
		return
	case <-patience.C:
		w.cfg.Log.Info().Msg("drain: runs are ended and handed back")
	case <-w.stopped:
		w.cfg.Log.Info().Msg("stop: runs are ended and handed back")
	}
	stopAll(runner.ErrStopped)
	// Grace, kill and the last words, each bounded by themselves; a runner that does not return is not waited for.
	last := time.NewTimer(w.desk.longestStop() + runawayAfter + 30*time.Second)
	defer last.Stop()
	select {
	case <-idle:
	case <-last.C:
		w.cfg.Log.Error().Msg("drain: a run did not end")
	}
}

// slot runs one delivery after another.
func (w *Worker) slot(ctx context.Context) {
	for {
		d := w.desk.next()
		if d == nil {
			return
		}
		began := time.Now()
		last := w.deliver(ctx, d)
		w.finish.Add(1)
		w.desk.ran(d, time.Since(began))
		// The slot is free once the work has ended; its files may take a while, and the last word a round trip more.
		go func() {
			defer w.finish.Done()
			defer w.desk.finished()
			last()
		}()
	}
}

// deskSide is what the taker sees of the worker.
type deskSide Worker

func (s *deskSide) Admit() bool            { return s.desk.admit() }
func (s *deskSide) Take(d *queue.Delivery) { s.desk.take(d) }
func (s *deskSide) Dismiss()               { s.desk.dismiss() }
func (s *deskSide) Presence() contracts.Presence {
	runs, busy, draining, blocked := s.desk.runs()
	kinds := slices.DeleteFunc(slices.Clone(s.kinds), func(k contracts.Kind) bool { return !s.cfg.Registry.Serves(k) })
	return contracts.Presence{
		Name: s.cfg.Name, Host: s.host, PID: os.Getpid(), Version: s.cfg.Version, Pool: s.cfg.Pool, Kinds: kinds,
		Labels: s.cfg.Labels, Slots: s.cfg.Slots, Busy: busy, Runs: runs, Capabilities: s.cfg.Registry.Capabilities(),
		StartedAt: s.began, Draining: draining, Blocked: blocked,
	}
}

// token makes a subject token of a host's name.
func token(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		default:
			b[i] = '-'
		}
	}
	return string(b[:min(len(b), 40)])
}
