package contracts

import "time"

// chunk takes a chunk that has passed checkMsgpack. The decoder would copy each piece, into memory that is zeroed before: of
// following an output that comes fast that is a fifth.
func (w *walker) chunk(c *Chunk) *FieldError {
	return w.fields(func(name []byte, v code) *FieldError {
		switch string(name) {
		case "n":
			c.N = int(v.int)
		case "at":
			seconds, nanos, _ := w.moment(v.n)
			c.At = time.Unix(seconds, int64(nanos))
		case "pieces":
			c.Pieces = make([]Piece, v.n)
			for i := range c.Pieces {
				if err := w.piece(&c.Pieces[i]); err != nil {
					return err
				}
			}
		case "state":
			c.State = w.part(v.n)
		case "state_bytes":
			c.StateBytes = v.int
		default:
			return w.rest(v, 0)
		}
		return nil
	})
}

func (w *walker) piece(p *Piece) *FieldError {
	return w.fields(func(name []byte, v code) *FieldError {
		switch string(name) {
		case "stream":
			p.Stream = Stream(w.part(v.n))
		case "phase":
			p.Phase = Phase(w.part(v.n))
		case "data":
			p.Data = w.part(v.n)
		case "cut":
			p.Cut = v.int
		default:
			return w.rest(v, 0)
		}
		return nil
	})
}

// fields hands each field of a map, with the head of its value, to take, which takes the rest of it. What is nil is left out.
func (w *walker) fields(take func(name []byte, v code) *FieldError) *FieldError {
	c, err := w.head()
	if err != nil {
		return err
	}
	for range c.n {
		name, err := w.name()
		if err != nil {
			return err
		}
		v, err := w.head()
		if err != nil {
			return err
		}
		if v.family == isNil {
			continue
		}
		if err := take(name, v); err != nil {
			return err
		}
	}
	return nil
}

// part takes n bytes that share memory with the message, and cannot grow into what follows them.
func (w *walker) part(n int) []byte {
	w.pos += n
	return w.data[w.pos-n : w.pos : w.pos]
}
