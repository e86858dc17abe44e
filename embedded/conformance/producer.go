package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

// Producer checks a program that hands in a command: it is started with the words of the command behind its own
// arguments, and is to submit it as kind subprocess, print the output as it comes and exit with its exit
// code. tell hears of each rule; an error means that it could not be checked.
func Producer(ctx context.Context, cfg Config, tell func(Check)) (err error) {
	k, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close(ctx)) }()
	return all(ctx, k.cfg, producerRules, &producerKit{k}, tell)
}

type producerKit struct{ *kit }

var producerRules = []rule[*producerKit]{
	{"subject", "the invocation goes to runnel.invoke.<kind>.<pool>.<lane>.0.<tenant>.<id>", func(ctx context.Context, k *producerKit) error {
		return k.asks(ctx, func(a asked) error { return a.addressErr })
	}},
	{"body", "its body is valid, and says the same as its subject", func(ctx context.Context, k *producerKit) error {
		return k.asks(ctx, func(a asked) error {
			inv := a.inv
			switch {
			case a.invErr != nil:
				return a.invErr
			case inv.ID != a.address.ID || inv.Kind != a.address.Kind || inv.Pool != a.address.Pool || inv.Lane != a.address.Lane || inv.Tenant != a.address.Tenant:
				return fmt.Errorf("the body says %s %s %s %s %s, the subject %s", inv.Kind, inv.Pool, inv.Lane, inv.Tenant, inv.ID, a.msg.Subject)
			case strings.Join(inv.Command, " ") != "echo hello":
				return fmt.Errorf("command = %q, want what the program was given: echo hello", inv.Command)
			}
			return nil
		})
	}},
	{"confirmed", "it is a JetStream publish: it has a reply subject, where the PubAck comes", func(ctx context.Context, k *producerKit) error {
		return k.asks(ctx, func(a asked) error {
			if a.msg.Reply == "" {
				return errors.New("there is no reply subject")
			}
			return nil
		})
	}},
	{"headers", "Runnel-Version is 1.x or absent, Runnel-Digest 64 hex digits or absent, and there is no Nats-Msg-Id", func(ctx context.Context, k *producerKit) error {
		return k.asks(ctx, func(a asked) error {
			h := a.msg.Header
			if v := h.Get(contracts.HeaderVersion); v != "" && !regexp.MustCompile(`^1\.(0|[1-9][0-9]*)$`).MatchString(v) {
				return fmt.Errorf("%s is %q", contracts.HeaderVersion, v)
			}
			if d := h.Get(contracts.HeaderDigest); d != "" && !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(d) {
				return fmt.Errorf("%s is %q", contracts.HeaderDigest, d)
			}
			for name := range h {
				if strings.EqualFold(name, "Nats-Msg-Id") {
					return errors.New("Nats-Msg-Id is stream-wide: another tenant's equal one loses the job")
				}
			}
			return nil
		})
	}},
	{"live", "output is shown while the work goes on", func(ctx context.Context, k *producerKit) error {
		return k.with(ctx, func(w *work) error {
			w.chunk(w.run, 1, true, out("one\n"))
			if err := w.said(ctx, ends("one\n")); err != nil {
				return err
			}
			w.chunk(w.run, 2, true, out("two\n"))
			return w.said(ctx, ends("one\ntwo\n"))
		})
	}},
	{"bytes", "every byte is shown as it is, and nothing of standard error on standard output", func(ctx context.Context, k *producerKit) error {
		every := make([]byte, 256)
		for i := range every {
			every[i] = byte(i)
		}
		return k.with(ctx, func(w *work) error {
			w.chunk(w.run, 1, true, out(string(every)), contracts.Piece{Stream: contracts.Stderr, Data: []byte("problem\n")})
			w.result(w.run, 1, 0, true, out("tail\n"))
			return w.endsWith(ctx, string(every)+"tail\n", 0)
		})
	}},
	{"tail", "what rides in the result is shown", func(ctx context.Context, k *producerKit) error {
		return k.with(ctx, func(w *work) error {
			w.result(w.run, 0, 0, true, out("hello\n"))
			return w.endsWith(ctx, "hello\n", 0)
		})
	}},
	{"exit", "it exits with the exit code of the result", func(ctx context.Context, k *producerKit) error {
		return k.with(ctx, func(w *work) error {
			w.result(w.run, 0, 3, true)
			return w.endsWith(ctx, "", 3)
		})
	}},
	{"gap", "a chunk whose live copy was lost is read from the stream", func(ctx context.Context, k *producerKit) error {
		return k.with(ctx, func(w *work) error {
			w.chunk(w.run, 1, true, out("one\n"))
			w.chunk(w.run, 2, false, out("two\n"))
			w.chunk(w.run, 3, true, out("three\n"))
			w.chunk(w.run, 4, false, out("four\n"))
			w.result(w.run, 4, 0, true, out("five\n"))
			return w.endsWith(ctx, "one\ntwo\nthree\nfour\nfive\n", 0)
		})
	}},
	{"lost", "a result whose live copy was lost is found", func(ctx context.Context, k *producerKit) error {
		return k.with(ctx, func(w *work) error {
			w.chunk(w.run, 1, true, out("one\n"))
			if err := w.said(ctx, ends("one\n")); err != nil {
				return err
			}
			w.result(w.run, 1, 0, false, out("two\n"))
			return w.endsWith(ctx, "one\ntwo\n", 0)
		})
	}},
	{"restart", "what counts is the run that the result names: it is shown from its beginning", func(ctx context.Context, k *producerKit) error {
		return k.with(ctx, func(w *work) error {
			w.chunk("aaaaaaaa", 1, true, out("first try\n"))
			if err := w.said(ctx, ends("first try\n")); err != nil {
				return err
			}
			w.chunk("bbbbbbbb", 1, false, out("one\n"))
			w.result("bbbbbbbb", 1, 0, true, out("two\n"))
			return w.ended(ctx, 0, func(got string) bool { return strings.HasSuffix(got, "one\ntwo\n") && strings.Count(got, "one\n") == 1 })
		})
	}},
	{"newer", "fields that a newer minor version adds are ignored", func(ctx context.Context, k *producerKit) error {
		return k.with(ctx, func(w *work) error {
			w.minor = true
			w.chunk(w.run, 1, true, out("one\n"))
			w.result(w.run, 1, 0, true, out("two\n"))
			return w.endsWith(ctx, "one\ntwo\n", 0)
		})
	}},
	{"again", "where the queue is full, it waits and publishes again under the same id", func(ctx context.Context, k *producerKit) error {
		return k.full(ctx)
	}},
}

