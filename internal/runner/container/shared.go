package container

import (
	"context"
	"errors"
	"sync"
)

// shared are tasks that several runs may want at once: who wants one that is under way waits for the same one. A task that
// everybody has left is ended.
type shared[T any] struct {
	all sync.WaitGroup

	mu    sync.Mutex
	under map[string]*task[T]
}

// task is one of them.
type task[T any] struct {
	of   T             // what who does it shares with who waits for it
	done chan struct{} // closed when it is over

	cancel  context.CancelCauseFunc
	mu      sync.Mutex
	waiting int
}

// errDeserted is the cause of the end of a task.
var errDeserted = errors.New("nobody waits for it any more")

// join returns the task of that key, and whether it was begun for that: with what makes, by do. The caller leaves it.
func (s *shared[T]) join(key string, makes func() T, do func(context.Context, T)) (t *task[T], began bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.under[key]; t != nil && t.enter() {
		return t, false
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	t = &task[T]{of: makes(), done: make(chan struct{}), cancel: cancel, waiting: 1}
	if s.under == nil {
		s.under = map[string]*task[T]{}
	}
	s.under[key] = t
	s.all.Go(func() {
		do(ctx, t.of)
		cancel(nil)
		s.mu.Lock()
		if s.under[key] == t {
			delete(s.under, key)
		}
		s.mu.Unlock()
		close(t.done)
	})
	return t, true
}

// wait waits until no task is under way.
func (s *shared[T]) wait() { s.all.Wait() }

// enter waits for the task as well; false: everybody has left it, and it is being ended.
func (t *task[T]) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == 0 {
		return false
	}
	t.waiting++
	return true
}

// leave waits for the task no more, and reports whether nobody does.
func (t *task[T]) leave() (last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting--; t.waiting == 0 {
		t.cancel(errDeserted)
	}
	return t.waiting == 0
}
