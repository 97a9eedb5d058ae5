package dispatcher

// hand is what is claimed of a queue, in whatever stage: never to be claimed again meanwhile.
type hand struct {
	claims map[int64]*claim
	astray map[int64]bool // those that a claim may come upon wherever it begins, as they do not stand in the order of ids
	last   int64          // no id in it is higher
}

func newHand() hand { return hand{claims: map[int64]*claim{}, astray: map[int64]bool{}} }

func (h *hand) add(c *claim) {
	id := c.job.ID
	h.claims[id] = c
	if !c.job.ExpectedAt.IsZero() || !c.job.ScheduleAt.IsZero() {
		h.astray[id] = true
	}
	if len(h.claims) == 1 || id > h.last {
		h.last = id
	}
}

func (h *hand) drop(id int64) {
	delete(h.claims, id)
	delete(h.astray, id)
}

// moved notes that the row of a job was given another time after it was claimed.
func (h *hand) moved(id int64) { h.astray[id] = true }

// after are the ids of jobs that a claim from a position may come upon: all, from the head.
func (h *hand) after(position int64) []int64 {
	var ids []int64
	if position != 0 && position >= h.last { // where a busy queue is claimed from, unless its head is long
		for id := range h.astray {
			ids = append(ids, id)
		}
		return ids
	}
	for id := range h.claims {
		if position == 0 || id > position || h.astray[id] {
			ids = append(ids, id)
		}
	}
	return ids
}