func out(s string) contracts.Piece { return contracts.Piece{Stream: contracts.Stdout, Data: []byte(s)} }

// asked is an invocation as it was published.
type asked struct {
	msg        *nats.Msg
	address    queue.Address
	addressErr error
	inv        contracts.Invocation
	invErr     error
}

func (k *producerKit) read(m *nats.Msg) asked {
	a := asked{msg: m}
	a.address, a.addressErr = k.topo.Names().ParseInvoke(m.Subject)
	a.inv, a.invErr = contracts.Decode[contracts.Invocation](m.Data, contracts.Meta{ContentType: m.Header.Get(contracts.HeaderContentType), Version: m.Header.Get(contracts.HeaderVersion)})
	if a.invErr == nil {
		a.inv = a.inv.WithDefaults()
		a.invErr = a.inv.Validate()
	}
	return a
}

// listen starts the program and waits for what it publishes.
func (k *producerKit) listen(ctx context.Context) (*program, *nats.Subscription, asked, error) {
	invokes := k.topo.Prefix + ".invoke.>"
	sub, err := k.nc.SubscribeSync(invokes)
	if err == nil {
		err = k.nc.FlushTimeout(10 * time.Second)
	}
	if err != nil {
		return nil, nil, asked{}, err
	}
	p, err := k.start("echo", "hello")
	if err != nil {
		_ = sub.Unsubscribe()
		return nil, nil, asked{}, err
	}
	wait, cancel := context.WithTimeout(ctx, k.cfg.Patience)
	defer cancel()
	m, err := sub.NextMsgWithContext(wait)
	if err != nil {
		p.end()
		_ = sub.Unsubscribe()
		return nil, nil, asked{}, fmt.Errorf("nothing was published to %s within %s", invokes, k.cfg.Patience)
	}
	return p, sub, k.read(m), nil
}

