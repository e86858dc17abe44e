package container_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner/container"
	"github.com/runnel-project/runnel/internal/runner/container/enginetest"
)

// poor is the machine's engine on a machine that can do less: what it says of itself and of the containers that it makes is changed on the way.
type poor struct {
	url string

	mu      sync.Mutex
	created []map[string]any // the HostConfig of each container that was asked for
}

func newPoor(t *testing.T) *poor {
	t.Helper()
	socket, ok := strings.CutPrefix(engineClient(t).DaemonHost(), "unix://")
	if !ok {
		t.Skip("the engine is not at a socket")
	}
	p := &poor{}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.Transport, proxy.FlushInterval = transport, -1
	proxy.ModifyResponse = func(r *http.Response) error {
		switch path := r.Request.URL.Path; {
		case strings.HasSuffix(path, "/info"):
			return rewrite(r, func(info map[string]any) {
				for _, limit := range []string{"MemoryLimit", "SwapLimit", "CpuCfsQuota", "CpuCfsPeriod", "PidsLimit"} {
					info[limit] = false
				}
				info["Warnings"] = []string{"WARNING: No blkio weight support"}
			})
		case strings.HasSuffix(path, "/containers/create") && r.StatusCode == http.StatusCreated:
			return rewrite(r, func(made map[string]any) { made["Warnings"] = []string{"the kernel does less than was asked for"} })
		}
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasSuffix(q.URL.Path, "/containers/create") {
			data, err := io.ReadAll(q.Body)
			var asked struct{ HostConfig map[string]any }
			if err = errors.Join(err, json.Unmarshal(data, &asked)); err != nil {
				t.Error(err)
			}
			p.mu.Lock()
			p.created = append(p.created, asked.HostConfig)
			p.mu.Unlock()
			q.Body = io.NopCloser(bytes.NewReader(data))
		}
		proxy.ServeHTTP(w, q)
	}))
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	p.url = "tcp://" + strings.TrimPrefix(server.URL, "http://")
	return p
}

// rewrite changes an answer.
func rewrite(r *http.Response, change func(map[string]any)) error {
	var body map[string]any
	err := json.NewDecoder(r.Body).Decode(&body)
	r.Body.Close()
	if err != nil {
		return err
	}
	change(body)
	data, err := json.Marshal(body)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	r.Header.Del("Content-Length")
	return err
}

// What an engine cannot do is not asked of it, and is told among the capabilities; what it warns of comes with the result.
func TestEngineThatCanDoLess(t *testing.T) {
	t.Parallel()
	enginetest.Image(t)
	p := newPoor(t)
	r := open(t, container.Config{Host: p.url})
	found := r.Capabilities()
	if missing := found["container.limits.missing"]; missing != "memory, swap, cpus, pids, disk in all" || !strings.Contains(found["container.warnings"], "blkio weight") {
		t.Errorf("Capabilities() = %v", found)
	}
	job := prepared(t, []string{"exit", "0"}, "say", "out", "err")
	job.Container.MemoryBytes, job.Container.CPUs, job.Container.PIDs = 64*mega, 0.5, 64
	o, sink := run(t, r, job)
	warned := 0
	for _, w := range o.Warnings {
		if w == "the kernel does less than was asked for" {
			warned++
		}
	}
	if o.Status != contracts.StatusSucceeded || sink.Stdout() != "out\n" || warned != 2 {
		t.Errorf("Run() = %+v with %q, want the engine's warnings of the setup and of the command", o, sink.Stdout())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.created) != 2 {
		t.Fatalf("%d containers were asked for, want 2", len(p.created))
	}
	for _, host := range p.created {
		for _, limit := range []string{"Memory", "MemorySwap", "NanoCpus", "PidsLimit", "BlkioWeight"} {
			if v := host[limit]; v != nil && v != 0.0 {
				t.Errorf("%s is asked for: %v", limit, v)
			}
		}
		if options, _ := host["StorageOpt"].(map[string]any); len(options) > 0 {
			t.Errorf("storage options are asked for: %v", options)
		}
		if caps, _ := host["CapDrop"].([]any); !slices.Contains(caps, any("ALL")) {
			t.Errorf("capabilities are kept: %v", host)
		}
	}
}
