package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
)

// ownFunction is the name that manual jobs ask for.
const ownFunction = "rivals"

// runnelSystem is Runnel on a NATS server with the settings of deploy/nats/single.conf. Variant "function" has its noop done by
// a Go function of one's own in a process beside the worker (kind manual), as the others' functions are one's own; "fsync" has
// each message on the disk before it is confirmed.
func runnelSystem(name, variant string) *system {
	s := &system{
		name: name, variant: variant, fewer: 1,
		versions: "this tree; nats-server " + server.VERSION,
		settings: []string{"file storage, sync_interval 10s (deploy/nats/single.conf)", "noop: the worker's own kind", "results pushed"},
		recovery: "lease of 10 s",
		prepare: func(_ context.Context, s *system) error {
			s.password = newPassword()
			return nil
		},
		serve:     serveNATS,
		worker:    goChildren("runnel-work"),
		submitter: goSubmitter("runnel-submit"),
	}
	switch variant {
	case "function":
		s.settings[1] = "noop: a Go function behind runnel.Handle, in a third process"
		s.worker = goChildren("runnel-work", "runnel-respond")
		s.lacks = []string{workExec, workNap}
	case "fsync":
		s.settings[0] = "file storage, sync_interval always"
		s.lacks = []string{workNap}
	}
	return s
}

func serveNATS(ctx context.Context, s *system) (string, *child, error) {
	var err error
	if s.port, err = freePort(); err != nil {
		return "", nil, err
	}
	address := fmt.Sprintf("nats://%s@127.0.0.1:%d", s.password, s.port)
	c, err := spawn("nats-server", s.again(address, "runnel-serve", 0), 0)
	if err != nil {
		return "", nil, err
	}
	return address, c, c.ready(ctx)
}

func runnelServe(ctx context.Context, p part) error {
	token, port, found := strings.Cut(strings.TrimPrefix(p.address, "nats://"), "@127.0.0.1:")
	number, err := strconv.Atoi(port)
	if !found || err != nil {
		return fmt.Errorf("no address: %w", err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "rivals", Host: "127.0.0.1", Port: number, Authorization: token, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: filepath.Join(p.dir, "nats"),
		SyncInterval: 10 * time.Second, SyncAlways: p.variant == "fsync",
	})
	if err != nil {
		return err
	}
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	if !s.ReadyForConnections(30 * time.Second) {
		return errors.New("the server did not get ready")
	}
	sayReady()
	untilTold()
	return nil
}

func connectNATS(p part) (*nats.Conn, error) {
	return nats.Connect(p.address, runnel.ConnectOptions("rivals")...)
}

func runnelWork(ctx context.Context, p part) error {
	var conns [2]*nats.Conn
	for i := range conns {
		var err error
		if conns[i], err = connectNATS(p); err != nil {
			return err
		}
		defer conns[i].Close()
	}
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	go func() { // ends with standard input, which the parent closes
		untilTold()
		drain()
	}()
	work, err := os.MkdirTemp(p.dir, "work-")
	if err != nil {
		return err
	}
	return embedded.Work(ctx, conns[0], conns[1], embedded.WorkerConfig{
		Slots: p.slots, WorkDir: work, DrainTimeout: time.Second, Ready: func(string) { sayReady() },
	})
}

func runnelRespond(_ context.Context, p part) error {
	nc, err := connectNATS(p)
	if err != nil {
		return err
	}
	defer nc.Close()
	function := func(ctx context.Context, t *runnel.Task) error {
		stdin, err := t.OpenStdin(ctx)
		if err != nil {
			return err
		}
		defer stdin.Close()
		data, err := io.ReadAll(stdin)
		if err != nil {
			return err
		}
		h, err := perform(ctx, workNoop, string(data), p.marks)
		t.SetMetadata("n", strconv.Itoa(h.N))
		return err
	}
	responder, err := runnel.Handle(nc, ownFunction, function, runnel.WithConcurrency(p.slots))
	if err != nil {
		return err
	}
	sayReady()
	untilTold()
	return responder.Close()
}

