package disk

// Changed answers one page: the areas written between the change ID and the point (both of one generation), from start on. Areas are
// whole grains, ascending, disjoint and merged where they touch, but for the cut at start and at the end of the disk. The point "" is
// the disk as it is now.
//
// AllAllocated as change ID asks for the allocated areas instead; the disk must be tracked for that, too.
func (d *Disk) Changed(point, changeID string, start int64, limit int) (Areas, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, err := d.find(point)
	if err != nil {
		return Areas{}, err
	}
	if limit <= 0 || limit > MaxAreas {
		limit = MaxAreas
	}
	// An offset at the very end is refused too, as vCenter does (the threads are vmware/pyvmomi 224 and vexxhost/migratekit 24).
	if start < 0 || start >= f.capacity {
		return Areas{}, ErrBeyondEnd
	}
	end := f.capacity
	if d.opt.PageSpan > 0 {
		end = min(end, start+d.opt.PageSpan)
	}
	out := Areas{Start: start, Length: end - start, Changed: []Area{}}
	full := func(from, to int64) bool {
		out.Changed = append(out.Changed, clip(from, to, start, end))
		if len(out.Changed) < limit {
			return true
		}
		last := out.Changed[limit-1]
		out.Length = last.Start + last.Length - start
		return false
	}
	if changeID == AllAllocated {
		if err := d.mayTellAllocated(f); err != nil {
			return Areas{}, err
		}
		if d.opt.Allocation == AllocationWhole {
			out.Changed = append(out.Changed, Area{start, end - start})
			return out, nil
		}
		d.chunks(f.layer, start, end, full)
		return out, nil
	}
	epochs, err := f.tracker.since(changeID, f.counter)
	if err != nil {
		return Areas{}, err
	}
	runs(start/Grain, (end+Grain-1)/Grain, func(n int64, p *page) bool {
		any := false
		for i := range epochs {
			if q := epochs[i].pages[n]; q != nil {
				any = true
				for w := range p {
					p[w] |= q[w]
				}
			}
		}
		return any
	}, func(from, to int64) bool { return full(from*Grain, to*Grain) })
	return out, nil
}

func (d *Disk) mayTellAllocated(f frozen) error {
	switch {
	case f.tracker == nil:
		return ErrNotTracked
	case f.tracker.dead != nil:
		return f.tracker.dead
	case d.opt.Allocation == AllocationFault:
		return ErrAllocationUnknown
	}
	return nil
}

func clip(from, to, start, end int64) Area {
	from, to = max(from, start), min(to, end)
	return Area{from, to - from}
}

// chunks calls yield for each run of 64 KiB chunks that hold data seen through l, within start..end (widened to chunks).
func (d *Disk) chunks(l *layer, start, end int64, yield func(from, to int64) bool) {
	const per = Grain / cell
	from, to := start/Grain*per, (end+Grain-1)/Grain*per
	open, until := int64(-1), int64(-1)
	stopped := false
	runs(from, to, func(n int64, p *page) bool { return l.allocated(n, p) }, func(a, b int64) bool {
		a, b = a/per*Grain, (b+per-1)/per*Grain
		if open >= 0 && a <= until {
			until = max(until, b)
			return true
		}
		if open >= 0 && !yield(open, until) {
			stopped = true
			return false
		}
		open, until = a, b
		return true
	})
	if open >= 0 && !stopped {
		yield(open, until)
	}
}
