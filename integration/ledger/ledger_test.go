package ledger_test

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/ledger"
)

const signEnv = "RUNNEL_LEDGER_TEST"

// In a child the test binary signs, says so, and stays until it is killed.
func TestMain(m *testing.M) {
	dir, ok := os.LookupEnv(signEnv)
	if !ok {
		os.Exit(m.Run())
	}
	if err := ledger.Sign(dir, ledger.Entry{Tenant: "default", ID: "a", Token: "t0k", Started: time.Unix(1, 2)}); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("signed\n")
	time.Sleep(time.Hour)
}

// child starts a process that signs, and returns its entry once it has.
func child(t *testing.T, dir string) (*exec.Cmd, ledger.Entry) {
	t.Helper()
	before, err := ledger.Names(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), signEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	names, err := ledger.Names(dir)
	if err != nil || len(names) != len(before)+1 {
		t.Fatalf("Names() = %q, %v, want %d", names, err, len(before)+1)
	}
	for _, name := range names {
		e, err := ledger.Read(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		if e.PID == cmd.Process.Pid {
			return cmd, e
		}
	}
	t.Fatalf("%q is not by process %d", names, cmd.Process.Pid)
	return nil, ledger.Entry{}
}

func TestAProcessIsInTheLedgerAndAliveUntilItEnds(t *testing.T) {
	dir := t.TempDir()
	cmd, e := child(t, dir)
	_, other := child(t, dir)
	if e.Tenant != "default" || e.ID != "a" || e.Token != "t0k" || !e.Started.Equal(time.Unix(1, 2)) {
		t.Errorf("Read() = %+v", e)
	}
	alive := func(e ledger.Entry, want bool) {
		t.Helper()
		if got, err := e.Alive(); err != nil || got != want {
			t.Errorf("Alive() = %v, %v, want %v", got, err, want)
		}
	}
	alive(e, true)
	alive(e, true) // to ask takes nothing away
	if err := e.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	alive(e, false)
	alive(other, true)
}

// A process of a container has a number that another has outside.
func TestKillLeavesAProcessOfTheSameNumberAlone(t *testing.T) {
	dir := t.TempDir()
	_, e := child(t, dir)
	_, other := child(t, dir)
	e.PID = other.PID
	if err := e.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, e := range []ledger.Entry{e, other} {
		if alive, err := e.Alive(); err != nil || !alive {
			t.Errorf("Alive() = %v, %v: it was killed", alive, err)
		}
	}
}

func TestReadRefusesWhatIsNotInItsForm(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.b": "x 1 2\n", "a.b.c": "x 1\n", "a.b.d": "x y z\n"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if e, err := ledger.Read(dir, name); err == nil {
			t.Errorf("Read(%q) = %+v, nil", name, e)
		}
	}
}
