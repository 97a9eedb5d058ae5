// What could be set at the server. It is said, never done: a setting of the server is one for all who use it.

package tune

import (
	"fmt"
	"time"

	"github.com/pq-dispatch/pq-dispatch/internal/doctor"
)

// Advice is about one setting of the server, or a group of them.
type Advice struct {
	About  string `json:"about"`
	Text   string `json:"text"`             // how it is, and what follows
	Do     string `json:"do"`               // what could be done
	Breaks string `json:"breaks,omitempty"` // the promise that is broken by it: then it is not recommended
}

// Server is what is known of it.
type Server struct {
	Settings          map[string]string // as the statement show prints them
	MaxWAL            float64           // max_wal_size in bytes
	CheckpointTimeout time.Duration
	WAL               float64 // bytes a second, in the trials of the recommendation; 0: not known
	Findings          []doctor.Finding
}

// Checks are those of package doctor whose findings are advice here. The others are about a table that stays.
var Checks = []string{"locks", "connections", "timeouts", "autovacuum"}

// checkpointShare is how much of max_wal_size is written from one checkpoint to the next, at most.
const checkpointShare = 0.5

// Advise says what there is to be said.
func Advise(s Server) (all []Advice) {
	for _, f := range s.Findings {
		for _, name := range Checks {
			if f.Check == name && f.Level != doctor.OK {
				all = append(all, Advice{About: f.Check, Text: f.Text, Do: f.Remedy})
			}
		}
	}
	if s.Settings["fsync"] == "off" || s.Settings["full_page_writes"] == "off" {
		all = append(all, Advice{
			About: "fsync",
			Text:  "fsync or full_page_writes is off: what was measured holds for no server whose data matters",
			Do:    "set both to on and measure again",
		})
	}
	switch now := s.Settings["synchronous_commit"]; now {
	case "off":
		all = append(all, Advice{
			About: "synchronous_commit",
			Text:  "it is off, and what was measured holds for that: a crash of the server can take the last jobs put with it, and have the last ones done run again",
			Do:    "set it to on for the role that puts jobs, or accept that",
		})
	default:
		all = append(all, Advice{
			About:  "synchronous_commit",
			Text:   "it is " + now + ": each put and each group of outcomes waits for the disk, which is what most of a put's time is",
			Do:     "leave it; off would make puts quicker",
			Breaks: "a committed job is run: with off, a crash of the server loses the jobs put in the last moments, and has those done in them run again",
		})
	}
	if s.Settings["wal_compression"] == "off" && s.Settings["full_page_writes"] == "on" {
		all = append(all, Advice{
			About: "wal_compression",
			Text:  "it is off: after each checkpoint whole pages are written to the WAL as they are",
			Do:    "where the disk or a replica's link is the bottleneck and a processor is not, try on, or lz4",
		})
	}
	if s.WAL > 0 && s.MaxWAL > 0 && s.CheckpointTimeout > 0 {
		every := time.Duration(checkpointShare * s.MaxWAL / s.WAL * float64(time.Second))
		if every < s.CheckpointTimeout {
			all = append(all, Advice{
				About: "max_wal_size",
				Text: fmt.Sprintf("at this rate %s MiB of WAL are written a second: checkpoints come about every %v, not every %v",
					Number(s.WAL/(1<<20)), every.Round(time.Second), s.CheckpointTimeout),
				Do: fmt.Sprintf("if it goes on like that for long, raise it to %.0fGB", max(1, s.WAL*s.CheckpointTimeout.Seconds()/checkpointShare/(1<<30))),
			})
		}
	}
	return all
}
