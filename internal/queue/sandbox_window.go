package queue

import (
	"errors"
	"sync"
	"time"
)

// sendAgainAfter is how soon what was sent is sent again because somebody says that it did not come.
const sendAgainAfter = 500 * time.Millisecond

// errNobodyWaits is why a side of a conversation sends nothing more.
var errNobodyWaits = errors.New("nobody waits for it any more")

// sendWindow is one direction of a command's conversation with a sandbox, where it leaves: it numbers messages from 1,
// keeps each until it is acknowledged, and holds its writer back while as many are not as may be.
type sendWindow struct {
	most    int
	publish func([]byte) error

	mu      sync.Mutex
	changed sync.Cond
	sent    [][]byte // unacknowledged
	acked   int      // the messages that are
	resent  time.Time
	over    bool
}

func newSendWindow(most int, publish func([]byte) error) *sendWindow {
	w := &sendWindow{most: most, publish: publish}
	w.changed.L = &w.mu
	return w
}

// put sends what encode makes of the next number, once there is room.
func (w *sendWindow) put(encode func(n int) ([]byte, error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.sent) >= w.most && !w.over {
		w.changed.Wait()
	}
	if w.over {
		return errNobodyWaits
	}
	data, err := encode(w.acked + len(w.sent) + 1)
	if err != nil {
		return err
	}
	w.sent = append(w.sent, data)
	if err := w.publish(data); permanent(err) {
		return err
	}
	return nil // what a broken connection lost is asked for again
}

// ack takes an acknowledgement. One that comes again says that what follows it was lost.
func (w *sendWindow) ack(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case n > w.acked && n <= w.acked+len(w.sent):
		w.sent = w.sent[n-w.acked:]
		w.acked = n
		w.changed.Broadcast()
	case n == w.acked && time.Since(w.resent) > sendAgainAfter:
		w.resent = time.Now()
		for _, data := range w.sent {
			if w.publish(data) != nil {
				return // it is asked for again
			}
		}
	}
}

// count returns how many messages there were.
func (w *sendWindow) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked + len(w.sent)
}

// close ends what waits in put, and all that comes.
func (w *sendWindow) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.changed.Broadcast()
}
