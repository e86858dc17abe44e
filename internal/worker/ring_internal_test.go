package worker

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/runnel-project/runnel/internal/contracts"
)

// Whatever is put in, what is kept and what is counted as cut is all of it, stream by stream,
// the end of each is whole, and the ring stays within its limit.
func TestRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := ring{limit: rapid.IntRange(0, 64<<10).Draw(t, "limit")}
		all := map[contracts.Stream][]byte{}
		for range rapid.IntRange(0, 50).Draw(t, "writes") {
			stream := rapid.SampledFrom([]contracts.Stream{contracts.Stdout, contracts.Stderr}).Draw(t, "stream")
			data := bytes.Repeat([]byte{byte(len(all[stream]))}, rapid.IntRange(1, 20<<10).Draw(t, "bytes"))
			r.put(stream, "", data)
			all[stream] = append(all[stream], data...)
		}
		if r.size > r.limit {
			t.Errorf("size is %d, the limit is %d", r.size, r.limit)
		}
		kept, cut := map[contracts.Stream][]byte{}, map[contracts.Stream]int64{}
		for _, p := range r.pieces {
			kept[p.Stream] = append(kept[p.Stream], p.Data...)
		}
		for _, p := range r.cut {
			cut[p.Stream] += p.Cut
		}
		for stream, want := range all {
			if int64(len(kept[stream]))+cut[stream] != int64(len(want)) {
				t.Errorf("%s: %d kept and %d cut of %d", stream, len(kept[stream]), cut[stream], len(want))
			}
			if !bytes.HasSuffix(want, kept[stream]) {
				t.Errorf("%s: what is kept is not its end", stream)
			}
		}
	})
}
