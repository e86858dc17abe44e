package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/embedded/settings"
)

// patience is how long a server may take to answer before submit gives up.
const patience = 2 * time.Second

// app is what all commands share: the settings that stand before them, and where they write.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer

	conn     settings.Connection
	tenant   string
	prefix   string
	embedded bool
	json     bool
	quiet    bool
	noColor  bool

	mu sync.Mutex // stderr is written to by whoever has something to say
}

// note says something that is no data.
func (a *app) note(format string, args ...any) {
	if a.quiet {
		return
	}
	a.say(format, args...)
}

// say is for what must be said even when quiet is asked for.
func (a *app) say(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(a.stderr, "submit: "+format+"\n", args...)
}

// object prints v as one line of JSON.
func (a *app) object(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	return broken(enc.Encode(v))
}

func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return broken(err)
}

// session is a connection for the length of one command.
type session struct {
	*runnel.Client
	nc      *nats.Conn
	server  string // as it may be shown
	journal journal
	close   func()
}

// open connects to a server that can do what is needed, or starts one in this process.
func (a *app) open(ctx context.Context) (*session, error) {
	s, err := a.reach(ctx)
	if err != nil {
		return nil, err
	}
	if version := s.nc.ConnectedServerVersion(); older(version, leastServer) {
		s.close()
		return nil, fmt.Errorf("the server at %s is NATS %s, which is too old: update it to %s or later", s.server, version, leastServer)
	}
	return s, nil
}

// reach connects to whatever server it is.
func (a *app) reach(ctx context.Context) (*session, error) {
	if a.embedded {
		return a.openEmbedded(ctx)
	}
	target, err := a.conn.Resolve()
	if err != nil {
		return nil, err
	}
	s, err := a.session(target.Shown, func() {}, func() (*nats.Conn, error) { return a.dial(ctx, target) })
	if err != nil {
		return nil, err
	}
	if err := hasJetStream(ctx, s); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// hasJetStream spares the user the long wait for an answer that nobody will give. A server without JetStream
// may stand before others that have it, so it is asked, and only it.
func hasJetStream(ctx context.Context, s *session) error {
	if on, _ := s.nc.ConnectedServerJetStream(); on {
		return nil
	}
	js, err := jetstream.New(s.nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err = js.AccountInfo(ctx); errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		return fmt.Errorf("the server at %s has no JetStream, which keeps the queue: start it with it (nats-server -js), or name another with --server", s.server)
	}
	return nil // who may not ask for that may still submit
}

// silence is how long a server may say nothing to one who reads.
const silence = 10 * time.Second

// listening returns a context that ends when the server has said nothing for that long; done ends it too.
func (s *session) listening(ctx context.Context) (heard context.Context, done func()) {
	heard, end := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(silence)
		defer tick.Stop()
		for last := s.nc.Stats().InMsgs; ; {
			select {
			case <-heard.Done():
				return
			case <-tick.C:
			}
			now := s.nc.Stats().InMsgs
			if now == last {
				end(fmt.Errorf("the server at %s has said nothing for %s: `submit doctor` looks at what is wrong", s.server, silence))
			}
			last = now
		}
	})
	return heard, func() {
		end(nil)
		watch.Wait()
	}
}

func (a *app) dial(ctx context.Context, target settings.Target) (*nats.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	nc, err := target.Dial(ctx, nil, runnel.ConnectOptions("submit")...)
	if errors.Is(err, settings.ErrNoServer) {
		err = fmt.Errorf("%w: start one with \"worker dev\", name one with --server, or add --embedded", err)
	}
	return nc, err
}

func (a *app) openEmbedded(ctx context.Context) (*session, error) {
	start, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	node, err := embedded.Start(start, embedded.Config{
		// Who runs here waits for it: that the disk is nearly full is better said by what needs the room.
		Worker: embedded.WorkerConfig{Prefix: a.prefix, DiskFloor: -1, HTTP: ownRequests},
	})
	if err != nil {
		return nil, fmt.Errorf("--embedded: %w", err)
	}
	stop := func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		if err := node.Close(end); err != nil {
			a.note("--embedded: %v", err)
		}
	}
	s, err := a.session("this process", stop, func() (*nats.Conn, error) { return node.Connect(runnel.ConnectOptions("submit")...) })
	if err != nil {
		return nil, err
	}
	s.journal = journal{} // what ends with this process need not be found by another
	return s, nil
}

// session connects twice: on one connection, the answer to a cancel would stand behind the output that is followed.
func (a *app) session(server string, end func(), connect func() (*nats.Conn, error)) (*session, error) {
	nc, err := connect()
	if err != nil {
		end()
		return nil, err
	}
	follow, err := connect()
	if err != nil {
		nc.Close()
		end()
		return nil, err
	}
	shut := func() {
		follow.Close()
		nc.Close()
		end()
	}
	client, err := runnel.New(nc, runnel.WithTenant(a.tenant), runnel.WithPrefix(a.prefix), runnel.WithFollowConn(follow))
	if err != nil {
		shut()
		return nil, err
	}
	return &session{Client: client, nc: nc, server: server, journal: openJournal(server, a.prefix, a.tenant), close: shut}, nil
}

// remember is for ids that may be shortened later; failing to is worth a word and no more.
func (a *app) remember(s *session, ids ...string) {
	if err := s.journal.add(ids...); err != nil {
		a.note("%v", err)
	}
}

// resolve makes an id of what the user gave: an id, or the beginning of one.
func (a *app) resolve(ctx context.Context, s *session, given string) (string, error) {
	known, err := s.journal.find(given)
	if err != nil {
		a.note("%v", err)
	}
	if len(known) == 1 && known[0] == given {
		return given, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	// Somebody else's whole id may be the beginning of one of ours.
	switch _, err := s.Get(ctx, given); {
	case err == nil:
		return given, nil
	case !errors.Is(err, runnel.ErrNotFound):
		return "", fmt.Errorf("look for %s: %w", given, err)
	case len(given) < minPrefix:
		return "", fmt.Errorf("%s: no such invocation (a shortened id has at least %d characters)", given, minPrefix)
	case len(known) == 1:
		return known[0], nil
	case len(known) > 1:
		return "", fmt.Errorf("%s: more than one id that was submitted from here begins so: %s", given, strings.Join(known[:min(len(known), 5)], ", "))
	}
	id, err := s.Resolve(ctx, given)
	if errors.Is(err, runnel.ErrNotFound) {
		return "", fmt.Errorf("%s: no such invocation at %s, tenant %s: it was never submitted there, or it ended longer ago than results are kept", given, s.server, a.tenant)
	}
	if err != nil {
		return "", fmt.Errorf("look for an id that begins with %s: %w", given, err)
	}
	return id, nil
}

// each resolves several ids.
func (a *app) each(ctx context.Context, s *session, given []string) ([]string, error) {
	ids := make([]string, len(given))
	for i, g := range given {
		id, err := a.resolve(ctx, s, g)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}
