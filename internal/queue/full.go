package queue

import (
	"errors"
	"fmt"
	"time"
)

// fullAgain is how long nothing more is said of a stream that is full: everything that ends waits for it.
const fullAgain = 30 * time.Second

// full says that what cannot be stored waits for room, if that is why err.
func (t *Taker) full(s *Store, err error) {
	if !errors.Is(err, ErrFull) {
		return
	}
	t.mu.Lock()
	now := time.Now()
	said := now.Sub(t.saidFull[s.stream]) < fullAgain
	if !said {
		t.saidFull[s.stream] = now
	}
	t.mu.Unlock()
	if !said {
		t.cfg.Problem(fmt.Errorf("%s has no room, what is to be stored waits: %w", s.stream, err))
	}
}
