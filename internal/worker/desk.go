package worker

import (
	"slices"
	"sync"
	"time"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/queue"
)

const (
	// lookAhead is how much work may wait in hand, by the pace of recent runs: what 16 slots that
	// ask one by one lose on no-ops (40 %) comes back.
	lookAhead    = 10 * time.Millisecond
	maxLookAhead = 256
	// A delivery that has waited in hand for handFor goes back to the queue if no run has ended
	// for so long, and after handMost in any case: on a busy machine the hand empties late, and a
	// delivery that comes again costs a full check and a stored start.
	handFor  = 50 * time.Millisecond
	handMost = 300 * time.Millisecond
	// What is put aside waits in memory while there is no room for dead letters: of so many, and of so many bytes. The rest
	// waits in the queue, or last words would use up what may be out, and the worker would take nothing more.
	maxBurials     = 128
	maxBurialBytes = 8 << 20
)

// desk counts what a worker has in hand, and tells the queue what it wants.
type desk struct {
	taker *queue.Taker
	slots int

	mu        sync.Mutex
	work      *sync.Cond // hand grew, or the desk closed
	hand      []waiting
	admitted  int // on the way through the pre-run check
	running   map[*queue.Delivery]running
	storing   map[*queue.Delivery]struct{} // their work has ended, their files are on their way
	finishing int
	burials   int             // of finishing, what is being put aside
	burying   int             // bytes of that
	alone     *queue.Delivery // runs with nothing beside it, or waits for that; nil is none
	pace      time.Duration   // from one run's end to the next's, when there was work in hand; 0 until the first
	lastRan   time.Time
	waited    bool // something waited in hand when the last run ended
	want      int
	opened    bool
	closed    bool
	blocked   string // why nothing more is taken for now; "" is that it is
	sweeping  bool
}

type waiting struct {
	d     *queue.Delivery
	since time.Time
}

type running struct {
	stop time.Duration // how long its stop order may take
}

func newDesk(t *queue.Taker, slots int) *desk {
	k := &desk{taker: t, slots: slots, running: map[*queue.Delivery]running{}, storing: map[*queue.Delivery]struct{}{}}
	k.work = sync.NewCond(&k.mu)
	return k
}

// free is how many more deliveries there is a place for. k.mu is held.
func (k *desk) free() int {
	if k.closed || !k.opened || k.blocked != "" || k.alone != nil {
		return 0
	}
	ahead := 0
	if k.pace > 0 {
		ahead = min(int(lookAhead/k.pace), maxLookAhead)
	}
	inHand := len(k.running) + len(k.hand) + k.admitted
	// Last words that are not out yet hold memory, not slots: they are bounded too.
	return min(k.slots+ahead-inHand, 2*k.slots+maxLookAhead-inHand-k.finishing)
}

// changed tells the queue, if what is wanted is another number now. k.mu is held.
func (k *desk) changed() {
	if n := max(0, k.free()); n != k.want {
		k.want = n
		k.taker.Want(n)
	}
}

// used tells the queue even if the number is the one that it knows: a pull was used up. k.mu is held.
func (k *desk) used() {
	k.want = max(0, k.free())
	k.taker.Want(k.want)
}

func (k *desk) open() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened = true
	k.changed()
}

// block takes no more while it is told why, and hands back what waits in hand; "" takes again.
func (k *desk) block(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.blocked == "" && why != "" {
		k.empty()
	}
	k.blocked = why
	k.changed()
}

// close takes no more, and hands back what waits in hand.
func (k *desk) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.empty()
	k.work.Broadcast()
	k.changed()
}

// empty hands back what waits in hand. k.mu is held.
func (k *desk) empty() {
	for _, w := range k.hand {
		w.d.Return()
	}
	k.hand = nil
}

// isolate waits until d is all that runs, and lets nothing begin beside it until it has ended. False: it did not
// come to that within the time, or another waits for the same.
func (k *desk) isolate(d *queue.Delivery, within time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.alone != nil {
		return false
	}
	k.alone = d
	k.empty()
	k.changed()
	late := false
	timer := time.AfterFunc(within, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		late = true
		k.work.Broadcast()
	})
	defer timer.Stop()
	for len(k.running)+len(k.storing) > 1 && !late && !k.closed {
		k.work.Wait()
	}
	if len(k.running)+len(k.storing) == 1 {
		return true
	}
	k.alone = nil
	k.work.Broadcast()
	k.changed()
	return false
}

