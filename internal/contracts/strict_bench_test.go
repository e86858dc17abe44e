package contracts

import (
	"reflect"
	"testing"
)

func BenchmarkCheckMsgpack(b *testing.B) {
	inv := Invocation{
		ID: "a2b3c4d5e6f7a2b3", Name: "unit tests", Kind: KindSubprocess, Command: []string{"sh", "-c", "make test"},
		Environment: map[string]string{"CI": "true", "LANG": "C.UTF-8", "GOFLAGS": "-count=1"}, TimeoutSeconds: 90,
		Retry: &Retry{Attempts: 3, DelaySeconds: 0.5}, Labels: map[string]string{"team": "core", "change": "1234"},
	}
	data, err := Encode(inv)
	if err != nil {
		b.Fatal(err)
	}
	p, err := planOf(reflect.TypeOf(inv))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := checkMsgpack(data, p, false); err != nil {
			b.Fatal(err)
		}
	}
}
