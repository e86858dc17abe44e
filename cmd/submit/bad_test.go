//go:build unix

package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/integration/proxy"
	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// outside is a server that is none of ours, with Runnel's streams, and a look into them.
type outside struct {
	*account
	node *queuetest.Node
	nc   *nats.Conn
	js   jetstream.JetStream
}

func newOutside(t *testing.T, topo queue.Topology, adjust ...func(*server.Options)) *outside {
	t.Helper()
	o := &outside{account: newAccount(t), node: queuetest.Server(t, adjust...)}
	o.nc = o.node.Connect(t)
	var err error
	if o.js, err = jetstream.New(o.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(t.Context(), o.js, topo); err != nil {
		t.Fatal(err)
	}
	o.set("RUNNEL_SERVER", o.node.URL())
	return o
}

func (o *outside) worker(args ...string) *process {
	o.t.Helper()
	p := o.start("worker", append([]string{"start", "--work-dir", o.file("work"), "--drain-timeout", "1s"}, args...)...)
	if text := p.line(); !strings.HasPrefix(text, "ready ") {
		o.t.Fatalf("worker start said %q; stderr %s", text, p.log.String())
	}
	return p
}

// stored counts the messages of a stream that match a subject.
func (o *outside) stored(stream, subject string) int {
	o.t.Helper()
	s, err := o.js.Stream(o.t.Context(), stream)
	if err != nil {
		o.t.Fatal(err)
	}
	info, err := s.Info(o.t.Context(), jetstream.WithSubjectFilter(subject))
	if err != nil {
		o.t.Fatal(err)
	}
	return len(info.State.Subjects)
}

func (o *outside) traces() int {
	return o.stored("RUNNEL_INVOKE", ">") + o.stored("RUNNEL_REPLY", ">") + o.stored("RUNNEL_DEAD", ">")
}

func TestWhatTheClientRefusesLeavesNoTrace(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	long := strings.Repeat("a", 10<<10)
	for name, c := range map[string]struct {
		args []string
		in   string
		says []string
	}{
		"malformed JSON":      {[]string{"send", "-f", "-"}, `{"runtime_kind":"noop",`, []string{"standard input"}},
		"malformed msgpack":   {[]string{"send", "-f", "-"}, "\x82\xa1", []string{"standard input"}},
		"no document":         {[]string{"send", "-f", "-"}, "", []string{"empty document"}},
		"unknown field":       {[]string{"send", "-f", "-"}, `{"runtime_kind":"noop","bogus":1}`, []string{`"bogus"`}},
		"unknown, msgpack":    {[]string{"send", "-f", "-"}, "\x81\xa5bogus\x01", []string{`"bogus"`}},
		"duplicate field":     {[]string{"send", "-f", "-"}, `{"runtime_kind":"noop","runtime_kind":"noop"}`, []string{"duplicate", `"runtime_kind"`}},
		"wrong case":          {[]string{"send", "-f", "-"}, `{"Runtime_Kind":"noop"}`, []string{`"Runtime_Kind"`, `"runtime_kind"`}},
		"empty command":       {[]string{"run", "--"}, "", []string{"command", "must not be empty"}},
		"empty, in a file":    {[]string{"send", "-f", "-"}, `{"runtime_kind":"subprocess","command":[]}`, []string{"command", "must not be empty"}},
		"id with a path":      {[]string{"run", "--id", "../x", "--", "true"}, "", []string{"invocation_id", `"../x"`}},
		"id of 10 KB":         {[]string{"run", "--id", long, "--", "true"}, "", []string{"invocation_id", "10240 bytes"}},
		"another's tenant":    {[]string{"send", "-f", "-"}, `{"runtime_kind":"noop","tenant":"other"}`, []string{"tenant", `"other"`}},
		"several at once":     {[]string{"run", "--lane", "fast", "--pool", "X y", "--", "true"}, "", []string{"lane", "pool"}},
		"negative timeout":    {[]string{"run", "--timeout", "-1s", "--", "true"}, "", []string{"--timeout", "negative"}},
		"no length of time":   {[]string{"run", "--timeout", "soon", "--", "true"}, "", []string{"--timeout", `"soon"`}},
		"label without value": {[]string{"run", "-l", "x", "--", "true"}, "", []string{"--label", "KEY=VALUE"}},
		"variable not set":    {[]string{"run", "-e", "NO_SUCH_VARIABLE", "--", "true"}, "", []string{"--env NO_SUCH_VARIABLE"}},
		"unknown flag":        {[]string{"run", "--bogus", "--", "true"}, "", []string{"--bogus"}},
		"unknown command":     {[]string{"bogus"}, "", []string{"bogus"}},
		"no such file":        {[]string{"send", "-f", "/nowhere/x.json"}, "", []string{"/nowhere/x.json"}},
		"no such stdin":       {[]string{"run", "--stdin", "/nowhere/x", "--", "cat"}, "", []string{"--stdin", "/nowhere/x"}},
		"stdin that is none":  {[]string{"run", "--stdin", "/", "--", "cat"}, "", []string{"--stdin", "directory"}},
		"glob that leads out": {[]string{"run", "--artifacts", "../*", "--", "true"}, "", []string{"artifact_globs[0]", `"../*"`}},
		"no glob":             {[]string{"run", "--artifacts", "a[", "--", "true"}, "", []string{"artifact_globs[0]", "brackets"}},
		"embedded, detached":  {[]string{"run", "-d", "--embedded", "--", "true"}, "", []string{"-d", "--embedded"}},
		"embedded, nothing":   {[]string{"ls", "--embedded"}, "", []string{"--embedded"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := o.feed(strings.NewReader(c.in), c.args...)
			if got.code != 125 || got.out != "" || len(got.err) > 1000 {
				t.Errorf("got %s, want exit code 125 and a word on stderr", got)
			}
			for _, part := range c.says {
				if !strings.Contains(got.err, part) {
					t.Errorf("stderr %q, want %q in it", got.err, part)
				}
			}
		})
	}
	if n := o.traces(); n != 0 {
		t.Errorf("%d messages are stored, want none", n)
	}
}

func TestWhatOnlyTheWorkerSeesIsRejectedOnce(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	o.worker()
	for name, c := range map[string]struct {
		body string
		says string
	}{
		"malformed JSON":    {`{"runtime_kind":`, ""},
		"malformed msgpack": {"\xc1\xff\x00", ""},
		"unknown field":     {`{"invocation_id":"$ID","runtime_kind":"noop","bogus":1}`, "bogus"},
		"duplicate field":   {`{"invocation_id":"$ID","invocation_id":"$ID","runtime_kind":"noop"}`, "invocation_id"},
		"wrong case":        {`{"Invocation_ID":"$ID","runtime_kind":"noop"}`, "Invocation_ID"},
		"empty command":     {`{"invocation_id":"$ID","runtime_kind":"subprocess","command":[]}`, "command"},
		"another id":        {`{"invocation_id":"other","runtime_kind":"noop"}`, "invocation_id"},
		"another kind":      {`{"invocation_id":"$ID","runtime_kind":"manual"}`, "runtime_kind"},
		"another tenant":    {`{"invocation_id":"$ID","runtime_kind":"noop","tenant":"other"}`, "tenant"},
	} {
		t.Run(name, func(t *testing.T) {
			id := strings.NewReplacer(" ", "-").Replace(name)
			kind := "noop"
			if strings.Contains(c.body, "subprocess") {
				kind = "subprocess"
			}
			subject := "runnel.invoke." + kind + ".default.normal.0.default." + id
			if _, err := o.js.Publish(t.Context(), subject, []byte(strings.ReplaceAll(c.body, "$ID", id))); err != nil {
				t.Fatal(err)
			}
			got := o.submit("wait", id)
			if got.code != 125 || !strings.Contains(got.err, "rejected") || !strings.Contains(got.err, c.says) {
				t.Errorf("wait: %s, want rejected and %q", got, c.says)
			}
			if v := o.shown(id); v["status"] != "rejected" || v["reason"] != "bad_invocation" {
				t.Errorf("show says %v, %v", v["status"], v["reason"])
			}
			eventually(t, "it has left the queue", func() bool { return o.stored("RUNNEL_INVOKE", subject) == 0 })
			if n := o.stored("RUNNEL_REPLY", "runnel.reply.default."+id+".>"); n != 1 {
				t.Errorf("%d messages are stored for it, want the result alone", n)
			}
		})
	}
}

func TestTooLargeByHandIsRefused(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	_, err := o.js.Publish(t.Context(), "runnel.invoke.noop.default.normal.0.default.big", make([]byte, 600<<10))
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != 10054 {
		t.Errorf("Publish() = %v, want that the message is larger than the stream takes", err)
	}
	if n := o.traces(); n != 0 {
		t.Errorf("%d messages are stored, want none", n)
	}
}

func TestSameIDOtherContent(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	o.worker()
	o.want(0, "run", "--id", "mine", "--", "echo", "1")
	if got := o.submit("run", "--id", "mine", "--", "echo", "1"); got != (said{"1\n", "", 0}) {
		t.Errorf("the same again: %s, want what it was", got)
	}
	got := o.submit("run", "--id", "mine", "--", "echo", "2")
	if got.code != 125 || !strings.Contains(got.err, "mine") || !strings.Contains(got.err, "other content") {
		t.Errorf("something else: %s", got)
	}
	if n := o.stored("RUNNEL_REPLY", "runnel.reply.default.mine.result"); n != 1 {
		t.Errorf("%d results, want 1", n)
	}
}

func TestKindThatNobodyServes(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	o.worker()
	got := o.submit("run", "--kind", "exotic", "--no-wait-worker", "--", "true")
	if got.code != 125 || !strings.Contains(got.err, `"exotic"`) || !strings.Contains(got.err, "withdrawn") {
		t.Errorf("--no-wait-worker: %s", got)
	}
	if got := o.submit("run", "-d", "--kind", "exotic", "--no-wait-worker", "--", "true"); got.code != 125 || got.out != "" {
		t.Errorf("-d --no-wait-worker: %s", got)
	}
	if n := o.traces(); n != 0 {
		t.Errorf("%d messages are stored, want none", n)
	}
	p := o.start("submit", "run", "--id", "odd", "--kind", "exotic", "--", "true")
	eventually(t, "it says that it waits", func() bool {
		return strings.Contains(p.log.String(), `no worker serves kind "exotic" in pool "default"`)
	})
	o.want(0, "cancel", "odd")
	if code := p.code(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	a := newAccount(t)
	got := a.submit("-s", "nats://"+l.Addr().String(), "run", "--", "true")
	want := "submit: no NATS server at nats://" + l.Addr().String() + `: start one with "worker dev", name one with --server, or add --embedded` + "\n"
	if got != (said{"", want, 125}) {
		t.Errorf("got %s, want %q", got, want)
	}
}

func TestWrongCredentials(t *testing.T) {
	a := newAccount(t)
	a.dev("127.0.0.1:0")
	for name, server := range map[string]string{"wrong": "nats://wr0ng@" + a.address(), "user": "nats://me:wr0ng@" + a.address()} {
		for _, c := range [][]string{{"submit", "-s", server, "ls"}, {"worker", "start", "-s", server}} {
			p := a.start(c[0], c[1:]...)
			code, text := p.code(), p.log.String()
			if code != 125 || !strings.Contains(text, "credentials refused") || !strings.Contains(text, "--creds") || strings.Contains(text, "wr0ng") {
				t.Errorf("%s, %s: exit code %d, stderr %q", name, c[0], code, text)
			}
		}
	}
	stranger := newAccount(t)
	if got := stranger.submit("-s", "nats://"+a.address(), "ls"); got.code != 125 || !strings.Contains(got.err, "with no credentials") {
		t.Errorf("another account: %s", got)
	}
}

func TestDeniedSubject(t *testing.T) {
	users := func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "all"},
			{Username: "looker", Password: "looker", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"runnel.invoke.>"}}}},
		}
		o.NoAuthUser = "all"
	}
	o := newOutside(t, queue.Topology{}, users)
	server := strings.Replace(o.node.URL(), "nats://", "nats://looker:looker@", 1)
	got := o.submit("-s", server, "run", "--", "true")
	if got.code != 125 || !strings.Contains(got.err, "permission denied") || !strings.Contains(got.err, "runnel.invoke.subprocess.default.normal.0.default.") {
		t.Errorf("got %s, want that the subject is denied", got)
	}
	if n := o.traces(); n != 0 {
		t.Errorf("%d messages are stored, want none", n)
	}
}

