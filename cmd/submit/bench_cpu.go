package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// cpuTime is the processor time that each part of a bench took, in seconds, and what these parts started and waited for with it.
// How busy the machine is with other things hardly changes it.
type cpuTime struct {
	Server    float64 `json:"server"`
	Worker    float64 `json:"worker"` // or what stands in its place
	Submitter float64 `json:"submitter"`
}

func (c cpuTime) minus(d cpuTime) cpuTime {
	return cpuTime{Server: rounded(c.Server-d.Server, 2), Worker: rounded(c.Worker-d.Worker, 2), Submitter: rounded(c.Submitter-d.Submitter, 2)}
}

// cpu returns what the processes of the fleet have used so far; worker is the part that stands in the worker's place. Where the
// system does not say, or the server is somebody else's, it is 0.
func (fl *fleet) cpu(worker string) (c cpuTime) {
	c.Submitter = processorTime(os.Getpid())
	for _, child := range fl.children {
		switch child.part {
		case "serve":
			c.Server = processorTime(child.cmd.Process.Pid)
		case worker:
			c.Worker = processorTime(child.cmd.Process.Pid)
		}
	}
	return c
}

// clockTick is what /proc counts in: 100 a second on all that Go runs on.
const clockTick = time.Second / 100

// processorTime is how many seconds a process has used, with its children that have ended.
func processorTime(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in brackets, may hold anything; utime, stime, cutime and cstime are the 12th to 15th field after it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return 0
	}
	var ticks int64
	for _, field := range fields[11:15] {
		n, _ := strconv.ParseInt(string(field), 10, 64)
		ticks += n
	}
	return (time.Duration(ticks) * clockTick).Seconds()
}
