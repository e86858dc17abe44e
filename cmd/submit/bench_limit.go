package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The bare loop is what JetStream can do for a job that does nothing: submission by
// async publish into a work queue, a worker that pulls it, stores a result on a second stream
// of files, acknowledges when that is confirmed, and a submitter who hears of the result.
const (
	bareIn   = "RUNNEL_BENCH_IN"
	barePuts = "runnel_bench.in."
	bareOut  = "RUNNEL_BENCH_OUT"
	bareEnds = "runnel_bench.out."
	// The second form: results behind a fence as Runnel's, heard of by their copies.
	bareFencedOut  = "RUNNEL_BENCH_FENCED"
	bareFencedEnds = "runnel_bench.fenced."
	bareLive       = "runnel_bench.live."

	bareDurable = "bare"
	// A request that is answered at once, for what a responder adds.
	bareRequests = "runnel_bench.request"
	// As many jobs are open at once as in Client.RunAll.
	bareWindow = 1024

	// headerEnds tells the bare worker where a job's result goes.
	headerEnds = "Ends"
)

// limits returns what measures the limits of w: the first is the one that counts.
func (fl *fleet) limits(w benchWork, concurrency int) ([]leg, error) {
	if w.name == "exec" {
		return fl.execLimit(concurrency)
	}
	// All jobs of a bare loop are run by a process of its own, too.
	ctx := context.Background()
	nc, err := fl.connect(ctx)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(bareWindow))
	if err != nil {
		return nil, err
	}
	if err := bareStreams(ctx, js); err != nil {
		return nil, err
	}
	if _, err := fl.start(ctx, "bare", "--slots", strconv.Itoa(concurrency)); err != nil {
		return nil, err
	}
	open := bareWindow
	if w.latency {
		open = 1
	}
	var round int
	loop := func(ends, heard string) leg {
		return func(ctx context.Context, n int) (measurement, error) {
			round++
			return bareLoop(ctx, nc, js, bareRound{ends: ends, heard: heard, name: strconv.Itoa(round), n: n, open: open})
		}
	}
	legs := []leg{loop(bareEnds, bareEnds), loop(bareFencedEnds, bareLive)}
	if w.name == "manual" {
		noop := fl.measured(benchWork{name: "latency", latency: true})
		return []leg{withRequests(legs[0], nc), withRequests(noop, nc)}, nil
	}
	return legs, nil
}

// withRequests adds to each job of a bare loop one request to a bare responder.
func withRequests(bare leg, nc *nats.Conn) leg {
	return func(ctx context.Context, n int) (measurement, error) {
		m, err := bare(ctx, n)
		if err != nil {
			return m, err
		}
		for i := range m.each {
			began := time.Now()
			if _, err := nc.Request(bareRequests, benchPayload, 10*time.Second); err != nil {
				return m, fmt.Errorf("a bare request: %w", err)
			}
			took := time.Since(began)
			m.each[i] += took
			m.elapsed += took
		}
		return m, nil
	}
}

// fenced returns c with the settings by which Runnel's streams take one message a subject.
func fenced(c jetstream.StreamConfig) jetstream.StreamConfig {
	c.MaxMsgsPerSubject, c.Discard, c.DiscardNewPerSubject, c.AllowDirect = 1, jetstream.DiscardNew, true, true
	return c
}

func bareStreams(ctx context.Context, js jetstream.JetStream) error {
	for _, c := range []jetstream.StreamConfig{
		{Name: bareIn, Subjects: []string{barePuts + ">"}, Retention: jetstream.WorkQueuePolicy, MaxBytes: 256 << 20},
		{Name: bareOut, Subjects: []string{bareEnds + ">"}, MaxAge: time.Hour, MaxBytes: 256 << 20},
		fenced(jetstream.StreamConfig{Name: bareFencedOut, Subjects: []string{bareFencedEnds + ">"}, MaxAge: time.Hour, MaxBytes: 256 << 20,
			RePublish: &jetstream.RePublish{Source: bareFencedEnds + ">", Destination: bareLive + ">"}}),
	} {
		if err := js.DeleteStream(ctx, c.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("bench: delete stream %s: %w", c.Name, err)
		}
		if _, err := js.CreateStream(ctx, c); err != nil {
			return fmt.Errorf("bench: create stream %s: %w", c.Name, err)
		}
	}
	_, err := js.CreateConsumer(ctx, bareIn, jetstream.ConsumerConfig{
		Durable: bareDurable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: -1, MaxDeliver: -1,
	})
	return err
}