func TestStorageFull(t *testing.T) {
	o := newOutside(t, queue.Topology{InvokeMaxBytes: 1 << 20})
	file := o.file("stdin")
	if err := os.WriteFile(file, make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var got said
	for range 10 {
		if got = o.submit("run", "-d", "--stdin", file, "--", "cat"); got.code != 0 {
			break
		}
	}
	if got.code != 125 || got.out != "" || !strings.Contains(got.err, "full") {
		t.Errorf("got %s, want that the storage is full", got)
	}
	accepted := o.stored("RUNNEL_INVOKE", ">")
	o.worker()
	eventually(t, "what was accepted has ended", func() bool { return o.stored("RUNNEL_REPLY", "runnel.reply.*.*.result") == accepted })
	o.want(0, "run", "--stdin", file, "--", "true")
}

func TestServerWithoutStreams(t *testing.T) {
	a := newAccount(t)
	a.set("RUNNEL_SERVER", queuetest.Server(t).URL())
	got := a.submit("run", "--", "true")
	if got.code != 125 || !strings.Contains(got.err, "submit init") {
		t.Errorf("got %s, want what makes the streams", got)
	}
	a.want(0, "init")
	if out := a.want(0, "init"); out != "" {
		t.Errorf("a second init printed %q, want no difference", out)
	}
	a.want(0, "run", "-d", "--", "true")
}

func TestServerThatIsTooOldOrSilent(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { l.Close() })
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				fmt.Fprintf(c, "INFO {\"server_id\":\"x\",\"version\":\"2.10.29\",\"jetstream\":true,\"headers\":true,\"max_payload\":1048576,\"proto\":1}\r\n")
				for lines := bufio.NewScanner(c); lines.Scan(); {
					if lines.Text() == "PING" {
						fmt.Fprint(c, "PONG\r\n")
					}
				}
			})
		}
	})
	a := newAccount(t)
	for _, args := range [][]string{{"ls"}, {"run", "--", "true"}} {
		got := a.submit(append([]string{"--server", "nats://" + l.Addr().String()}, args...)...)
		if got.code != 125 || !strings.Contains(got.err, "NATS 2.10.29, which is too old: update it to 2.11.0 or later") {
			t.Errorf("%q: %s, want that the server is too old", args, got)
		}
	}
	// A server that has gone quiet since the connection was made.
	way, err := proxy.New(strings.TrimPrefix(queuetest.Server(t).URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(way.Close)
	way.Trap("PUB $JS.API.", 1)
	got := a.submit("--server", "nats://"+way.Addr(), "ls")
	if got.code != 125 || !strings.Contains(got.err, "has said nothing for 10s") {
		t.Errorf("ls: %s, want that the server is silent", got)
	}
}

func TestServerWithoutJetStream(t *testing.T) {
	a := newAccount(t)
	a.set("RUNNEL_SERVER", queuetest.Server(t, func(o *server.Options) { o.JetStream = false }).URL())
	for _, args := range [][]string{{"run", "--", "true"}, {"ls"}, {"doctor"}} {
		if got := a.submit(args...); got.code != 125 || !strings.Contains(got.err, "nats-server -js") {
			t.Errorf("%q: %s, want that JetStream is missing", args, got)
		}
	}
}

func TestHostileHeaders(t *testing.T) {
	o := newOutside(t, queue.Topology{})
	victim := strings.TrimSpace(o.want(0, "run", "-d", "--", "echo", "unharmed"))
	subject := "runnel.invoke.noop.default.normal.0.default."
	for i, h := range []nats.Header{
		{"Nats-Rollup": {"all"}}, {"Nats-Rollup": {"sub"}}, {"Nats-TTL": {"1s"}}, {"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}},
		{"Nats-Expected-Last-Sequence": {"99"}}, {"Nats-Expected-Stream": {"OTHER"}}, {"Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}},
	} {
		id := "hostile" + string(rune('a'+i))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		body := `{"invocation_id":"` + id + `","runtime_kind":"noop"}`
		_, err := o.js.PublishMsg(ctx, &nats.Msg{Subject: subject + id, Header: h, Data: []byte(body)}, jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			t.Errorf("a message with %v was accepted", h)
		}
	}
	if n := o.stored("RUNNEL_INVOKE", ">"); n != 1 {
		t.Errorf("%d messages are in the queue, want the one that was there", n)
	}
	o.worker()
	if out := o.want(0, "logs", "-f", victim); out != "unharmed\n" {
		t.Errorf("the job that was there printed %q", out)
	}
}