// runnelSubmitter is the Go client. Results are pushed to it.
type runnelSubmitter struct {
	client  *runnel.Client
	variant string
	marks   string

	// One RunAll is kept open for jobs that go one at a time, as `submit bench latency` does.
	feed chan runnel.Invocation
	next func() (runnel.Result, error, bool)
}

func newRunnelSubmitter(ctx context.Context, p part) (submitter, func(), error) {
	var conns [2]*nats.Conn
	done := func() {
		for _, nc := range conns {
			if nc != nil {
				nc.Close()
			}
		}
	}
	for i := range conns {
		var err error
		if conns[i], err = connectNATS(p); err != nil {
			done()
			return nil, nil, err
		}
	}
	client, err := runnel.New(conns[0], runnel.WithFollowConn(conns[1]))
	if err != nil {
		done()
		return nil, nil, err
	}
	s := &runnelSubmitter{client: client, variant: p.variant, marks: p.marks, feed: make(chan runnel.Invocation, 1)}
	next, stop := iter.Pull2(client.RunAll(ctx, func(yield func(runnel.Invocation) bool) {
		for inv := range s.feed {
			if !yield(inv) {
				return
			}
		}
	}))
	s.next = next
	return s, func() {
		close(s.feed)
		stop()
		done()
	}, nil
}

// invocation is job n of a work. What a kind of the worker's own leaves in the result is the invocation's name.
func (s *runnelSubmitter) invocation(work string, n int) runnel.Invocation {
	switch {
	case work == workExec:
		return runnel.Invocation{Kind: runnel.KindSubprocess, Name: strconv.Itoa(n), Command: []string{"sh", "-c", "echo hi"}}
	case work == workNap:
		return runnel.Invocation{Kind: runnel.KindSubprocess, Name: strconv.Itoa(n), Command: []string{"sh", "-c", napScript(s.marks, n)}}
	case s.variant == "function":
		return runnel.Invocation{Kind: runnel.KindManual, Name: ownFunction, Stdin: &runnel.Input{Data: []byte(payload(n))}}
	}
	return runnel.Invocation{Kind: runnel.KindNoop, Name: strconv.Itoa(n), Stdin: &runnel.Input{Data: []byte(payload(n))}}
}

// held reads what a result holds. Output is in the result of a job as short as these; on a busy machine it may have been stored
// ahead of it, and is then asked for.
func (s *runnelSubmitter) held(ctx context.Context, r runnel.Result) held {
	h := held{N: -1, Code: r.ExitCode}
	if r.Status != runnel.StatusSucceeded {
		h.Err = fmt.Sprintf("%s %s %s", r.Status, r.Reason, r.Error)
	}
	number := r.Name
	if s.variant == "function" {
		number = r.Metadata["n"]
	}
	if n, err := strconv.Atoi(number); err == nil {
		h.N = n
	}
	for _, piece := range r.Tail {
		h.Out += string(piece.Data)
	}
	if int64(len(h.Out)) < r.StdoutBytes {
		h.Out = ""
		for e, err := range s.client.Watch(ctx, r.ID) {
			if err != nil {
				h.Err = err.Error()
				break
			}
			if e.Type == runnel.EventOutput {
				h.Out += string(e.Output.Data)
			}
		}
	}
	return h
}

func (s *runnelSubmitter) many(ctx context.Context, work string, n int) ([]held, error) {
	var invs iter.Seq[runnel.Invocation] = func(yield func(runnel.Invocation) bool) {
		for i := range n {
			if !yield(s.invocation(work, i)) {
				return
			}
		}
	}
	all := make([]held, 0, n)
	for r, err := range s.client.RunAll(ctx, invs) {
		if err != nil {
			return all, err
		}
		all = append(all, s.held(ctx, r))
	}
	return all, nil
}

func (s *runnelSubmitter) one(ctx context.Context, work string, n int) (held, error) {
	s.feed <- s.invocation(work, n)
	r, err, ok := s.next()
	if !ok {
		err = errors.New("no more results")
	}
	if err != nil {
		return held{}, err
	}
	return s.held(ctx, r), nil
}
