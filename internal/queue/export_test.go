package queue

import "time"

// SetHoleWait shortens how long followers wait for an overtaken chunk.
func (p *Producer) SetHoleWait(d time.Duration) { p.holeWait = d }

// SetGoneEvery shortens how seldom silent followers have it proven that their invocation exists.
func (p *Producer) SetGoneEvery(d time.Duration) { p.goneEvery = d }

// SetPollMost shortens how seldom those who wait ask for a result.
func (p *Producer) SetPollMost(d time.Duration) { p.pollMost = d }
