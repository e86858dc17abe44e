package tree_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runnel-project/runnel/internal/runner/subprocess/tree"
)

func TestParseStat(t *testing.T) {
	const rest = " 10 20 30 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3"
	for _, name := range []string{"sleep", "a b", "(sd-pam)", "x) R 1 2 3 (", "", ")", "new\nline"} {
		p, err := tree.ParseStat([]byte("123 (" + name + ") S" + rest))
		want := tree.Proc{PID: 123, Parent: 10, Group: 20, Session: 30, State: 'S', Threads: 1, Forked: true, Start: 987654}
		if err != nil || p != want {
			t.Errorf("ParseStat(%q) = %+v, %v, want %+v", name, p, err, want)
		}
	}
	for stat, zombie := range map[string]bool{
		"1 (a) Z 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5": true,
		"1 (a) Z 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 2 0 5": false, // another thread lives
		"1 (a) R 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5": false,
	} {
		if p, err := tree.ParseStat([]byte(stat)); err != nil || p.Zombie() != zombie {
			t.Errorf("ParseStat(%q).Zombie() = %v, %v, want %v", stat, p.Zombie(), err, zombie)
		}
	}
	for _, bad := range []string{"", "123", "123 sleep S" + rest, "x (sleep) S" + rest, "123 (sleep) SS" + rest, "0 (s) S" + rest, "1 (s) S 1 2", "1 (s) S a" + rest} {
		if p, err := tree.ParseStat([]byte(bad)); err == nil {
			t.Errorf("ParseStat(%q) = %+v, want an error", bad, p)
		}
	}
}

func TestReadProc(t *testing.T) {
	p, err := tree.ReadProc(os.Getpid())
	sid, _ := unix.Getsid(0)
	if err != nil || p.PID != os.Getpid() || p.Parent != os.Getppid() || p.Session != sid || p.Zombie() {
		t.Errorf("ReadProc() = %+v, %v of itself", p, err)
	}
	if now := tree.Now(); p.Start > now || now-p.Start > 100*3600 {
		t.Errorf("Now() = %d, and this process began at %d", now, p.Start)
	}
	procs, err := tree.Procs()
	if err != nil || procs[p.PID].Start != p.Start {
		t.Errorf("Procs() = %d processes, %v, without this one", len(procs), err)
	}
}

// A signal goes to the process that was looked at, and not to the one that has its number now.
func TestSignalKnowsTheProcess(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	cmd.Env = []string{"A=1", "MARK=x=y"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	p, err := tree.ReadProc(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if children, err := tree.Children(); err != nil || !slices.Contains(children, p.PID) {
		t.Errorf("Children() = %v, %v, want %d among them", children, err, p.PID)
	}
	if value, ok := p.Var("MARK"); value != "x=y" || !ok {
		t.Errorf("Var() = %q, %v, want x=y", value, ok)
	}
	if value, ok := p.Var("MAR"); ok {
		t.Errorf("Var() = %q of a variable that is not there", value)
	}
	if exe := p.Link("exe"); !strings.Contains(exe, "/") {
		t.Errorf("Link(exe) = %q", exe)
	}

	earlier := p
	earlier.Start--
	if err := earlier.Signal(unix.SIGKILL); err != nil {
		t.Errorf("Signal() = %v to a process that is gone", err)
	}
	if now, err := tree.ReadProc(p.PID); err != nil || now.Zombie() {
		t.Fatal("Signal() hits a process that got the number later")
	}
	tree.WaitGone([]tree.Proc{earlier}, time.Minute)

	n, err := tree.KillAll(func() ([]tree.Proc, error) {
		if now, err := tree.ReadProc(p.PID); err == nil && !now.Zombie() {
			return []tree.Proc{now}, nil
		}
		return nil, nil
	}, time.Minute)
	if n != 1 || err != nil {
		t.Errorf("KillAll() = %d, %v, want 1", n, err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Errorf("Signal() = %v to one that is gone", err)
	}
}

func TestDescendants(t *testing.T) {
	procs := make(map[int]tree.Proc)
	for pid, parent := range map[int]int{2: 1, 3: 2, 4: 3, 5: 1, 6: 5, 7: 7} {
		procs[pid] = tree.Proc{PID: pid, Parent: parent}
	}
	for want, chosen := range map[string]map[int]bool{
		"[2 3 4]": {2: true}, "[3 4 6]": {3: true, 6: true}, "[1 2 3 4 5 6]": {1: true}, "[7]": {7: true}, "[]": nil,
	} {
		if got := fmt.Sprint(slices.Sorted(maps.Keys(tree.Descendants(procs, chosen)))); got != want {
			t.Errorf("Descendants(%v) = %s, want %s", chosen, got, want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 5 1"))
	f.Add([]byte("2 (a) b) R 1 2 3) 4"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		p, err := tree.ParseStat(stat)
		if err == nil && p.PID <= 0 {
			t.Errorf("ParseStat(%q) = %+v: a signal to it would go to many", stat, p)
		}
	})
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte("A=1\x00B=2\x00"), "B")
	f.Add([]byte("A"), "A")
	f.Fuzz(func(t *testing.T, environ []byte, name string) {
		value, ok := tree.Lookup(environ, name)
		if entry := name + "=" + value; ok && !strings.Contains("\x00"+string(environ)+"\x00", "\x00"+entry+"\x00") {
			t.Errorf("Lookup(%q, %q) = %q", environ, name, value)
		}
	})
}

func FuzzParsePIDs(f *testing.F) {
	f.Add([]byte("1 2\n3\n"))
	f.Add([]byte("0 -1 99999999999999999999 x"))
	f.Fuzz(func(t *testing.T, list []byte) {
		for _, pid := range tree.ParsePIDs(list) {
			if pid <= 0 {
				t.Errorf("ParsePIDs(%q) holds %d", list, pid)
			}
		}
	})
}
