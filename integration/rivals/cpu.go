package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// processorTime is how many seconds a system's processes have used so far, with what they started, of which they
// waited for or which still runs. How busy the machine is with other things hardly changes it.
func (a *alive) processorTime() float64 {
	var roots []int
	for _, c := range append([]*child{a.server, a.submit}, a.workers...) {
		roots = append(roots, c.cmd.Process.Pid)
	}
	parent, ticks := map[int]int{}, map[int]int64{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if pid, ppid, used, err := readStat(path); err == nil {
			parent[pid], ticks[pid] = ppid, used
		}
	}
	var sum int64
	for pid := range parent {
		for _, root := range roots {
			if descends(parent, pid, root) {
				sum += ticks[pid]
			}
		}
	}
	return float64(sum) / clockTicks
}

// clockTicks is what /proc counts in, a second, wherever Go runs.
const clockTicks = 100

func descends(parent map[int]int, pid, root int) bool {
	for range 64 {
		if pid == root {
			return true
		}
		if pid <= 1 {
			return false
		}
		pid = parent[pid]
	}
	return false
}

// readStat reads who a process is, who its parent, and what both it and the children that it waited for have used.
func readStat(path string) (pid, ppid int, ticks int64, err error) {
	stat, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, 0, err
	}
	// The name, in brackets, may hold anything; the parent is the second field after it, utime to cstime the 12th to 15th.
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 15 {
		return 0, 0, 0, fmt.Errorf("%s: %d fields", path, len(fields))
	}
	if pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path))); err != nil {
		return 0, 0, 0, err
	}
	if ppid, err = strconv.Atoi(string(fields[1])); err != nil {
		return 0, 0, 0, err
	}
	for _, field := range fields[11:15] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, 0, 0, err
		}
		ticks += n
	}
	return pid, ppid, ticks, nil
}
