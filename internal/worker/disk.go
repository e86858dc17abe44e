package worker

import (
	"context"
	"fmt"
	"time"
)

const (
	// defaultDiskFloor leaves room for what runs write that are under way.
	defaultDiskFloor = 256 << 20
	// diskEvery is how often the disk is looked at.
	diskEvery = time.Second
)

// disk says whether there is room for more work.
type disk struct {
	dir   string
	floor int64
	free  func(dir string) (int64, error)
	low   bool
}

// look returns why no more work should be taken; "" is that it may. Work is taken again when a quarter more than the
// floor is free: else one job that leaves the disk as it was would have it taken and refused by turns.
func (k *disk) look() (blocked string, err error) {
	free, err := k.free(k.dir)
	if err != nil {
		return "", fmt.Errorf("free space of %s: %w", k.dir, err)
	}
	enough := k.floor
	if k.low {
		enough += k.floor / 4
	}
	if k.low = free < enough; !k.low {
		return "", nil
	}
	return fmt.Sprintf("disk: %d MiB are free for work, and %d must be", free>>20, enough>>20), nil
}

// watchDisk has the desk take no more work while the disk is too full, until ctx ends.
func (w *Worker) watchDisk(ctx context.Context) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := w.lookAtDisk()
		if err != nil && !told {
			w.cfg.Log.Warn().Err(err).Msg("disk not looked at")
		}
		told = err != nil
	}
}

func (w *Worker) lookAtDisk() error {
	was := w.disk.low
	blocked, err := w.disk.look()
	if err != nil {
		return err
	}
	w.desk.block(blocked)
	if w.disk.low && !was {
		w.cfg.Log.Warn().Str("dir", w.disk.dir).Str("blocked", blocked).Msg("no more work is taken: make room, or lower --disk-floor")
	} else if was && !w.disk.low {
		w.cfg.Log.Info().Str("dir", w.disk.dir).Msg("there is room on the disk: work is taken again")
	}
	return nil
}
