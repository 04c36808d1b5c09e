package disk

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Snapshot freezes the disk as it is under the name of a point; the guest goes on in a new delta. It is a stun.
func (d *Disk) Snapshot(point string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return ErrClosed
	case point == "":
		return fmt.Errorf("a point needs a name: %w", ErrNoSuchPoint)
	case d.points[point] != nil:
		return ErrPointExists
	}
	chain := len(d.layers) > 1
	top, err := d.delta(d.current)
	if err != nil {
		return err
	}
	// Frozen before the stun ends: a switch that takes effect in this very stun finds the base untracked, so that the first snapshot after
	// CBT was switched on carries no change ID.
	p := &pointState{frozen: frozen{layer: d.current, capacity: d.capacity, tracker: d.tracker}}
	if d.tracker != nil {
		p.counter = d.tracker.counter() + 1
	}
	d.current.point, d.current.held = point, false
	d.points[point] = p
	d.current = top
	d.stun(chain)
	return d.describe()
}

// delta makes an empty layer on top of another.
func (d *Disk) delta(parent *layer) (*layer, error) {
	l := &layer{name: d.free(), parent: parent}
	if err := d.open(l); err != nil {
		return nil, err
	}
	parent.kids++
	d.layers = append(d.layers, l)
	return l, nil
}

// free is the lowest number that no layer uses, as a host picks it.
func (d *Disk) free() string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%06d", d.name, n)
		if !slices.ContainsFunc(d.layers, func(l *layer) bool { return l.name == name }) {
			return name
		}
	}
}

// RemoveSnapshot takes a point away and merges the delta above it into its layer. It is a stun.
func (d *Disk) RemoveSnapshot(point string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.drop(point, false); err != nil {
		return err
	}
	return d.collapse()
}

// RemovePoint takes a point away and leaves its layer in the chain: what a host does whose delta is locked. NeedsConsolidation is true
// until Consolidate is called, unless nothing stood on that layer. It is a stun.
func (d *Disk) RemovePoint(point string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.drop(point, true); err != nil {
		return err
	}
	return d.collapse()
}

// NeedsConsolidation tells whether the chain has a layer that no snapshot needs.
func (d *Disk) NeedsConsolidation() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.ContainsFunc(d.layers, func(l *layer) bool { return l.held && l.kids == 1 })
}

// Consolidate merges what RemovePoint left. It is a stun.
func (d *Disk) Consolidate() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	for _, l := range d.layers {
		l.held = false
	}
	return d.collapse()
}

func (d *Disk) drop(point string, held bool) error {
	if d.closed {
		return ErrClosed
	}
	p, ok := d.points[point]
	if !ok {
		return ErrNoSuchPoint
	}
	p.gone = true
	p.layer.point, p.layer.held = "", held
	delete(d.points, point)
	return nil
}

// collapse deletes the layers that nothing needs and merges those that only one other needs, then ends the stun.
func (d *Disk) collapse() error {
	for {
		i := slices.IndexFunc(d.layers, func(l *layer) bool {
			return l.point == "" && l != d.current && (l.kids == 0 || l.kids == 1 && !l.held)
		})
		if i < 0 {
			break
		}
		l := d.layers[i]
		if l.kids == 0 {
			if err := d.forget(l); err != nil {
				return err
			}
			continue
		}
		if err := d.merge(l); err != nil {
			return err
		}
		if d.opt.Quirks.MergeForgets && d.tracker != nil {
			d.tracker.epochs[len(d.tracker.epochs)-1] = bitset{}
		}
	}
	d.stun(len(d.layers) > 1)
	return d.describe()
}

// forget takes a layer without children out of the chain, with its files.
func (d *Disk) forget(l *layer) error {
	d.account(l, -l.data.count())
	if l.parent != nil {
		l.parent.kids--
	}
	d.layers = slices.DeleteFunc(d.layers, func(x *layer) bool { return x == l })
	return l.remove(d.dir)
}