func (k *desk) admit() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.free() <= 0 {
		return false
	}
	k.admitted++
	return true
}

func (k *desk) dismiss() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.admitted--
	k.used()
}

func (k *desk) take(d *queue.Delivery) {
	if k.place(d) {
		k.work.Signal() // without the lock, which is the first thing that who wakes up wants
	}
}

// place lays d in the hand, or hands it back.
func (k *desk) place(d *queue.Delivery) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.admitted--
	if k.closed || k.blocked != "" || k.alone != nil {
		d.Return()
		k.changed()
		return false
	}
	k.hand = append(k.hand, waiting{d, time.Now()})
	k.used()
	if !k.sweeping && len(k.running) >= k.slots {
		k.sweeping = true
		time.AfterFunc(handFor, k.sweep)
	}
	return true
}

// sweep hands back what has waited in hand for too long: a slow job came between.
func (k *desk) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	stuck := now.Sub(k.lastRan) >= handFor
	k.hand = slices.DeleteFunc(k.hand, func(w waiting) bool {
		if waits := now.Sub(w.since); waits < handFor || !stuck && waits < handMost {
			return false
		}
		w.d.Return()
		k.pace = 2 * lookAhead // no look-ahead until short runs have brought it back
		return true
	})
	k.sweeping = len(k.hand) > 0
	if k.sweeping {
		time.AfterFunc(handFor, k.sweep)
	}
	k.changed()
}

// next waits for a delivery to run; nil means that the desk is closed.
func (k *desk) next() *queue.Delivery {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.hand) == 0 || k.alone != nil {
		if k.closed {
			return nil
		}
		k.work.Wait()
	}
	d := k.hand[0].d
	k.hand = k.hand[1:]
	k.running[d] = running{}
	return d
}

// stops notes how long the stop order of a run may take.
func (k *desk) stops(d *queue.Delivery, within time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running[d] = running{stop: within}
}

func (k *desk) longestStop() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	var most time.Duration
	for _, r := range k.running {
		most = max(most, r.stop)
	}
	return most
}

// ran frees the slot of d; its last word is still to come.
func (k *desk) ran(d *queue.Delivery, took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.running, d)
	if k.alone != nil {
		if k.alone == d {
			k.alone = nil
		}
		k.work.Broadcast()
	}
	k.finishing++
	now := time.Now()
	// What the slots could do, and what they did: on a busy machine a run that takes no time ends late.
	each := took / time.Duration(k.slots)
	if k.waited {
		each = max(each, now.Sub(k.lastRan))
	}
	if k.pace == 0 {
		k.pace = each
	} else {
		k.pace += (each - k.pace) / 16
	}
	k.lastRan, k.waited = now, len(k.hand) > 0
	k.pace = max(k.pace, time.Microsecond)
	k.changed()
}

// aside reports whether the slot of d may be free while the files that it left are stored: of as many runs as there are slots.
// One that must have nothing beside it stays alone until it is done.
func (k *desk) aside(d *queue.Delivery) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.alone != nil || len(k.storing) >= k.slots {
		return false
	}
	k.storing[d] = struct{}{}
	return true
}

// stored ends what aside began.
func (k *desk) stored(d *queue.Delivery) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.storing, d)
	k.work.Broadcast()
}

// lose writes a slot off: its runner did not return. The slot goroutine goes on, but one fewer is asked for.
func (k *desk) lose() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.slots--
	k.changed()
}

// mayBury reserves a place among what is being put aside.
func (k *desk) mayBury(size int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.burials >= maxBurials || k.burying+size > maxBurialBytes {
		return false
	}
	k.burials++
	k.burying += size
	return true
}

// buried gives it back.
func (k *desk) buried(size int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.burials--
	k.burying -= size
}

func (k *desk) finished() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.finishing--
	k.changed()
}

// runs names the runs whose leases are kept, and says how many of them have a slot.
func (k *desk) runs() (names []string, busy int, draining bool, blocked string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for d := range k.running {
		names = append(names, d.Run())
	}
	for d := range k.storing {
		if _, too := k.running[d]; !too {
			names = append(names, d.Run())
		}
	}
	slices.Sort(names)
	return names[:min(len(names), maxRunsShown)], len(k.running), k.closed, k.blocked
}

// maxRunsShown keeps presence far below the message cap.
const maxRunsShown = contracts.MaxMessageBytes / 64
