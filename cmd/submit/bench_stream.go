package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded/settings"
)

const (
	// What one job writes unless told otherwise.
	benchStreamBytes = 256 << 20
	// A pipe holds as much, and so does a chunk.
	pumpBytes = 64 << 10
	// Messages under way unconfirmed: 8 MiB, what a worker may have in all.
	pumpWindow = 128

	barePump     = "RUNNEL_BENCH_PUMP"
	barePumpPuts = "runnel_bench.pump."
	barePumpLive = "runnel_bench.pumped."
)

func newBenchStream(a *app) *cobra.Command {
	f := benchFlags{concurrency: 1}
	bytes := settings.Size{Bytes: benchStreamBytes}
	cmd := &cobra.Command{
		Use:   "stream",
		Short: "Output of one job: its first byte written to its last one counted by the submitter, all of it stored",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bytes.Bytes < 1 || f.rounds < 0 {
				return errors.New("bench: --bytes and --rounds must be at least 1")
			}
			ctx, done := leaving(cmd.Context())
			defer done()
			line, err := a.benchStream(ctx, f, bytes.Bytes)
			if err != nil {
				return cmp.Or(context.Cause(ctx), err)
			}
			return a.object(line)
		},
	}
	cmd.Flags().Var(&bytes, "bytes", "what the job writes: `SIZE` as 1048576, 64MiB")
	f.common(cmd.Flags())
	return cmd
}

func (a *app) benchStream(ctx context.Context, f benchFlags, bytes int64) (figure, error) {
	fleet, err := a.benchFleet(ctx, f)
	if err != nil {
		return figure{}, err
	}
	defer fleet.close()
	legs := []leg{func(ctx context.Context, _ int) (measurement, error) { return fleet.stream(ctx, bytes) }}
	if f.limit {
		limits, err := fleet.streamLimits(ctx, bytes)
		if err != nil {
			return figure{}, fmt.Errorf("bench stream: %w", err)
		}
		legs = append(legs, limits...)
	}
	rounds, err := f.turns(ctx, 1, 1, legs...)
	if err != nil {
		return figure{}, fmt.Errorf("bench stream: %w", err)
	}
	return line(benchWork{name: "stream"}, f, rounds), nil
}

// writes is a shell command that writes so many bytes to its output, as fast as a pipe takes them.
func writes(bytes int64) string {
	return fmt.Sprintf("dd if=/dev/zero bs=%d count=%d 2>/dev/null && head -c %d /dev/zero", pumpBytes, bytes/pumpBytes, bytes%pumpBytes)
}

// stream measures Runnel: one job is submitted and followed to its result.
func (fl *fleet) stream(ctx context.Context, bytes int64) (measurement, error) {
	m := measurement{n: 1, bytes: bytes}
	inv := runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", writes(bytes)}, OutputLimitBytes: bytes + bytes/4 + 64<<20}
	var count counter
	before := fl.cpu("work")
	start := time.Now()
	r, err := fl.client.Run(ctx, inv, runnel.RunOptions{Stdout: &count})
	m.elapsed = time.Since(start)
	m.cpu = new(fl.cpu("work").minus(before))
	if err == nil {
		err = succeeded(r)
	}
	if err == nil && (int64(count) != bytes || r.StdoutBytes != bytes || r.CutBytes != 0) {
		err = fmt.Errorf("%s wrote %d bytes, of which %d came and %d were cut: %s", r.ID, r.StdoutBytes, count, r.CutBytes, strings.Join(r.Warnings, "; "))
	}
	if err == nil {
		err = fl.drop(ctx, strings.ToUpper(fl.app.prefix)+"_REPLY", fmt.Sprintf("%s.reply.%s.%s.>", fl.app.prefix, fl.client.Tenant(), r.ID))
	}
	return m, err
}