// asks judges what is published.
func (k *producerKit) asks(ctx context.Context, judge func(asked) error) error {
	p, sub, a, err := k.listen(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	defer func() { _ = sub.Unsubscribe() }()
	return judge(a)
}

// work is a worker's part in one invocation. What cannot be stored is told at the end.
type work struct {
	k       *producerKit
	ctx     context.Context
	p       *program
	js      jetstream.JetStream
	inv     contracts.Invocation
	asJSON  bool
	run     string
	minor   bool // as a newer minor version would
	problem error
}

func (k *producerKit) with(ctx context.Context, do func(*work) error) error {
	p, sub, a, err := k.listen(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	_ = sub.Unsubscribe()
	if err := errors.Join(a.addressErr, a.invErr); err != nil {
		return err
	}
	js, err := jetstream.New(k.nc)
	if err != nil {
		return err
	}
	w := &work{
		k: k, ctx: ctx, p: p, js: js, inv: a.inv, run: contracts.NewRun(),
		asJSON: contracts.SpeaksJSON(a.msg.Data, contracts.Meta{ContentType: a.msg.Header.Get(contracts.HeaderContentType)}),
	}
	err = do(w)
	return errors.Join(w.problem, err)
}

func (w *work) chunk(run string, n int, live bool, pieces ...contracts.Piece) {
	w.store(w.k.topo.Names().Chunk(w.inv.Tenant, w.inv.ID, run, n), live, contracts.Chunk{N: n, At: time.Now().UTC(), Pieces: pieces})
}

func (w *work) result(run string, chunks, code int, live bool, tail ...contracts.Piece) {
	r := contracts.Result{
		ID: w.inv.ID, Kind: w.inv.Kind, Tenant: w.inv.Tenant, Pool: w.inv.Pool, Lane: w.inv.Lane, Digest: contracts.BodyDigest(nil),
		Status: contracts.StatusSucceeded, ExitCode: &code, Run: run, Attempt: 1, Chunks: chunks, Tail: tail, FinishedAt: time.Now().UTC(),
	}
	if code != 0 {
		r.Status, r.Reason = contracts.StatusFailed, contracts.ReasonExit
	}
	w.store(w.k.topo.Names().Result(w.inv.Tenant, w.inv.ID), live, r)
}

// store stores what a worker would, in the encoding that the invocation came in. Without live, no copy is sent.
func (w *work) store(subject string, live bool, doc any) {
	data, err := contracts.EncodeFor(doc, w.asJSON)
	version := contracts.Version
	if err == nil && w.minor {
		version = "1.9"
		data, err = withField(data, w.asJSON)
	}
	if err == nil && !live {
		err = w.k.copies(w.ctx, w.js, false)
	}
	if err == nil {
		h := nats.Header{contracts.HeaderVersion: {version}}
		if w.asJSON {
			h.Set(contracts.HeaderContentType, contracts.ContentJSON)
		}
		_, err = w.js.PublishMsg(w.ctx, &nats.Msg{Subject: subject, Header: h, Data: data})
	}
	if !live {
		err = errors.Join(err, w.k.copies(w.ctx, w.js, true))
	}
	w.problem = errors.Join(w.problem, err)
}

// withField adds a field that this version does not have.
func withField(data []byte, asJSON bool) ([]byte, error) {
	if asJSON {
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(data, &doc); err != nil {
			return nil, err
		}
		doc["new_in_1_9"] = json.RawMessage(`{"a":[1]}`)
		return json.Marshal(doc)
	}
	// A msgpack map of fewer than 16 entries says so in its first byte, a larger one in three.
	field := append([]byte{0xaa}, "new_in_1_9"...)
	field = append(field, 0x81, 0xa1, 'a', 0x91, 0x01)
	switch {
	case data[0] >= 0x80 && data[0] < 0x8f:
		return append(append([]byte{data[0] + 1}, data[1:]...), field...), nil
	case data[0] == 0x8f:
		return append(append([]byte{0xde, 0, 16}, data[1:]...), field...), nil
	case data[0] == 0xde && data[2] < 0xff:
		return append(append([]byte{0xde, data[1], data[2] + 1}, data[3:]...), field...), nil
	}
	return nil, errors.New("not a map")
}

// copies turns the live copies of what is stored on and off: that is how a lost one looks.
func (k *kit) copies(ctx context.Context, js jetstream.JetStream, on bool) error {
	s, err := js.Stream(ctx, k.topo.ReplyStream())
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	cfg.RePublish = nil
	if on {
		cfg.RePublish = &jetstream.RePublish{Source: k.topo.Prefix + ".reply.>", Destination: k.topo.Prefix + ".live.>"}
	}
	_, err = js.UpdateStream(ctx, cfg)
	return err
}

func (w *work) said(ctx context.Context, ok func(string) bool) error {
	return w.p.said(ctx, w.k.cfg.Patience, ok)
}

// endsWith waits for the end, with this output and exit code.
func (w *work) endsWith(ctx context.Context, output string, code int) error {
	return w.ended(ctx, code, func(got string) bool { return got == output })
}

func (w *work) ended(ctx context.Context, code int, ok func(string) bool) error {
	got, err := w.p.code(ctx, w.k.cfg.Patience)
	if err != nil {
		return err
	}
	if err := w.p.said(ctx, time.Second, ok); err != nil {
		return err
	}
	if got != code {
		return fmt.Errorf("exit code %d, want %d", got, code)
	}
	return nil
}

// full lets the queue be full until it is published to again.
func (k *producerKit) full(ctx context.Context) (err error) {
	js, err := jetstream.New(k.nc)
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, k.topo.InvokeStream())
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	most := cfg.MaxBytes
	cfg.MaxBytes = 1
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return err
	}
	defer func() {
		cfg.MaxBytes = most
		_, room := js.UpdateStream(ctx, cfg)
		err = errors.Join(err, room)
	}()
	p, sub, first, err := k.listen(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	defer func() { _ = sub.Unsubscribe() }()
	wait, cancel := context.WithTimeout(ctx, k.cfg.Patience)
	defer cancel()
	m, err := sub.NextMsgWithContext(wait)
	if err != nil {
		return fmt.Errorf("nothing was published again within %s", k.cfg.Patience)
	}
	if again := k.read(m); again.address.ID != first.address.ID {
		return fmt.Errorf("it was published again as %q, and was %q: both may run", again.address.ID, first.address.ID)
	}
	return nil
}
