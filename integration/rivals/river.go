package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

const (
	// riverCooldown is the least that River takes between two fetches, and between two notifications of an insert.
	riverCooldown = river.FetchCooldownMin
	// riverPoll is how often a submitter asks for a result, as River tells only the client that did the work, and
	// riverPollMany how often where many are open: to ask more often takes time from the work.
	riverPoll     = time.Millisecond
	riverPollMany = 20 * time.Millisecond
	// riverBatch is how many jobs InsertMany gets, and how many a poll asks for.
	riverBatch = 500
	// riverConns is what each process may open: a connection for each slot, and some.
	riverConns = 20
)

// riverSystem is River on PostgreSQL as it comes: every commit is on the disk before it is confirmed. Variant "async" turns that
// off (synchronous_commit), which is nearer to what the others promise.
func riverSystem(name, variant string) *system {
	s := &system{
		name: name, variant: variant, fewer: 1,
		versions: "river " + moduleVersion("github.com/riverqueue/river") + ", " + postgresVersion(),
		settings: []string{
			"PostgreSQL: defaults (fsync and synchronous_commit on)",
			fmt.Sprintf("LISTEN/NOTIFY, FetchCooldown %s (default 100 ms)", riverCooldown),
			fmt.Sprintf("noop, exec: InsertMany of %d, results polled with JobList every %s", riverBatch, riverPollMany),
			fmt.Sprintf("latency: completed with JobCompleteTx (the completer of its own waits up to 250 ms), polled with JobGet every %s", riverPoll),
		},
		recovery: "RescueStuckJobsAfter 1 h (default; it must be longer than any job)",
		prepare:  prepareRiver,
		serve: func(ctx context.Context, s *system) (string, *child, error) {
			if s.variant == "async" {
				return servePostgres(ctx, s, "synchronous_commit=off")
			}
			return servePostgres(ctx, s)
		},
		worker:    goChildren("river-work"),
		submitter: goSubmitter("river-submit"),
	}
	if variant == "async" {
		s.settings[0] = "PostgreSQL: synchronous_commit off"
		s.lacks = []string{workNap}
	}
	return s
}

func prepareRiver(ctx context.Context, s *system) error {
	if err := preparePostgres(ctx, s); err != nil {
		return err
	}
	address, server, err := s.serve(ctx, s)
	defer server.end()
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, address)
	if err != nil {
		return err
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: riverLog()})
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func riverLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func riverPool(ctx context.Context, p part) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(p.address)
	if err != nil {
		return nil, err
	}
	config.MaxConns = riverConns
	return pgxpool.NewWithConfig(ctx, config)
}

// riverArgs is what a job carries.
type riverArgs struct {
	Work    string `json:"work"`
	Payload string `json:"payload"`
}

func (riverArgs) Kind() string { return "rival" }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	pool  *pgxpool.Pool
	marks string
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverArgs]) error {
	h, err := perform(ctx, job.Args.Work, job.Args.Payload, w.marks)
	if err != nil {
		return err
	}
	if err := river.RecordOutput(ctx, h); err != nil {
		return err
	}
	if job.Args.Work != workLatency {
		return nil
	}
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func riverWork(ctx context.Context, p part) error {
	pool, err := riverPool(ctx, p)
	if err != nil {
		return err
	}
	defer pool.Close()
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{pool: pool, marks: p.marks})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: p.slots}}, Workers: workers,
		FetchCooldown: riverCooldown, Logger: riverLog(),
	})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	sayReady()
	untilTold()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return client.StopAndCancel(ctx)
}

type riverSubmitter struct {
	client *river.Client[pgx.Tx]
}

func newRiverSubmitter(ctx context.Context, p part) (submitter, func(), error) {
	pool, err := riverPool(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{FetchCooldown: riverCooldown, Logger: riverLog()})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return &riverSubmitter{client}, pool.Close, nil
}

func riverHeld(row *rivertype.JobRow) (h held, err error) {
	if row.State != rivertype.JobStateCompleted {
		return h, fmt.Errorf("job %d is %s", row.ID, row.State)
	}
	return h, json.Unmarshal(row.Output(), &h)
}

func (s *riverSubmitter) many(ctx context.Context, work string, n int) ([]held, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	inserted := make(chan []int64, n/riverBatch+1)
	go func() { // ends with the inserts, before the last result is there
		defer close(inserted)
		for i := 0; i < n; {
			var batch []river.InsertManyParams
			for ; i < n && len(batch) < riverBatch; i++ {
				batch = append(batch, river.InsertManyParams{Args: riverArgs{work, payload(i)}})
			}
			rows, err := s.client.InsertMany(ctx, batch)
			if err != nil {
				fail(err)
				return
			}
			var ids []int64
			for _, row := range rows {
				ids = append(ids, row.Job.ID)
			}
			inserted <- ids
		}
	}()
	var open []int64 // in the order of their ids, in which they are done, about
	var all []held
	for more := true; more || len(open) > 0; {
		if more {
			var ids []int64
			if len(open) == 0 {
				ids, more = <-inserted
			} else {
				select {
				case ids, more = <-inserted:
				default:
				}
			}
			open = append(open, ids...)
		}
		if len(open) == 0 {
			continue
		}
		first := open[:min(len(open), riverBatch)]
		list, err := s.client.JobList(ctx, river.NewJobListParams().IDs(first...).First(len(first)).
			States(rivertype.JobStateCompleted, rivertype.JobStateCancelled, rivertype.JobStateDiscarded))
		if err != nil {
			return all, context.Cause(ctx)
		}
		ended := map[int64]bool{}
		for _, row := range list.Jobs {
			h, err := riverHeld(row)
			if err != nil {
				return all, err
			}
			ended[row.ID] = true
			all = append(all, h)
		}
		rest := open[:0]
		for _, id := range open {
			if !ended[id] {
				rest = append(rest, id)
			}
		}
		open = rest
		if err := pause(ctx, riverPollMany); err != nil {
			return all, err
		}
	}
	return all, context.Cause(ctx)
}

func (s *riverSubmitter) one(ctx context.Context, work string, n int) (h held, err error) {
	inserted, err := s.client.Insert(ctx, riverArgs{work, payload(n)}, nil)
	if err != nil {
		return h, err
	}
	for {
		row, err := s.client.JobGet(ctx, inserted.Job.ID)
		if err != nil {
			return h, err
		}
		if row.FinalizedAt != nil {
			return riverHeld(row)
		}
		if err := pause(ctx, riverPoll); err != nil {
			return h, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
