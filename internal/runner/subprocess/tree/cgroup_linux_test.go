package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/runner/subprocess/tree"
)

func TestFindCgroup(t *testing.T) {
	const (
		unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid  = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
			"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw\n"
		bound = "29 23 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
	)
	tests := map[string]struct {
		mounts, cgroups string
		dir, says       string
	}{
		"unified":                  {unified, "0::/\n", "/sys/fs/cgroup", ""},
		"a unit":                   {unified, "0::/system.slice/runnel.service\n", "/sys/fs/cgroup/system.slice/runnel.service", ""},
		"hybrid":                   {hybrid, "4:memory:/x/y\n1:name=systemd:/z\n0::/u\n", "/sys/fs/cgroup/unified/u", ""},
		"container, no ns":         {bound, "0::/docker/abc\n", "/sys/fs/cgroup", ""},
		"container, below":         {bound, "0::/docker/abc/d\n", "/sys/fs/cgroup/d", ""},
		"second mount shows":       {bound + strings.ReplaceAll(unified, "/sys/fs/cgroup", "/mnt/cg"), "0::/x\n", "/mnt/cg/x", ""},
		"escapes":                  {strings.ReplaceAll(unified, "/sys/fs/cgroup", `/mnt/a\040b\134c`), "0::/d e\n", `/mnt/a b\c/d e`, ""},
		"a colon in a name":        {unified, "0::/a:b\n", "/sys/fs/cgroup/a:b", ""},
		"outside of the mount":     {bound, "0::/docker/other\n", "", "does not show"},
		"name begins alike":        {bound, "0::/docker/abcd\n", "", "does not show"},
		"above the namespace":      {strings.Replace(unified, " / ", " /.. ", 1), "0::/x\n", "", "does not show"},
		"outside of the namespace": {unified, "0::/../x\n", "", "does not show"},
		"only v1":                  {strings.Join(strings.SplitAfter(hybrid, "\n")[:2], ""), "4:memory:/\n0::/\n", "", "no cgroup v2 is mounted"},
		"in none":                  {unified, "4:memory:/\n", "", "in no cgroup v2"},
		"nothing":                  {"", "", "", "in no cgroup v2"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir, err := tree.FindCgroup(test.mounts, test.cgroups)
			if dir != test.dir || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) || test.says == "" && err != nil {
				t.Errorf("FindCgroup() = %q, %v, want %q and an error with %q", dir, err, test.dir, test.says)
			}
		})
	}
}

// makeCgroup makes a cgroup, or skips the test where none can be made.
func makeCgroup(t *testing.T) *tree.Cgroup {
	t.Helper()
	own, err := tree.OwnCgroup()
	if err != nil {
		t.Skip(err)
	}
	c, err := tree.MakeCgroup(filepath.Join(own, "test-runnel-"+strings.ToLower(t.Name())))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := tree.RemoveCgroup(c.Path()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestCgroup(t *testing.T) {
	c := makeCgroup(t)
	if empty, err := c.Empty(); !empty || err != nil {
		t.Errorf("Empty() = %v, %v of a new one", empty, err)
	}
	if err := c.Kill(time.Minute); err != nil {
		t.Errorf("Kill() = %v of an empty one", err)
	}
	if err := c.Remove(); err != nil {
		t.Fatalf("Remove() = %v", err)
	}
	if _, err := tree.OpenCgroup(c.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenCgroup() = %v after Remove()", err)
	}
}

// What is below counts, is listed, killed and removed: a job may divide its cgroup.
func TestNestedCgroup(t *testing.T) {
	c := makeCgroup(t)
	below := filepath.Join(c.Path(), "a", "b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	inner, err := tree.OpenCgroup(below)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: inner.FD()}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if empty, err := c.Empty(); empty || err != nil {
		t.Errorf("Empty() = %v, %v, want false", empty, err)
	}
	if pids, err := c.PIDs(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("PIDs() = %v, %v, want %d", pids, err, cmd.Process.Pid)
	}
	if err := tree.RemoveCgroup(c.Path()); err == nil {
		t.Error("RemoveCgroup() removes one with a process in it")
	}
	if err := c.Kill(time.Minute); err != nil {
		t.Errorf("Kill() = %v", err)
	}
	if empty, err := c.Empty(); !empty || err != nil {
		t.Errorf("Empty() = %v, %v after Kill()", empty, err)
	}
	_ = cmd.Wait()
	if err := errors.Join(inner.Close(), c.Remove()); err != nil {
		t.Error(err)
	}
}

func TestLock(t *testing.T) {
	c := makeCgroup(t)
	defer c.Remove()
	if err := c.Lock(); err != nil {
		t.Fatal(err)
	}
	other, err := tree.OpenCgroup(c.Path())
	if err != nil {
		t.Fatal(err)
	}
	if abandoned, err := other.Abandoned(); abandoned || err != nil {
		t.Errorf("Abandoned() = %v, %v of one in use", abandoned, err)
	}
	third, err := tree.OpenCgroup(c.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(third.Lock(), third.Close(), other.Close()); err != nil {
		t.Errorf("a second user: %v", err)
	}
	unlock, err := tree.LockDir(t.TempDir(), time.Minute)
	if err != nil {
		t.Fatalf("LockDir() = %v", err)
	}
	defer unlock()
}

func FuzzFindCgroup(f *testing.F) {
	f.Add("29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/x\n")
	f.Add(`29 23 0:26 /..\040 /s\134 rw - cgroup2 c r`, "0::/../..\n")
	f.Fuzz(func(t *testing.T, mounts, cgroups string) {
		dir, err := tree.FindCgroup(mounts, cgroups)
		if (err == nil) != (dir != "") {
			t.Errorf("FindCgroup() = %q, %v", dir, err)
		}
		if err == nil && (!filepath.IsAbs(dir) || filepath.Clean(dir) != dir) {
			t.Errorf("FindCgroup() = %q, want a clean absolute path", dir)
		}
	})
}

func FuzzParsePopulated(f *testing.F) {
	f.Add([]byte("populated 1\nfrozen 0\n"))
	f.Add([]byte("frozen 0\npopulated 0"))
	f.Fuzz(func(t *testing.T, events []byte) {
		populated, err := tree.ParsePopulated(events)
		if populated && (err != nil || !strings.Contains(string(events), "populated 1")) {
			t.Errorf("ParsePopulated(%q) = %v, %v", events, populated, err)
		}
		if !populated && err == nil && !strings.Contains(string(events), "populated 0") {
			t.Errorf("ParsePopulated(%q) makes up that nothing runs", events)
		}
	})
}
