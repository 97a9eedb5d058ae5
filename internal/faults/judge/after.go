// What comes after a fault: the end of contexts, and the return to work.

package judge

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// contexts judges how soon the contexts of handlers ended after the loss of their session.
func (c *court) contexts() {
	for _, name := range slices.Sorted(maps.Keys(c.processes)) {
		p := c.processes[name]
		for _, s := range p.sessions {
			lost := min(s.freed, s.lost)
			if s.backend == never && s.lost != never {
				lost = s.lost // nobody knows better
			}
			if lost == never || lost+cancelWithin >= p.died {
				continue
			}
			for _, r := range p.runs {
				if r.start < s.up || r.start >= lost || r.end <= lost {
					continue
				}
				ended := r.end
				if r.cancelled != 0 {
					ended = min(ended, r.cancelled)
				}
				if ended == never {
					ended = lost + 10*cancelWithin
				}
				took := ended - lost - p.stopped(lost, ended)
				c.ended = append(c.ended, max(0, took))
				if took > cancelWithin {
					c.blame(Uncancelled, fmt.Sprintf("%s lost its session, and the context of job %d ended %v later", p.name, r.job, time.Duration(took)), r.events...)
				}
			}
		}
	}
}

// stopped is for how long the process was stopped in that time.
func (p *process) stopped(from, to int64) (sum int64) {
	for _, s := range p.stops {
		sum += max(0, min(to, s[1])-max(from, s[0]))
	}
	return sum
}

// returns judges how soon the work was back after each fault.
func (c *court) returns(pace float64) {
	slices.Sort(c.done)
	for _, f := range c.faults {
		if !f.completed || f.end == never {
			continue
		}
		r := Return{Fault: f.name, Number: f.number, Back: -1, Foreign: f.foreign, Excused: f.excused || f.foreign >= Busy}
		r.Before = c.rate(f.begin-backWithin, f.begin)
		watched := min(f.end+backWithin, f.watch)
		r.After = c.rate(f.end, max(watched, f.end+int64(100*time.Millisecond)))
		want := backShare * min(pace, r.Before)
		second := int64(time.Second)
		for at := f.end; at <= f.watch; at += int64(50 * time.Millisecond) {
			if c.rate(at-second, at) >= want {
				r.Back = time.Duration(at - f.end)
				break
			}
		}
		c.v.Returns = append(c.v.Returns, r)
		if (r.Back < 0 && f.watch >= f.end+backWithin || r.Back > time.Duration(backWithin)) && !r.Excused {
			c.blame(Slow, fmt.Sprintf("fault %d, %s: %.0f jobs/s before; %.0f/s in the %v after its end", f.number, f.name, r.Before, r.After, time.Duration(watched-f.end).Round(time.Millisecond)))
		}
	}
}

// rate is how many runs ended well in that time, a second.
func (c *court) rate(from, to int64) float64 {
	first, _ := slices.BinarySearch(c.done, from)
	last, _ := slices.BinarySearch(c.done, to)
	return float64(last-first) / time.Duration(to-from).Seconds()
}

func quantiles(ns []int64) Quantiles {
	if len(ns) == 0 {
		return Quantiles{}
	}
	slices.Sort(ns)
	at := func(share float64) time.Duration { return time.Duration(ns[int(share*float64(len(ns)-1))]) }
	return Quantiles{N: len(ns), P50: at(0.5), P99: at(0.99), Max: at(1)}
}