// bareWork takes jobs with twice as many in hand as there are slots, and answers each.
func bareWork(ctx context.Context, nc *nats.Conn, slots int) (stop func(), err error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4*bareWindow))
	if err != nil {
		return nil, err
	}
	consumer, err := js.Consumer(ctx, bareIn, bareDurable)
	if err != nil {
		return nil, err
	}
	taking, err := consumer.Consume(func(job jetstream.Msg) {
		subject := job.Headers().Get(headerEnds) + strings.TrimPrefix(job.Subject(), barePuts)
		stored, err := js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: job.Data()})
		if err != nil {
			return // it comes again
		}
		go func() {
			select {
			case <-stored.Ok():
				_ = job.Ack()
			case <-stored.Err():
			}
		}()
	}, jetstream.PullMaxMessages(2*slots))
	if err != nil {
		return nil, err
	}
	return taking.Stop, nil
}

// bareRound is one round of the bare loop.
type bareRound struct {
	ends, heard string // where results are stored, and where they are heard of
	name        string // unique, so that no subject is used twice
	n, open     int
}

func bareLoop(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, r bareRound) (measurement, error) {
	var mu sync.Mutex
	m := measurement{n: r.n, each: make([]time.Duration, 0, r.n)}
	began := make([]time.Time, r.n)
	done := make(chan struct{})
	places := make(chan struct{}, r.open)
	sub, err := nc.Subscribe(r.heard+r.name+".*", func(msg *nats.Msg) {
		i, err := strconv.Atoi(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
		if err != nil || i < 0 || i >= r.n {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if began[i].IsZero() {
			return // its second copy
		}
		m.each = append(m.each, time.Since(began[i]))
		began[i] = time.Time{}
		<-places
		if len(m.each) == r.n {
			close(done)
		}
	})
	if err != nil {
		return m, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return m, err
	}
	if err := nc.FlushTimeout(10 * time.Second); err != nil {
		return m, err
	}
	header := nats.Header{headerEnds: {r.ends}}
	start := time.Now()
	for i := range r.n {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return m, context.Cause(ctx)
		}
		mu.Lock()
		began[i] = time.Now()
		mu.Unlock()
		msg := &nats.Msg{Subject: barePuts + r.name + "." + strconv.Itoa(i), Header: header, Data: benchPayload}
		if _, err := js.PublishMsgAsync(msg, jetstream.WithStallWait(10*time.Second)); err != nil {
			return m, err
		}
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		return m, errors.New("the bare loop does not end")
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
	mu.Lock()
	defer mu.Unlock()
	m.elapsed = time.Since(start)
	return m, nil
}

// execLimit starts the process in which commands are run alone.
func (fl *fleet) execLimit(concurrency int) ([]leg, error) {
	c, _, err := fl.spawn(context.Background(), "exec-loop", "--slots", strconv.Itoa(concurrency))
	if err != nil {
		return nil, err
	}
	fl.children = append(fl.children, c)
	return []leg{func(ctx context.Context, n int) (measurement, error) {
		answer, err := c.ask(ctx, strconv.Itoa(n))
		if err != nil {
			return measurement{}, err
		}
		var w wireMeasurement
		if err := json.Unmarshal([]byte(answer), &w); err != nil {
			return measurement{}, err
		}
		return measurement{n: w.N, elapsed: w.Elapsed, each: w.Each}, nil
	}}, nil
}

// execLoop runs n commands, slots at a time, and reads what they print.
func execLoop(n, slots int) (measurement, error) {
	m := measurement{n: n, each: make([]time.Duration, n)}
	next := make(chan int)
	errs := make(chan error, slots)
	var wg sync.WaitGroup
	start := time.Now()
	for range slots {
		wg.Go(func() {
			for i := range next {
				began := time.Now()
				out, err := exec.Command("sh", "-c", "echo hi").Output()
				if err == nil && string(out) != "hi\n" {
					err = fmt.Errorf("the command printed %q", out)
				}
				if err != nil {
					select {
					case errs <- err:
					default:
					}
				}
				m.each[i] = time.Since(began)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	m.elapsed = time.Since(start)
	select {
	case err := <-errs:
		return m, err
	default:
		return m, nil
	}
}