// merge copies the only child of l into it; l then stands in the child's place. No reader sees another byte: whoever reads through the
// child finds there what it finds in l afterwards.
func (d *Disk) merge(l *layer) error {
	c := d.layers[slices.IndexFunc(d.layers, func(x *layer) bool { return x.parent == l })]
	var err error
	buf := make([]byte, 1<<20)
	last := cells(d.capacity)
	c.data.each(0, last, func(from, to int64) bool {
		for off, end := from*cell, min(to*cell, d.capacity); off < end && err == nil; {
			p := buf[:min(int64(len(buf)), end-off)]
			if _, err = c.file.ReadAt(p, off); err == nil {
				_, err = l.file.WriteAt(p, off)
			}
			off += int64(len(p))
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	c.holds.each(0, last, func(from, to int64) bool {
		at := from
		c.data.each(from, to, func(a, b int64) bool {
			err = errors.Join(err, d.blank(l, at, a))
			d.take(l, a, b, true)
			at = b
			return true
		})
		err = errors.Join(err, d.blank(l, at, to))
		return true
	})
	if err != nil {
		return err
	}
	for _, x := range d.layers {
		if x.parent == c {
			x.parent = l
		}
	}
	l.point, l.held, l.kids = c.point, c.held, c.kids
	if p := d.points[c.point]; p != nil {
		p.layer = l
	}
	if d.current == c {
		d.current = l
	}
	// Its own parent count is settled: l has c's children now.
	d.account(c, -c.data.count())
	d.layers = slices.DeleteFunc(d.layers, func(x *layer) bool { return x == c })
	return c.remove(d.dir)
}

// blank makes zeroes of the cells a..b of a layer and gives their space back, but for a thick base, which keeps its blocks.
func (d *Disk) blank(l *layer, a, b int64) error {
	if a >= b {
		return nil
	}
	if !d.opt.Thick || l.parent != nil {
		d.take(l, a, b, false)
		_ = l.punch(a*cell, (b-a)*cell) // what is left there is never read
		return nil
	}
	if l.punch(a*cell, (b-a)*cell) == nil {
		return nil
	}
	zeroes := make([]byte, 1<<20)
	for off, end := a*cell, min(b*cell, d.capacity); off < end; off += int64(len(zeroes)) {
		if _, err := l.file.WriteAt(zeroes[:min(int64(len(zeroes)), end-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// Revert throws away what was written since the point froze (or, if other snapshots hold it, leaves it to them) and goes on from the
// point in a new delta. It is a stun, and tracking starts a new generation.
//
// hidden is the host that goes on with the same generation and counter: its answers then miss what the revert changed back.
func (d *Disk) Revert(point string, hidden bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	p, ok := d.points[point]
	if !ok {
		return ErrNoSuchPoint
	}
	// The delta begins anew as an empty one, on top of the point's layer.
	top := d.current
	if err := errors.Join(top.file.Truncate(0), top.file.Truncate(p.capacity)); err != nil {
		return err
	}
	d.account(top, -top.data.count())
	top.holds, top.data = bitset{}, bitset{}
	top.parent.kids--
	top.parent = p.layer
	top.parent.kids++
	d.capacity = p.capacity
	if d.tracker != nil && !hidden {
		d.begin()
	}
	return d.collapse()
}

// Stun is what power on, resume and migration do: the open epoch ends, and a switch of tracking takes effect.
func (d *Disk) Stun() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stun(len(d.layers) > 1)
	_ = d.describe()
}

// stun is called with the lock held; chain tells that the disk had snapshots.
func (d *Disk) stun(chain bool) {
	switch {
	case d.tracker != nil && !d.want:
		d.kill(ErrNotTracked)
		d.tracker = nil
	case d.tracker == nil && d.want && !chain:
		// Only a disk without snapshots can begin to be tracked (KB 1031873).
		d.begin()
	case d.tracker != nil:
		d.tracker.close(d.opt.KeepEpochs)
	}
}

// begin starts a new generation.
func (d *Disk) begin() {
	d.generations++
	d.tracker = newTracker(d.opt.Seed, d.generations)
}

// SetTracking switches tracking on or off; it takes effect at the next stun, switching on only at one that finds no snapshots.
func (d *Disk) SetTracking(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want = on
}

// Tracking tells whether tracking is active now.
func (d *Disk) Tracking() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.tracker != nil
}

// ResetTracking begins a new generation at once, as a host does whose tracking file was lost (KB 432633): no earlier change ID is answered
// any more, not even for the snapshots that carry one. A disk that is not tracked stays so.
func (d *Disk) ResetTracking() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reset()
	_ = d.describe()
}

func (d *Disk) reset() {
	if d.tracker != nil {
		d.kill(ErrNoEpoch)
		d.begin()
	}
}

// kill ends what all generations can answer, for the reason given.
func (d *Disk) kill(why error) {
	d.tracker.dead = why
	for _, p := range d.points {
		if p.tracker != nil && p.tracker.dead == nil {
			p.tracker.dead = why
		}
	}
}

// SetQuirks changes the ways in which the host answers wrongly, from now on.
func (d *Disk) SetQuirks(q Quirks) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opt.Quirks = q
}

// SetPageSpan changes Options.PageSpan.
func (d *Disk) SetPageSpan(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opt.PageSpan = max(0, n)
}

// Grow enlarges the disk by zeroes. vSphere does not resize a disk that has snapshots.
func (d *Disk) Grow(capacity int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.capacity
	switch {
	case d.closed:
		return ErrClosed
	case len(d.points) > 0 || len(d.layers) > 1:
		return ErrHasSnapshots
	case capacity <= old || capacity%Sector != 0:
		return fmt.Errorf("%w: %d, it has %d", ErrCapacity, capacity, old)
	}
	if d.opt.Thick && d.opt.Space != nil {
		if err := d.opt.Space(capacity - old); err != nil {
			return err
		}
	}
	if err := d.base.file.Truncate(capacity); err != nil {
		return err
	}
	d.capacity = capacity
	if d.opt.Thick {
		d.take(d.base, 0, cells(capacity), true)
	}
	if d.tracker != nil {
		switch {
		case d.opt.Growth == GrowthResets:
			d.reset()
		case d.opt.Growth == GrowthBreaks && old/boundary != (capacity-1)/boundary:
			d.tracker.misplace(old)
		default:
			d.tracker.mark(old, capacity-old)
		}
	}
	return d.describe()
}

// boundary is the size at whose multiples the tracking of old hosts broke (KB 2090639).
const boundary = 128 << 30

// misplace is the bug of KB 2090639: the size of the marks' grains doubles and the marks already made are read at the new size. (What the
// article says is that the data become unreliable; this is one way to be so.)
func (t *tracker) misplace(capacity int64) {
	for i := range t.epochs {
		var wrong bitset
		t.epochs[i].each(0, capacity/Grain+1, func(from, to int64) bool {
			wrong.set(from/2, (to+1)/2)
			return true
		})
		t.epochs[i] = wrong
	}
}

// ChangeID is the change ID that a snapshot's configuration shows: "" where the disk was not tracked when it was frozen. For the point ""
// it is the current one.
func (d *Disk) ChangeID(point string) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, err := d.find(point)
	if err != nil || f.tracker == nil {
		return ""
	}
	if point == "" {
		// What is written from now on belongs to the open epoch.
		return f.tracker.id(f.tracker.counter())
	}
	return f.tracker.id(f.counter)
}

// File is the name of the descriptor of the layer frozen at a point, and of the layer that the guest writes for the point "". It changes
// when a removal merges layers. An unknown point has none.
func (d *Disk) File(point string) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, err := d.find(point)
	if err != nil {
		return ""
	}
	return f.layer.name + ".vmdk"
}

// Chain lists the descriptors that a point's bytes come from, its own first and the base last.
func (d *Disk) Chain(point string) []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, err := d.find(point)
	if err != nil {
		return nil
	}
	var names []string
	for l := f.layer; l != nil; l = l.parent {
		names = append(names, l.name+".vmdk")
	}
	return names
}

// Points lists the snapshots, sorted.
func (d *Disk) Points() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	names := make([]string, 0, len(d.points))
	for p := range d.points {
		names = append(names, p)
	}
	slices.Sort(names)
	return names
}

// Move takes all files to another folder and name, as storage vMotion does. It is a stun. Readers go on.
func (d *Disk) Move(dir, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	return errors.Join(d.move(filepath.Clean(dir), name), d.describe())
}

// Remove deletes the disk with all its files.
func (d *Disk) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	var err error
	for _, l := range d.layers {
		d.account(l, -l.data.count())
		err = errors.Join(err, l.remove(d.dir))
	}
	return err
}

// Close closes the files and leaves them where they are.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	var err error
	for _, l := range d.layers {
		err = errors.Join(err, l.file.Close())
	}
	return err
}
