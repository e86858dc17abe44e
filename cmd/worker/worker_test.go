//go:build linux || darwin

package main_test

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// begin hands in a job that says when it has begun and then does what script says, and waits for that word.
func begin(t *testing.T, url, script string) (*runnel.Client, string) {
	t.Helper()
	client := clientOf(t, url)
	receipt, err := client.Submit(t.Context(), runnel.Invocation{
		Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", "echo begun; " + script},
	})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range client.Watch(t.Context(), receipt.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == runnel.EventOutput {
			return client, receipt.ID
		}
	}
	t.Fatal("the job did not begin")
	return nil, ""
}

func TestStartOnAFullDisk(t *testing.T) {
	node := queuetest.Server(t)
	p := start(t, t.TempDir(), "start", "-s", node.URL(), "--name", "full", "--disk-floor", "900000TiB")
	if text := p.line(); text != "ready full" {
		t.Fatalf("it said %q", text)
	}
	workers, err := clientOf(t, node.URL()).Workers(t.Context())
	if err != nil || len(workers) != 1 || !strings.HasPrefix(workers[0].Blocked, "disk: ") {
		t.Errorf("Workers() = %+v, %v; want one that is blocked", workers, err)
	}
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestStartWithLimitsOfOutput(t *testing.T) {
	node := queuetest.Server(t)
	p := start(t, t.TempDir(), "start", "-s", node.URL(), "--output-limit", "4KiB", "--max-output-limit", "16KiB")
	p.line()
	client := clientOf(t, node.URL())
	for asked, kept := range map[int64]int64{0: 4 << 10, 8 << 10: 8 << 10, 1 << 20: 16 << 10} {
		r, err := client.Run(t.Context(), runnel.Invocation{
			Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", "head -c 100000 /dev/zero"}, OutputLimitBytes: asked,
		}, runnel.RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if n := r.StdoutBytes - r.CutBytes; n > kept || n < kept/2 || (len(r.Warnings) > 0) != (asked > 16<<10) {
			t.Errorf("%d bytes are kept where %d were asked for, want %d or little less; warnings %q", n, asked, kept, r.Warnings)
		}
	}
}

func TestStartSaysWhenItIsReady(t *testing.T) {
	node := queuetest.Server(t)
	p := start(t, t.TempDir(), "start", "-s", node.URL(), "--name", "w-1", "--slots", "3", "--label", "zone=a", "--kinds", "noop")
	if text := p.line(); text != "ready w-1" {
		t.Fatalf("it said %q", text)
	}
	workers, err := clientOf(t, node.URL()).Workers(t.Context())
	if err != nil || len(workers) != 1 {
		t.Fatalf("Workers() = %v, %v", workers, err)
	}
	if w := workers[0]; w.Name != "w-1" || w.Slots != 3 || w.Labels["zone"] != "a" || len(w.Kinds) != 1 || w.Kinds[0] != runnel.KindNoop {
		t.Errorf("it tells of itself %+v", w)
	}
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if text := p.line(); text != "the end" {
		t.Errorf("it said %q as well", text)
	}
}

func TestStartWaitsForAServer(t *testing.T) {
	node := queuetest.Server(t)
	node.Shutdown()
	p := start(t, t.TempDir(), "start", "-s", node.URL(), "--name", "early")
	p.says("waiting for NATS")
	node.Restart(t)
	if text := p.line(); text != "ready early" {
		t.Errorf("it said %q", text)
	}
}

func TestStartWithoutJetStreamSaysSo(t *testing.T) {
	p := start(t, t.TempDir(), "start", "-s", queuetest.Server(t, withoutJetStream).URL())
	p.says("JetStream is not enabled")
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestStartEndsWhileItWaits(t *testing.T) {
	node := queuetest.Server(t)
	node.Shutdown()
	p := start(t, t.TempDir(), "start", "-s", node.URL())
	p.says("waiting for NATS")
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestDrainLetsRunsFinish(t *testing.T) {
	node := queuetest.Server(t)
	p := start(t, t.TempDir(), "start", "-s", node.URL())
	p.line()
	gate := filepath.Join(t.TempDir(), "gate")
	client, id := begin(t, node.URL(), "while [ ! -e '"+gate+"' ]; do sleep 0.05; done; exit 7")
	p.signal(syscall.SIGTERM)
	p.says("draining")
	touch(t, gate)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	info, err := client.Get(t.Context(), id)
	if err != nil || info.Result == nil || info.Result.ExitCode == nil || *info.Result.ExitCode != 7 {
		t.Errorf("Get() = %+v, %v, want the run's own end", info, err)
	}
}

func TestDrainHandsBackWhatIsLeft(t *testing.T) {
	for name, signals := range map[string]int{"after its timeout": 1, "at a second signal": 2} {
		t.Run(name, func(t *testing.T) {
			node := queuetest.Server(t)
			timeout := "100ms"
			if signals > 1 {
				timeout = "1h"
			}
			first := start(t, t.TempDir(), "start", "-s", node.URL(), "--drain-timeout", timeout)
			first.line()
			client, id := begin(t, node.URL(), "exec sleep 600")
			first.signal(syscall.SIGTERM)
			first.says("draining")
			if signals > 1 {
				first.signal(syscall.SIGTERM)
				first.says("stopping")
			}
			if code := first.code(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			info, err := client.Get(t.Context(), id)
			if err != nil || info.Result != nil || len(info.Ends) != 1 || info.Ends[0].Reason != runnel.ReasonInfra || info.Ends[0].Counted {
				t.Errorf("Get() = %+v, %v, want it handed back and not counted", info, err)
			}
			// Another worker goes on with it.
			second := start(t, t.TempDir(), "start", "-s", node.URL())
			second.line()
			for e, err := range client.Watch(t.Context(), id) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Run != "" && e.Run != info.Ends[0].Run && e.Type == runnel.EventOutput {
					break
				}
			}
		})
	}
}

func TestStartRefuses(t *testing.T) {
	home := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown kind":     {[]string{"start", "-s", queuetest.Server(t).URL(), "--kinds", "exotic"}, `"exotic"`},
		"bad name":         {[]string{"start", "-s", queuetest.Server(t).URL(), "--name", "A b"}, `"A b"`},
		"bad label":        {[]string{"start", "--label", "x"}, "KEY=VALUE"},
		"negative slots":   {[]string{"start", "--slots", "-1"}, "--slots"},
		"no drain timeout": {[]string{"start", "--drain-timeout", "0s"}, "--drain-timeout"},
		"bad log level":    {[]string{"start", "--log-level", "loud"}, "loud"},
		"unknown flag":     {[]string{"start", "--bogus"}, "--bogus"},
		"unknown command":  {[]string{"bogus"}, "bogus"},
		"no such context":  {[]string{"start", "--context", "nowhere"}, `"nowhere"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, home, c.args...)
			if code := p.code(); code != 125 || !strings.Contains(p.log.String(), c.says) {
				t.Errorf("exit code %d, stderr %q: want 125 and %q", code, p.log, c.says)
			}
		})
	}
}

func TestDevs(t *testing.T) {
	home := t.TempDir()
	p := start(t, home, "dev", "--listen", "127.0.0.1:0")
	url, ok := strings.CutPrefix(p.line(), "ready ")
	if !ok {
		t.Fatal("it is not ready")
	}
	other := start(t, home, "dev", "--listen", "127.0.0.1:0")
	if code := other.code(); code != 125 || !strings.Contains(other.log.String(), "in use") || !strings.Contains(other.log.String(), "--data") {
		t.Errorf("a second one on the data: exit code %d, stderr %q", code, other.log)
	}
	address := strings.TrimPrefix(url, "nats://")
	other = start(t, home, "dev", "--listen", address, "--data", filepath.Join(home, "other"))
	if code := other.code(); code != 125 || !strings.Contains(other.log.String(), "--listen") {
		t.Errorf("a second one on the address: exit code %d, stderr %q", code, other.log)
	}
	t.Setenv("XDG_STATE_HOME", filepath.Join(home, "state"))
	if token, err := embedded.Token(address); token == "" || err != nil {
		t.Errorf("Token() = %q, %v, want the one of the first", token, err)
	}
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if text := p.line(); text != "the end" {
		t.Errorf("it said %q as well", text)
	}
}

func TestDoctor(t *testing.T) {
	home, node := t.TempDir(), queuetest.Server(t)
	p := start(t, home, "doctor", "-s", node.URL())
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	var said strings.Builder
	for text := p.line(); text != "the end"; text = p.line() {
		said.WriteString(text + "\n")
	}
	for _, part := range []string{"subprocess.kill", "noop", node.URL(), filepath.Join(home, "state")} {
		if !strings.Contains(said.String(), part) {
			t.Errorf("it said %q, want %q in it", &said, part)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p = start(t, home, "doctor", "-s", "nats://"+l.Addr().String())
	if code := p.code(); code != 125 {
		t.Errorf("without a server: exit code %d, want 125", code)
	}
}
