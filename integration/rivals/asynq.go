package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/hibiken/asynq"
)

const (
	// asynqQueue is the queue that a client uses unless told otherwise.
	asynqQueue = "default"
	// asynqCheck is how often a worker looks into an empty queue: asynq asks, it is not told. The default is 1 s.
	asynqCheck = time.Millisecond
	// asynqPoll is how often a submitter asks for a result, the way that asynq's author names (issues 265 and 511), and
	// asynqPollMany how often where many are open: to ask more often takes time from the work.
	asynqPoll     = time.Millisecond
	asynqPollMany = 20 * time.Millisecond
	// asynqClients is how many goroutines hand in jobs, and how many ask for results, of many.
	asynqClients = 16
)

func asynqSystem() *system {
	return &system{
		name: "asynq", fewer: 1,
		versions: "asynq " + moduleVersion("github.com/hibiken/asynq") + ", " + redisVersion(),
		settings: []string{
			redisSettings,
			fmt.Sprintf("TaskCheckInterval %s (default 1 s)", asynqCheck),
			fmt.Sprintf("Retention 1 h and ResultWriter, results polled with Inspector.GetTaskInfo every %s (latency), %s", asynqPoll, asynqPollMany),
			fmt.Sprintf("%d goroutines hand in, %d ask", asynqClients, asynqClients),
		},
		recovery: "lease of 30 s, looked for every minute (both fixed), then a retry's delay (default 15 to 45 s)",
		prepare: func(_ context.Context, s *system) (err error) {
			s.password = newPassword()
			s.program, err = redisServer()
			return err
		},
		serve:     serveRedis,
		worker:    goChildren("asynq-work"),
		submitter: goSubmitter("asynq-submit"),
	}
}

func asynqWork(_ context.Context, p part) error {
	opt, err := asynq.ParseRedisURI(p.address)
	if err != nil {
		return err
	}
	server := asynq.NewServer(opt, asynq.Config{Concurrency: p.slots, TaskCheckInterval: asynqCheck, LogLevel: asynq.WarnLevel})
	handler := asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		h, err := perform(ctx, t.Type(), string(t.Payload()), p.marks)
		if err != nil {
			return err
		}
		data, err := json.Marshal(h)
		if err != nil {
			return err
		}
		_, err = t.ResultWriter().Write(data)
		return err
	})
	if err := server.Start(handler); err != nil {
		return err
	}
	defer server.Shutdown()
	if err := server.Ping(); err != nil {
		return err
	}
	sayReady()
	untilTold()
	return nil
}

type asynqSubmitter struct {
	client    *asynq.Client
	inspector *asynq.Inspector
}

func newAsynqSubmitter(_ context.Context, p part) (submitter, func(), error) {
	opt, err := asynq.ParseRedisURI(p.address)
	if err != nil {
		return nil, nil, err
	}
	s := &asynqSubmitter{asynq.NewClient(opt), asynq.NewInspector(opt)}
	return s, func() {
		s.client.Close()
		s.inspector.Close()
	}, s.client.Ping()
}

func (s *asynqSubmitter) enqueue(ctx context.Context, work string, n int) (string, error) {
	info, err := s.client.EnqueueContext(ctx, asynq.NewTask(work, []byte(payload(n))), asynq.Retention(time.Hour))
	if err != nil {
		return "", err
	}
	return info.ID, nil
}

// wait polls for a result.
func (s *asynqSubmitter) wait(ctx context.Context, id string, every time.Duration) (h held, err error) {
	for {
		info, err := s.inspector.GetTaskInfo(asynqQueue, id)
		if err != nil {
			return h, err
		}
		switch info.State {
		case asynq.TaskStateCompleted:
			return h, json.Unmarshal(info.Result, &h)
		case asynq.TaskStateArchived:
			return h, fmt.Errorf("task %s: %s", id, info.LastErr)
		}
		if err := pause(ctx, every); err != nil {
			return h, err
		}
	}
}

func (s *asynqSubmitter) many(ctx context.Context, work string, n int) ([]held, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	numbers, ids := make(chan int), make(chan string, n)
	var handing, asking sync.WaitGroup
	for range asynqClients {
		handing.Go(func() {
			for i := range numbers {
				id, err := s.enqueue(ctx, work, i)
				if err != nil {
					fail(err)
					continue
				}
				ids <- id
			}
		})
	}
	var mu sync.Mutex
	var all []held
	for range asynqClients {
		asking.Go(func() {
			for id := range ids {
				h, err := s.wait(ctx, id, asynqPollMany)
				if err != nil {
					fail(err)
					continue
				}
				mu.Lock()
				all = append(all, h)
				mu.Unlock()
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	handing.Wait()
	close(ids)
	asking.Wait()
	return all, context.Cause(ctx)
}

func (s *asynqSubmitter) one(ctx context.Context, work string, n int) (held, error) {
	id, err := s.enqueue(ctx, work, n)
	if err != nil {
		return held{}, err
	}
	return s.wait(ctx, id, asynqPoll)
}
