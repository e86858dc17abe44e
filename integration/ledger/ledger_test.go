package ledger_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/runnel-project/runnel/integration/ledger"
)

func TestLedgerReadsBackWhatWasAppended(t *testing.T) {
	dir := t.TempDir()
	self, err := ledger.Self()
	if err != nil {
		t.Fatal(err)
	}
	want := []ledger.Entry{
		{Tenant: "default", ID: "a", Token: "00", Process: self, Started: time.Unix(1, 2).UTC()},
		{Tenant: "default", ID: "a", Token: "11", Process: ledger.Process{PID: 1 << 30, Born: 7}, Started: time.Unix(3, 4).UTC()},
		{Tenant: "other", ID: "a", Token: "22", Process: self, Started: time.Unix(5, 6).UTC()},
	}
	for _, e := range want {
		if err := ledger.Append(dir, e); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ledger.Read(dir, "default", "a")
	if diff := cmp.Diff(want[:2], got); err != nil || diff != "" {
		t.Errorf("Read() differs (%v):\n%s", err, diff)
	}
	got, err = ledger.ReadAll(dir)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("ReadAll() differs (%v):\n%s", err, diff)
	}
	if none, err := ledger.Read(dir, "default", "none"); err != nil || none != nil {
		t.Errorf("Read() of nothing = %v, %v, want nil", none, err)
	}
	if !want[0].Process.Alive() || want[1].Process.Alive() {
		t.Error("Alive() is wrong about this process or about none")
	}
}

func TestAZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := ledger.Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Error("a child that sleeps is not alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Not reaped yet: it is a zombie as soon as the signal has done its work.
	for deadline := time.Now().Add(10 * time.Second); p.Alive(); {
		if time.Now().After(deadline) {
			t.Fatal("a killed child still counts as alive")
		}
	}
	_ = cmd.Wait()
}
