package contracts_test

import (
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
)

func BenchmarkEncodeInvocation(b *testing.B) {
	inv := fullInvocation()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.Encode(inv); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeInvocation(b *testing.B) { benchmarkDecode(b, fullInvocation()) }

func BenchmarkDecodeSmallInvocation(b *testing.B) { benchmarkDecode(b, minimalInvocation()) }

func BenchmarkDecodeResult(b *testing.B) { benchmarkDecode(b, succeededResult()) }

func BenchmarkDecodeChunk(b *testing.B) { benchmarkDecode(b, fullChunk()) }

func BenchmarkEncodeResult(b *testing.B) {
	r := succeededResult()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.Encode(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	inv := fullInvocation()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := inv.Digest(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	inv := fullInvocation()
	b.ReportAllocs()
	for b.Loop() {
		if err := inv.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFit(b *testing.B) {
	r := succeededResult()
	b.ReportAllocs()
	for b.Loop() {
		r.Fit()
	}
}

func benchmarkDecode[T contracts.Document](b *testing.B, doc T) {
	data, err := contracts.Encode(doc)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.Decode[T](data, contracts.Meta{}); err != nil {
			b.Fatal(err)
		}
	}
}
