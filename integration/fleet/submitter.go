package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/internal/contracts"
)

// Submitter is a process that submits, and can be killed over it.
type Submitter struct {
	f   *Fleet
	cmd *exec.Cmd
	out *bufio.Scanner
}

type submitterConfig struct {
	URL  string
	Jobs []contracts.Invocation
	// Cancel is the id of what it cancels first; "" is nothing.
	Cancel string
}

// StartSubmitter starts a process that submits jobs of the default tenant, connected to address; "" is all servers. More
// than one are under one SubmitAll, and it says each receipt.
func (f *Fleet) StartSubmitter(address string, jobs ...contracts.Invocation) *Submitter {
	f.t.Helper()
	for _, inv := range jobs {
		f.Submitted(inv)
	}
	return f.startSubmitter(submitterConfig{URL: address, Jobs: jobs})
}

// StartCanceller starts a process that cancels an invocation of the default tenant, connected to address.
func (f *Fleet) StartCanceller(address, id string) *Submitter {
	f.t.Helper()
	return f.startSubmitter(submitterConfig{URL: address, Cancel: id})
}

func (f *Fleet) startSubmitter(cfg submitterConfig) *Submitter {
	f.t.Helper()
	if cfg.URL == "" {
		cfg.URL = f.url
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	// Too much for an environment variable.
	config := filepath.Join(f.Dir, f.ID("submitter"))
	if err := os.WriteFile(config, text, 0o600); err != nil {
		f.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	s := &Submitter{f: f, cmd: exec.Command(exe)}
	s.cmd.Env = append(os.Environ(), submitterEnv+"="+config, "GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(f.Dir, "race"))
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	s.out = bufio.NewScanner(out)
	return s
}

// Receipts waits until the submitter has n receipts, and returns how many it has: fewer if it ended.
func (s *Submitter) Receipts(n int) int {
	s.f.t.Helper()
	got := 0
	for got < n && s.out.Scan() {
		var r runnel.Receipt
		if err := json.Unmarshal(s.out.Bytes(), &r); err != nil {
			s.f.t.Fatalf("submitter said %q: %v", s.out.Text(), err)
		}
		s.f.Accepted(contracts.DefaultTenant, r.ID, r.Digest)
		got++
	}
	return got
}

// Kill kills the submitter as kill -9 does.
func (s *Submitter) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Wait waits for the submitter's end in order.
func (s *Submitter) Wait() {
	s.f.t.Helper()
	if err := s.cmd.Wait(); err != nil {
		s.f.t.Errorf("submitter: %v", err)
	}
}

// submitter is the life of the child.
func submitter(config string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var cfg submitterConfig
	if err := json.Unmarshal(text, &cfg); err != nil {
		return err
	}
	nc, err := nats.Connect(cfg.URL, append(runnel.ConnectOptions("submitter"), nats.IgnoreDiscoveredServers())...)
	if err != nil {
		return err
	}
	defer nc.Close()
	c, err := runnel.New(nc)
	if err != nil {
		return err
	}
	if cfg.Cancel != "" {
		if _, err := c.Cancel(context.Background(), cfg.Cancel); err != nil {
			return err
		}
	}
	if len(cfg.Jobs) == 1 { // also with an input that no message holds
		_, err := c.Submit(context.Background(), cfg.Jobs[0])
		return err
	}
	for r, err := range c.SubmitAll(context.Background(), slices.Values(cfg.Jobs)) {
		if err != nil {
			return err
		}
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}