// drop removes what a round left in a stream, which else grows old with it, or full.
func (fl *fleet) drop(ctx context.Context, stream, subject string) error {
	js, err := jetstream.New(fl.conns[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// Of a server of its own, all of it: to remove a subject's messages is to read them again.
	var only []jetstream.StreamPurgeOpt
	if fl.dir == "" {
		only = append(only, jetstream.WithPurgeSubject(subject))
	}
	s, err := js.Stream(ctx, stream)
	if err == nil {
		err = s.Purge(ctx, only...)
	}
	if err != nil {
		return fmt.Errorf("remove what the round left, %s: %w", subject, err)
	}
	return nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// streamLimits returns what measures the limit: a process that reads the same command's pipe and publishes it to a stream of files,
// and a consumer of that here. The second form has Runnel's stream: a subject for each message, a fence, and copies, which are what is read.
func (fl *fleet) streamLimits(ctx context.Context, bytes int64) ([]leg, error) {
	nc, err := fl.connect(ctx)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	pump, _, err := fl.spawn(ctx, "pump")
	if err != nil {
		return nil, err
	}
	fl.children = append(fl.children, pump)
	bare := jetstream.StreamConfig{Name: barePump, Subjects: []string{barePumpPuts + ">"}, MaxAge: time.Hour, MaxBytes: 2*bytes + 64<<20}
	behindFence := fenced(bare)
	behindFence.RePublish = &jetstream.RePublish{Source: barePumpPuts + ">", Destination: barePumpLive + ">"}
	loop := func(config jetstream.StreamConfig, consume consumeFunc) leg {
		return func(ctx context.Context, _ int) (measurement, error) {
			if err := js.DeleteStream(ctx, barePump); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				return measurement{}, err
			}
			if _, err := js.CreateStream(ctx, config); err != nil {
				return measurement{}, err
			}
			m, err := fl.consumed(ctx, pump, bytes, config.RePublish != nil, consume)
			if err == nil {
				err = js.DeleteStream(ctx, barePump)
			}
			return m, err
		}
	}
	consumer := func(ctx context.Context, take func(int)) (func(), error) {
		consumer, err := js.OrderedConsumer(ctx, barePump, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return nil, err
		}
		taking, err := consumer.Consume(func(msg jetstream.Msg) { take(len(msg.Data())) })
		if err != nil {
			return nil, err
		}
		return taking.Stop, nil
	}
	copies := func(_ context.Context, take func(int)) (func(), error) {
		sub, err := nc.Subscribe(barePumpLive+">", func(msg *nats.Msg) { take(len(msg.Data)) })
		if err != nil {
			return nil, err
		}
		return func() { _ = sub.Unsubscribe() }, errors.Join(sub.SetPendingLimits(-1, -1), nc.FlushTimeout(10*time.Second))
	}
	return []leg{loop(bare, consumer), loop(behindFence, copies)}, nil
}

// consumeFunc hands take how much each message holds, until stop is called.
type consumeFunc func(ctx context.Context, take func(int)) (stop func(), err error)

func (fl *fleet) consumed(ctx context.Context, pump *child, bytes int64, ownSubjects bool, consume consumeFunc) (measurement, error) {
	m := measurement{n: 1, bytes: bytes}
	before := fl.cpu(pump.part)
	start := time.Now()
	all := make(chan struct{})
	var came int64
	stop, err := consume(ctx, func(n int) {
		before := came
		if came += int64(n); before < bytes && came >= bytes {
			close(all)
		}
	})
	if err != nil {
		return m, err
	}
	defer stop()
	answer, err := pump.ask(ctx, fmt.Sprint(bytes, ownSubjects))
	if err != nil {
		return m, err
	}
	if answer != "stored" {
		return m, fmt.Errorf("the limit: %s", answer)
	}
	select {
	case <-all:
		m.elapsed = time.Since(start)
		m.cpu = new(fl.cpu(pump.part).minus(before))
		return m, nil
	case <-time.After(time.Minute):
		return m, errors.New("the limit's consumer does not get all that is stored")
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
}

// childPump publishes what a command writes, for each line that says how much that is.
func childPump(ctx context.Context, _ string, _ int, _ string) error {
	nc, err := childConnect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(pumpWindow))
	if err != nil {
		return err
	}
	fmt.Println("ready pump")
	lines := bufio.NewScanner(os.Stdin)
	for round := 0; lines.Scan(); round++ {
		var bytes int64
		var ownSubjects bool
		if _, err := fmt.Sscan(lines.Text(), &bytes, &ownSubjects); err != nil {
			return err
		}
		if err := pumpOut(js, bytes, fmt.Sprint(barePumpPuts, round), ownSubjects); err != nil {
			fmt.Println(oneLine(err.Error()))
			continue
		}
		fmt.Println("stored")
	}
	return lines.Err()
}

func pumpOut(js jetstream.JetStream, bytes int64, subject string, ownSubjects bool) error {
	cmd := exec.Command("sh", "-c", writes(bytes))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	buffer := make([]byte, pumpBytes)
	var acks []jetstream.PubAckFuture
	for {
		n, end := io.ReadFull(pipe, buffer)
		if n > 0 {
			subject := subject
			if ownSubjects {
				subject = fmt.Sprint(subject, ".", len(acks))
			}
			// The connection copies what it is given before it returns.
			ack, err := js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: buffer[:n]}, jetstream.WithStallWait(10*time.Second))
			if err != nil {
				return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
			}
			acks = append(acks, ack)
		}
		if end != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	late := time.After(time.Minute)
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return err
		case <-late:
			return errors.New("not all that was published is confirmed")
		}
	}
	return nil
}
