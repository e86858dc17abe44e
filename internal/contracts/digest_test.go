package contracts_test

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/runnel-project/runnel/internal/contracts"
)

func digest(t interface{ Fatal(...any) }, inv contracts.Invocation) string {
	d, err := inv.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// invocations draws any invocation that encodes.
func invocations() *rapid.Generator[contracts.Invocation] {
	texts := rapid.MapOfN(rapid.String(), rapid.String(), 0, 8)
	list := rapid.SliceOfN(rapid.String(), 0, 4)
	seconds := rapid.Float64Range(0, 1e6)
	return rapid.Custom(func(t *rapid.T) contracts.Invocation {
		inv := contracts.Invocation{
			ID: rapid.String().Draw(t, "id"), Name: rapid.String().Draw(t, "name"),
			Kind:   contracts.Kind(rapid.String().Draw(t, "kind")),
			Tenant: rapid.String().Draw(t, "tenant"), Pool: rapid.String().Draw(t, "pool"),
			Lane:    rapid.SampledFrom(append(contracts.Lanes(), "")).Draw(t, "lane"),
			Command: list.Draw(t, "command"), Environment: texts.Draw(t, "environment"),
			EnvironmentPass: list.Draw(t, "pass"), EnvironmentDeny: list.Draw(t, "deny"),
			WorkingDirectory: rapid.String().Draw(t, "directory"),
			TimeoutSeconds:   seconds.Draw(t, "timeout"), QueueTimeoutSeconds: seconds.Draw(t, "queue timeout"),
			OutputLimitBytes: rapid.Int64().Draw(t, "limit"),
			KeepLog:          rapid.Bool().Draw(t, "keep log"), ArtifactGlobs: list.Draw(t, "globs"),
			Labels: texts.Draw(t, "labels"), Metadata: texts.Draw(t, "metadata"),
		}
		if rapid.Bool().Draw(t, "has stdin") {
			inv.Stdin = &contracts.Input{Data: rapid.SliceOf(rapid.Byte()).Draw(t, "stdin")}
		}
		if rapid.Bool().Draw(t, "has stop") {
			inv.Stop = &contracts.Stop{InterruptSeconds: seconds.Draw(t, "interrupt"), GraceSeconds: rapid.Ptr(seconds, true).Draw(t, "grace")}
		}
		if rapid.Bool().Draw(t, "has retry") {
			inv.Retry = &contracts.Retry{
				Attempts: rapid.Int().Draw(t, "attempts"), DelaySeconds: seconds.Draw(t, "delay"), MaxDelaySeconds: seconds.Draw(t, "most"),
				On: rapid.SliceOfN(rapid.SampledFrom([]contracts.Status{"failed", "timed_out"}), 0, 2).Draw(t, "on"),
			}
		}
		return inv
	})
}

func TestDigestIsOfTheContent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inv := invocations().Draw(t, "invocation")
		want := digest(t, inv)

		// Another map with the same entries, put in the other way round.
		same := inv
		for _, m := range []*map[string]string{&same.Environment, &same.Labels, &same.Metadata} {
			turned := make(map[string]string, 1000)
			for _, k := range slices.Backward(slices.Sorted(maps.Keys(*m))) {
				turned[k] = (*m)[k]
			}
			*m = turned
		}
		if got := digest(t, same); got != want {
			t.Fatal("the digest changes with the order of a map")
		}
		if got := digest(t, inv.WithDefaults()); got != want {
			t.Fatal("the digest changes with the defaults named")
		}
		for _, data := range [][]byte{must(contracts.Encode(inv)), must(contracts.EncodeJSON(inv))} {
			back, err := contracts.Decode[contracts.Invocation](data, contracts.Meta{})
			if err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			if got := digest(t, back); got != want {
				t.Fatalf("the digest changes on the way: %q", data)
			}
		}

		// And any other invocation has another one.
		other := invocations().Draw(t, "other")
		if equal := string(must(contracts.Encode(normal(inv)))) == string(must(contracts.Encode(normal(other)))); equal != (digest(t, other) == want) {
			t.Fatal("the digests of different invocations are equal, or of equal ones differ")
		}
	})
}

// normal is inv with what the digest takes for the same: named defaults, and an empty stdin for none.
func normal(inv contracts.Invocation) contracts.Invocation {
	inv = inv.WithDefaults()
	if inv.Stdin != nil && len(inv.Stdin.Data) == 0 {
		inv.Stdin = nil
	}
	return inv
}

// Every field counts: a change of any one changes the digest.
func TestDigestCountsEveryField(t *testing.T) {
	whole := func() contracts.Invocation {
		inv := fullInvocation()
		inv.Container = containerInvocation().Container // no valid invocation has everything
		return inv
	}
	seen := map[string]string{digest(t, whole()): "nothing"}
	typ := reflect.TypeFor[contracts.Invocation]()
	for i := range typ.NumField() {
		inv := whole()
		reflect.ValueOf(&inv).Elem().Field(i).SetZero()
		d := digest(t, inv)
		if before, twice := seen[d]; twice {
			t.Errorf("clearing %s gives the digest of clearing %s", typ.Field(i).Name, before)
		}
		seen[d] = typ.Field(i).Name
	}
	for name, change := range map[string]func(*contracts.Invocation){
		"a byte of stdin":    func(inv *contracts.Invocation) { inv.Stdin.Data[0] ^= 1 },
		"the order of argv":  func(inv *contracts.Invocation) { slices.Reverse(inv.Command) },
		"where an entry is":  func(inv *contracts.Invocation) { inv.Labels, inv.Metadata = inv.Metadata, inv.Labels },
		"grace of 0 for nil": func(inv *contracts.Invocation) { inv.Stop.GraceSeconds = nil },
		"the cut of an entry": func(inv *contracts.Invocation) {
			inv.Environment = map[string]string{"C": "Itrue", "EMPTY": "", "LANG": "C.UTF-8"}
		},
	} {
		inv := whole()
		change(&inv)
		if before, twice := seen[digest(t, inv)]; twice {
			t.Errorf("changing %s gives the digest of clearing %s", name, before)
		}
	}
}

// Standard input is the same content in the message and in a blob of any epoch.
func TestDigestOfStdinIsOfItsContent(t *testing.T) {
	inline, first, second := minimalInvocation(), blobInvocation(), blobInvocation()
	inline.Stdin = &contracts.Input{Data: []byte("hi\n")}
	second.Stdin.Blob = "1872." + helloSHA256
	if digest(t, first) != digest(t, second) {
		t.Error("the digest changes with the epoch of a blob")
	}
	if digest(t, inline) != digest(t, first) {
		t.Error("the digest changes with the way that stdin travels")
	}
	second.Stdin.SHA256 = someDigest
	if digest(t, first) == digest(t, second) {
		t.Error("the digest does not change with the content of a blob")
	}
	if first.Stdin.Blob != blobName {
		t.Error("Digest() changed the invocation it was called on")
	}
}

// The digest is part of the wire: other languages compute it too.
func TestDigestGolden(t *testing.T) {
	for name, tt := range map[string]struct {
		inv  contracts.Invocation
		want string
	}{
		"minimal": {minimalInvocation(), "d36d17066aa52dd0568bd38a9783e4ddda36f5c4e1fc5a1a9b273abbd32eb62f"},
		"full":    {fullInvocation(), "8c536ac3183c6d29d260c0c91e4229cec0fb100a3cb82e65d3c87bcbc4f2b74f"},
	} {
		if got := digest(t, tt.inv); got != tt.want {
			t.Errorf("Digest() of %s = %s, want %s", name, got, tt.want)
		}
	}
}
