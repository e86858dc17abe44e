package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/internal/contracts"
	"github.com/runnel-project/runnel/internal/runner"
)

// image sees to it that the engine has the image, as the invocation's pull says. An image that cannot be had is an
// outcome; its progress is output of the setup.
func (r *Runner) image(ctx context.Context, job runner.Job, out runner.Sink) (*contracts.Outcome, error) {
	c := job.Container
	if c.Pull != contracts.PullAlways {
		call, cancel := bounded(ctx)
		info, err := r.api.ImageInspect(call, c.Image)
		cancel()
		switch {
		case err == nil && info.Config != nil && info.Config.Labels[labelSetup] != "":
			o := failed(contracts.ReasonImage, "image %s is what a setup left: only that setup uses it", c.Image)
			return &o, nil
		case err == nil:
			return nil, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("run container: %w", context.Cause(ctx))
		case !errdefs.IsNotFound(err):
			return nil, r.asked("look at image "+c.Image, err)
		case c.Pull == contracts.PullNever:
			o := failed(contracts.ReasonImage, "image %s is not on this engine, and container.pull is never", c.Image)
			return &o, nil
		}
	}
	said := out.Stream(contracts.Stderr, contracts.PhaseSetup)
	err := r.pull(ctx, c.Image, c.Platform, func(line string) error {
		_, err := io.WriteString(said, line+"\n")
		return err
	})
	var deaf sinkError
	switch {
	case err == nil:
		return nil, nil
	case errors.As(err, &deaf):
		return nil, fmt.Errorf("write output: %w", deaf.err)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("run container: %w", context.Cause(ctx))
	case client.IsErrConnectionFailed(err):
		return nil, r.asked("pull "+c.Image, err)
	}
	o := failed(contracts.ReasonImage, "pull %s: %v", c.Image, err)
	return &o, nil
}

// sinkError says that nobody hears the progress of a pull any more.
type sinkError struct{ err error }

func (e sinkError) Error() string { return e.err.Error() }

// pull is one fetch of an image, shared by the runs that want it.
type pull struct {
	err error // once it is done

	mu   sync.Mutex
	line string        // the last progress
	news chan struct{} // closed and replaced with each line
}

// pull waits for a fetch of the image, its own or one that others began, and tells of its progress. A fetch that nobody waits for
// any more is given up.
func (r *Runner) pull(ctx context.Context, ref, platform string, tell func(string) error) error {
	t, _ := r.pulls.join(platform+" "+ref, func() *pull { return &pull{news: make(chan struct{})} }, func(ctx context.Context, p *pull) {
		p.err = r.fetchImage(ctx, ref, platform, p)
	})
	defer t.leave()
	if err := tell("pulling " + ref); err != nil {
		return sinkError{err}
	}
	told := ""
	for p := t.of; ; {
		p.mu.Lock()
		line, news := p.line, p.news
		p.mu.Unlock()
		if line != told {
			told = line
			if err := tell(line); err != nil {
				return sinkError{err}
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.done:
			return p.err
		case <-news:
		}
	}
}

func (p *pull) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if line == p.line {
		return
	}
	p.line = line
	close(p.news)
	p.news = make(chan struct{})
}

// progress is one message of the engine's about a pull.
type progress struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Detail struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
	Error string `json:"error"`
}

// sayEvery spaces out the lines about one pull.
const sayEvery = time.Second

// fetchImage pulls an image within its time, and gives up when it makes no progress.
func (r *Runner) fetchImage(ctx context.Context, ref, platform string, p *pull) error {
	cfg := r.cfg
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.PullTimeout, fmt.Errorf("it took longer than %s", cfg.PullTimeout))
	defer cancel()
	ctx, stall := context.WithCancelCause(ctx)
	defer stall(nil)
	stalled := time.AfterFunc(cfg.PullStall, func() { stall(fmt.Errorf("no progress for %s", cfg.PullStall)) })
	defer stalled.Stop()

	auth, err := credentials(ctx, cfg.DockerConfig, ref)
	if err != nil {
		return err
	}
	messages, err := r.api.ImagePull(ctx, ref, image.PullOptions{RegistryAuth: auth, Platform: platform})
	if err != nil {
		return pullError(ctx, err)
	}
	defer messages.Close()
	last, said := progress{}, time.Now()
	for read := json.NewDecoder(messages); ; {
		var m progress
		if err := read.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return pullError(ctx, err)
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
		if m == last {
			continue // the engine repeats itself while nothing moves
		}
		last = m
		stalled.Reset(cfg.PullStall)
		if time.Since(said) >= sayEvery {
			said = time.Now()
			p.say(m.String())
		}
	}
}

// pullError says why a pull was given up, where it was.
func pullError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (m progress) String() string {
	line := m.Status
	if m.ID != "" {
		line = m.ID + ": " + line
	}
	if m.Detail.Total > 0 {
		line += fmt.Sprintf(" %d of %d MB", m.Detail.Current/1e6, m.Detail.Total/1e6)
	}
	return line
}
