package worker

import "github.com/runnel-project/runnel/internal/contracts"

const (
	// maxRing is how much of the end of an output beyond its limit is kept, in memory until the run ends.
	maxRing = 1 << 20
	// ringPiece is how large a piece in the ring grows, and pieceCharge what it counts at least:
	// a million pieces of one byte are not 1 MiB.
	ringPiece   = 4 << 10
	pieceCharge = 64
)

// ring keeps the end of what is put into it, and counts what it had to drop.
type ring struct {
	limit  int
	size   int // what pieces count
	pieces []contracts.Piece
	cut    []contracts.Piece // what was dropped: one for each stream and phase
}

func charge(p contracts.Piece) int { return max(len(p.Data), pieceCharge) }

// put adds a copy of data.
func (r *ring) put(stream contracts.Stream, phase contracts.Phase, data []byte) {
	for len(data) > 0 {
		k := len(r.pieces) - 1
		if k < 0 || r.pieces[k].Stream != stream || r.pieces[k].Phase != phase || len(r.pieces[k].Data) >= ringPiece {
			r.pieces = append(r.pieces, contracts.Piece{Stream: stream, Phase: phase})
			r.size += pieceCharge
			k++
		}
		p := &r.pieces[k]
		n := min(len(data), ringPiece-len(p.Data))
		r.size -= charge(*p)
		p.Data = append(p.Data, data[:n]...)
		r.size += charge(*p)
		data = data[n:]
		r.trim()
	}
}

// trim drops what is beyond the limit, from the beginning.
func (r *ring) trim() {
	for over := r.size - r.limit; over > 0; over = r.size - r.limit {
		first := &r.pieces[0]
		n := len(first.Data)
		if n-over >= pieceCharge {
			n = over
		}
		r.count(*first, int64(n))
		r.size -= charge(*first)
		if first.Data = first.Data[n:]; len(first.Data) == 0 {
			r.pieces = r.pieces[1:]
			continue
		}
		r.size += charge(*first)
	}
}

func (r *ring) count(p contracts.Piece, n int64) {
	for i := range r.cut {
		if r.cut[i].Stream == p.Stream && r.cut[i].Phase == p.Phase {
			r.cut[i].Cut += n
			return
		}
	}
	r.cut = append(r.cut, contracts.Piece{Stream: p.Stream, Phase: p.Phase, Cut: n})
}

// lost is how much was dropped in all.
func (r *ring) lost() (n int64) {
	for _, p := range r.cut {
		n += p.Cut
	}
	return n
}
