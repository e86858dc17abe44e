//go:build unix

package queuetest

import "syscall"

// Pause freezes server i (SIGSTOP): its connections stay open, and nothing answers.
func (s *Servers) Pause(i int) { s.signal(i, syscall.SIGSTOP) }

// Resume lets a frozen server go on (SIGCONT).
func (s *Servers) Resume(i int) { s.signal(i, syscall.SIGCONT) }

func (s *Servers) signal(i int, sig syscall.Signal) {
	s.t.Helper()
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		s.t.Errorf("signal %v to server %d: it does not run", sig, i)
		return
	}
	if err := n.cmd.Process.Signal(sig); err != nil {
		s.t.Errorf("signal %v to server %d: %v", sig, i, err)
	}
}
