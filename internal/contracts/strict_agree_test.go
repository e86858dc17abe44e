package contracts

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"
)

// The walker and the decoder behind it have to agree: what passes the one never surprises the other. Byte
// mutations rarely get past the first field, so this draws documents along their plan, in all
// the forms that msgpack has, and with things in wrong places.
func TestWhatPassesDecodes(t *testing.T) {
	t.Run("invocation", agree[Invocation])
	t.Run("chunk", agree[Chunk])
	t.Run("end", agree[End])
	t.Run("result", agree[Result])
	t.Run("dead", agree[Dead])
	t.Run("presence", agree[Presence])
	t.Run("manifest", agree[Manifest])
	t.Run("cancel reply", agree[CancelReply])
}

func agree[T Document](t *testing.T) {
	p, err := planOf(reflect.TypeFor[T]())
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	rapid.Check(t, func(t *rapid.T) {
		d := drawer{T: t, wrong: rapid.SampledFrom([]int{0, 0, 100}).Draw(t, "wrong")}
		d.value(p, true)
		lenient := rapid.Bool().Draw(t, "lenient")
		if checkMsgpack(d.out.Bytes(), p, lenient) != nil {
			if d.wrong == 0 {
				t.Fatalf("%x: %v", d.out.Bytes(), checkMsgpack(d.out.Bytes(), p, lenient))
			}
			return
		}
		passed++
		var doc T
		if err := decodeMsgpack(d.out.Bytes(), p, &doc, lenient); err != nil {
			t.Fatalf("%x passes, and does not decode: %v", d.out.Bytes(), err)
		}
		p.normalize(reflect.ValueOf(&doc).Elem())
		packed, err := Encode(doc)
		if err != nil {
			t.Fatal(err)
		}
		text, err := EncodeJSON(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{packed, text} {
			back, err := Decode[T](data, Meta{})
			if err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			if again, err := Encode(back); err != nil || !bytes.Equal(again, packed) {
				t.Fatalf("%q decodes to\n%x, not\n%x (%v)", data, again, packed, err)
			}
		}
		// A decoder that skips what it should read would agree with itself: compare with one that knows no plan.
		if want, got := loose(t, d.out.Bytes()), loose(t, packed); !reflect.DeepEqual(want, got) {
			t.Fatalf("%x says\n%v\nand was kept as\n%v", d.out.Bytes(), want, got)
		}
	})
	if passed == 0 {
		t.Error("nothing passed")
	}
}

// loose decodes data by its own types, without what stands for nothing.
func loose(t *rapid.T, data []byte) any {
	d := msgpack.NewDecoder(bytes.NewReader(data))
	d.UseLooseInterfaceDecoding(true)
	v, err := d.DecodeInterface()
	if err != nil {
		t.Fatal(err)
	}
	return essence(v)
}

func essence(v any) any {
	switch v := v.(type) {
	case map[string]any:
		kept := map[string]any{}
		for k, e := range v {
			if len(k) > 0 && k[0] == '?' { // the drawer's unknown fields
				continue
			}
			if e = essence(e); e != nil {
				kept[k] = e
			}
		}
		if len(kept) == 0 {
			return nil
		}
		return kept
	case []any:
		if len(v) == 0 {
			return nil
		}
		kept := make([]any, len(v))
		for i := range v {
			kept[i] = essence(v[i])
		}
		return kept
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return v.UTC()
	case []byte:
		if len(v) == 0 {
			return nil
		}
	case uint64:
		return essence(int64(v))
	case int64:
		if f := float64(v); int64(f) == v { // 60 for 60.0
			return essence(f)
		}
	case float64:
		if v == 0 {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

// A drawer writes msgpack that follows a plan, but for one value in every `wrong`, if that is not 0.
type drawer struct {
	*rapid.T
	out   bytes.Buffer
	wrong int
}

func (d *drawer) pick(n int) int { return rapid.IntRange(0, n-1).Draw(d.T, "pick") }

func (d *drawer) value(p *plan, outer bool) {
	if d.wrong > 0 && d.pick(d.wrong) == 0 {
		p = &plan{shape: shape(d.pick(int(shapeList)))}
		p.bits, p.signed = 64, true
	}
	switch p.shape {
	case shapeText:
		d.text(rapid.StringN(0, 4, 40).Draw(d.T, "text"))
	case shapeBinary:
		b := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(d.T, "binary")
		d.head(len(b), 0xc4, 0xc5, 0xc6)
		d.out.Write(b)
	case shapeBool:
		d.out.WriteByte(byte(0xc2 + d.pick(2)))
	case shapeInteger:
		d.integer(p)
	case shapeNumber:
		d.number()
	case shapeTime:
		d.time()
	case shapeList:
		n := d.pick(4)
		d.head(n, 0x90, 0xdc, 0xdd)
		for range n {
			d.value(p.elem, false)
		}
	case shapeDict:
		m := rapid.MapOfN(rapid.StringN(0, 3, -1), rapid.Just(0), 0, 4).Draw(d.T, "map")
		d.head(len(m), 0x80, 0xde, 0xdf)
		for k := range m {
			d.text(k)
			d.value(p.elem, false)
		}
	case shapeObject:
		d.object(p, outer)
	}
}

func (d *drawer) object(p *plan, outer bool) {
	var take []int
	for i, f := range p.fields {
		if !f.optional && !outer || d.pick(2) == 0 {
			take = append(take, i)
		}
	}
	if d.pick(3) == 0 {
		take = rapid.Permutation(take).Draw(d.T, "order")
	}
	unknown := d.wrong > 0 && d.pick(20) == 0
	n := len(take)
	if unknown {
		n++
	}
	d.head(n, 0x80, 0xde, 0xdf)
	for _, i := range take {
		f := p.fields[i]
		d.text(f.name)
		if nilToo := f.null || d.wrong > 0; nilToo && d.pick(8) == 0 {
			d.out.WriteByte(0xc0)
		} else {
			d.value(f.plan, false)
		}
	}
	if unknown {
		d.text("?soon")
		d.out.Write([]byte{0x91, 0xd6, 0xff, 0, 0, 0, 7})
	}
}

// head writes a length in any of its forms. Of fix, only those of containers hold it in themselves.
func (d *drawer) head(n int, fix, mid, long byte) {
	switch form := d.pick(3); {
	case form == 0 && fix >= 0xc0:
		d.out.Write([]byte{fix, byte(n)})
	case form == 0 && n < 16:
		d.out.WriteByte(fix | byte(n))
	case form == 1:
		d.out.Write(binary.BigEndian.AppendUint32([]byte{long}, uint32(n)))
	default:
		d.out.Write(binary.BigEndian.AppendUint16([]byte{mid}, uint16(n)))
	}
}

func (d *drawer) text(s string) {
	if len(s) < 32 && d.pick(2) == 0 {
		d.out.WriteByte(0xa0 | byte(len(s)))
	} else {
		d.head(len(s), 0xd9, 0xda, 0xdb)
	}
	d.out.WriteString(s)
}

func (d *drawer) integer(p *plan) {
	most := 7
	if p.signed {
		most = 9
	}
	switch d.pick(most) {
	case 0:
		d.out.WriteByte(byte(d.pick(128)))
	case 1:
		d.out.Write([]byte{0xcc, byte(d.pick(256))})
	case 2:
		d.out.Write(binary.BigEndian.AppendUint16([]byte{0xcd}, uint16(d.pick(1<<16))))
	case 3:
		d.out.Write(binary.BigEndian.AppendUint32([]byte{0xce}, uint32(d.pick(1<<32))))
	case 4:
		d.out.Write(binary.BigEndian.AppendUint64([]byte{0xcf}, uint64(d.pick(1<<31))))
	case 5:
		d.out.Write(binary.BigEndian.AppendUint64([]byte{0xd3}, uint64(d.pick(1<<31))))
	case 6:
		d.out.Write([]byte{0xd0, byte(d.pick(128))})
	case 7:
		d.out.WriteByte(byte(0xe0 + d.pick(32)))
	case 8:
		d.out.Write(binary.BigEndian.AppendUint64([]byte{0xd3}, rapid.Uint64().Draw(d.T, "integer")))
	}
}

func (d *drawer) number() {
	switch d.pick(3) {
	case 0:
		d.integer(&plan{}) // small enough to be a float
	case 1:
		d.out.Write(binary.BigEndian.AppendUint32([]byte{0xca}, math.Float32bits(rapid.Float32().Draw(d.T, "float32"))))
	case 2:
		d.out.Write(binary.BigEndian.AppendUint64([]byte{0xcb}, math.Float64bits(rapid.Float64().Draw(d.T, "float64"))))
	}
}

func (d *drawer) time() {
	switch d.pick(5) {
	case 0:
		d.out.Write(binary.BigEndian.AppendUint32([]byte{0xd6, 0xff}, rapid.Uint32().Draw(d.T, "seconds")))
	case 1:
		d.out.Write(binary.BigEndian.AppendUint32([]byte{0xc7, 4, 0xff}, rapid.Uint32().Draw(d.T, "seconds")))
	case 2:
		both := uint64(d.pick(1e9))<<34 | uint64(d.pick(1<<34))
		d.out.Write(binary.BigEndian.AppendUint64([]byte{0xd7, 0xff}, both))
	case 3:
		b := binary.BigEndian.AppendUint32([]byte{0xc7, 12, 0xff}, uint32(d.pick(1e9)))
		d.out.Write(binary.BigEndian.AppendUint64(b, uint64(rapid.Int64Range(firstSecond, endSecond-1).Draw(d.T, "seconds"))))
	case 4:
		b := binary.BigEndian.AppendUint32([]byte{0xc9, 0, 0, 0, 12, 0xff}, 0)
		d.out.Write(binary.BigEndian.AppendUint64(b, uint64(d.pick(1<<33))))
	}
}
