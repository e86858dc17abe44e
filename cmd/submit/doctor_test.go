package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel"
)

func TestLookAtClock(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for name, test := range map[string]struct {
		server time.Duration // after the middle of the question, which took 2 ms
		state  string
		found  string
	}{
		"within the error": {-900 * time.Microsecond, "", "in step with the server's, give or take 1ms"},
		"behind":           {1500 * time.Millisecond, "", "1.5s behind the server's, give or take 1ms"},
		"ahead":            {-1500 * time.Millisecond, "", "1.5s ahead of the server's, give or take 1ms"},
		"far behind":       {10 * time.Minute, "warn", "10m0s behind the server's, give or take 1ms"},
		"far ahead":        {-10 * time.Minute, "warn", "10m0s ahead of the server's, give or take 1ms"},
	} {
		f := lookAtClock(at.Add(time.Millisecond+test.server), at, at.Add(2*time.Millisecond))
		if f.State != test.state || f.Found != test.found {
			t.Errorf("%s: %+v, want %q and %q", name, f, test.state, test.found)
		}
	}
}

func TestLookAtStream(t *testing.T) {
	whole := runnel.Inspection{Stream: "S", Messages: 1, Bytes: 100, MaxBytes: 1000, Replicas: 3}
	for name, test := range map[string]struct {
		change func(*runnel.Inspection)
		state  string
		says   string
	}{
		"whole":              {func(*runnel.Inspection) {}, "", "1 messages, 100 bytes of 1000 bytes, on 3 servers"},
		"not there":          {func(i *runnel.Inspection) { i.Err, i.Replicas = runnel.ErrNoStream, 0 }, "fail", "submit init"},
		"not to be seen":     {func(i *runnel.Inspection) { i.Err, i.Replicas = runnel.ErrDenied, 0 }, "warn", "ask again as a user"},
		"not answering":      {func(i *runnel.Inspection) { i.Err, i.Replicas = runnel.ErrUnknown, 0 }, "fail", "whether its servers run"},
		"forbidden":          {func(i *runnel.Inspection) { i.Err = errors.New("AllowRollup is true") }, "fail", "AllowRollup is true: change it back"},
		"no right to write":  {func(i *runnel.Inspection) { i.Write = runnel.ErrDenied }, "", "no test write, which this user may not"},
		"full":               {func(i *runnel.Inspection) { i.Write, i.Bytes = runnel.ErrFull, 950 }, "fail", "raise its max_bytes"},
		"dead":               {func(i *runnel.Inspection) { i.Write = runnel.ErrFull }, "fail", "restart the server"},
		"not taking":         {func(i *runnel.Inspection) { i.Write = runnel.ErrUnknown }, "fail", "the server's log"},
		"nearly full":        {func(i *runnel.Inspection) { i.Bytes = 950 }, "warn", "raise its max_bytes"},
		"different":          {func(i *runnel.Inspection) { i.Drift = []runnel.Drift{{Setting: "MaxAge", Have: "1h", Want: "24h"}} }, "warn", "MaxAge is 1h, not 24h"},
		"full and different": {func(i *runnel.Inspection) { i.Bytes = 950; i.Drift = []runnel.Drift{{}} }, "warn", "nine tenths"},
	} {
		i := whole
		test.change(&i)
		f := lookAtStream(i)
		if all := fmt.Sprint(f.Found, ": ", f.Problem, ": ", f.Next); f.State != test.state || !strings.Contains(all, test.says) {
			t.Errorf("%s: %+v, want %q with %q", name, f, test.state, test.says)
		}
	}
}

func TestWeighStorage(t *testing.T) {
	tier := func(used uint64, limit int64) jetstream.Tier {
		return jetstream.Tier{Store: used, Limits: jetstream.AccountLimits{MaxStore: limit}}
	}
	for name, test := range map[string]struct {
		account   jetstream.Tier
		promised  int64
		unbounded int
		state     string
	}{
		"no limit":              {tier(1<<40, -1), 1 << 50, 9, ""},
		"room":                  {tier(1<<30, 20<<30), 10 << 30, 2, ""},
		"in use":                {tier(19<<30, 20<<30), 10 << 30, 0, "fail"},
		"promised too much":     {tier(1<<30, 20<<30), 21 << 30, 0, "warn"},
		"none left for files":   {tier(1<<30, 20<<30), 20<<30 - 1, 1, "warn"},
		"none left, none asked": {tier(1<<30, 20<<30), 20<<30 - 1, 0, ""},
	} {
		if f := weighStorage(finding{}, test.account, test.promised, test.unbounded); f.State != test.state {
			t.Errorf("%s: %+v, want %q", name, f, test.state)
		}
	}
}

func TestOlder(t *testing.T) {
	for version, want := range map[string]bool{
		"2.11.0": false, "2.15.2": false, "3.0.0": false, "2.11.0-RC.1": false, "2.10.29": true, "1.4.1": true, "dev": false, "": false,
	} {
		if older(version, leastServer) != want {
			t.Errorf("older(%q) is not %v", version, want)
		}
	}
}

func TestCountWorkers(t *testing.T) {
	able := func(sandboxes string) runnel.Presence {
		return runnel.Presence{
			Slots: 4, Busy: 1, Kinds: []runnel.Kind{runnel.KindContainer}, Capabilities: map[string]string{"container.sandboxes": sandboxes},
		}
	}
	for want, workers := range map[string][]runnel.Presence{
		"2 with 8 slots, 2 busy; kinds: container (2); sandboxes: 3 open of 8": {able("1 open of 4"), able("2 open of 4")},
		"2 with 8 slots, 2 busy; kinds: container (2); sandboxes: 1 open of 4": {able("1 open of 4"), able("no: there is no agent for linux/mips")},
		"1 with 4 slots, 1 busy; kinds: container (1)":                         {able("")},
	} {
		if f := countWorkers(finding{}, workers); f.Found != want {
			t.Errorf("countWorkers() = %q, want %q", f.Found, want)
		}
	}
}
