package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

// Disk is one virtual disk. Its methods may be called from several goroutines.
type Disk struct {
	mu       sync.RWMutex
	dir      string
	name     string
	opt      Options
	capacity int64
	current  *layer
	base     *layer
	layers   []*layer // all of them, oldest first
	points   map[string]*pointState
	closed   bool

	tracker     *tracker // nil: not tracked
	want        bool     // what the last switch asked for
	generations int64    // begun so far
	writes      int      // counted for Quirks.ForgetWrite

	used   atomic.Int64
	deltas atomic.Int64
}

// Create makes a thin disk of zeroes in the VM's folder of the datastore. Files of that name are replaced.
func Create(dir, name string, capacity int64) (*Disk, error) {
	return CreateWith(dir, name, capacity, Options{})
}

// CreateWith is Create with options.
func CreateWith(dir, name string, capacity int64, o Options) (*Disk, error) {
	name = strings.TrimSuffix(name, ".vmdk")
	if name == "" || strings.ContainsAny(name, "/\n\"") {
		return nil, fmt.Errorf("a disk's file cannot be called %q: give a plain name such as \"disk1\"", name)
	}
	if capacity <= 0 || capacity%Sector != 0 {
		return nil, fmt.Errorf("%w: %d", ErrCapacity, capacity)
	}
	if o.Seed == "" {
		o.Seed = name
	}
	d := &Disk{dir: dir, name: name, opt: o, capacity: capacity, points: map[string]*pointState{}}
	base := &layer{name: name}
	if err := d.open(base); err != nil {
		return nil, err
	}
	if o.Thick {
		d.take(base, 0, cells(capacity), true)
	}
	d.base, d.current, d.layers = base, base, []*layer{base}
	return d, d.describe()
}

func cells(n int64) int64 { return (n + cell - 1) / cell }

// open makes the layer's file, sparse.
func (d *Disk) open(l *layer) error {
	f, err := os.OpenFile(filepath.Join(d.dir, l.extent()), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err := f.Truncate(d.capacity); err != nil {
		return errors.Join(err, f.Close())
	}
	l.file = f
	return nil
}

// take marks cells a..b as held by a layer, with data or as zeroes, and keeps the account of what the datastore has lost.
func (d *Disk) take(l *layer, a, b int64, data bool) {
	if l.parent != nil {
		l.holds.set(a, b)
	}
	before := l.data.count()
	if data {
		l.data.set(a, b)
	} else {
		l.data.clear(a, b)
	}
	d.account(l, l.data.count()-before)
}

func (d *Disk) account(l *layer, n int64) {
	d.used.Add(n * cell)
	if l.parent != nil {
		d.deltas.Add(n * cell)
	}
}

// Name is the name of the base's descriptor without ".vmdk".
func (d *Disk) Name() string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.name
}

// Dir is the folder that its files are in.
func (d *Disk) Dir() string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.dir
}

// Capacity is what the guest sees.
func (d *Disk) Capacity() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.capacity
}

// Used is how many bytes the datastore has lost to the disk, deltas included.
func (d *Disk) Used() int64 { return d.used.Load() }

// UsedBy splits Used into what the base takes and what the deltas of snapshots take.
func (d *Disk) UsedBy() (base, deltas int64) {
	deltas = d.deltas.Load()
	return d.used.Load() - deltas, deltas
}

// ReadAt reads the bytes as the guest sees them now.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return (&reader{d: d}).ReadAt(p, off) }

// WriteAt writes as the guest.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(off, int64(len(p))); err != nil || len(p) == 0 {
		return 0, err
	}
	d.mark(off, int64(len(p)))
	if err := d.write(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Zero clears a range as the guest's unmap does: the bytes are zeroes, whole cells give their space back, and it is a change.
func (d *Disk) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(off, n); err != nil || n == 0 {
		return err
	}
	d.mark(off, n)
	a, b := cells(off), (off+n)/cell
	if off+n == d.capacity {
		b = cells(d.capacity)
	}
	if a >= b {
		if err := d.write(make([]byte, n), off); err != nil {
			return err
		}
	} else {
		if err := d.write(make([]byte, a*cell-off), off); err != nil {
			return err
		}
		if end := b * cell; end < off+n {
			if err := d.write(make([]byte, off+n-end), end); err != nil {
				return err
			}
		}
		if err := d.blank(d.current, a, b); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disk) check(off, n int64) error {
	switch {
	case d.closed:
		return ErrClosed
	case off < 0 || n < 0 || off > d.capacity || n > d.capacity-off:
		return ErrBeyondEnd
	}
	return nil
}

// mark comes before the bytes: a write that fails half-way has changed something, too.
func (d *Disk) mark(off, n int64) {
	if d.tracker == nil {
		return
	}
	d.writes++
	if q := d.opt.Quirks.ForgetWrite; q > 0 && d.writes%q == 0 {
		return
	}
	d.tracker.mark(off, n)
}

// write puts bytes into the current layer. Cells touched in part are first filled with what the chain has there.
func (d *Disk) write(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	l, end := d.current, off+int64(len(p))
	a, b := off/cell, cells(end)
	if err := d.reserve(l, a, b); err != nil {
		return err
	}
	if off%cell != 0 || end < min((a+1)*cell, d.capacity) {
		if err := d.fill(l, a); err != nil {
			return err
		}
	}
	if last := b - 1; last != a && end < min(b*cell, d.capacity) {
		if err := d.fill(l, last); err != nil {
			return err
		}
	}
	if _, err := l.file.WriteAt(p, off); err != nil {
		return err
	}
	d.take(l, a, b, true)
	return nil
}

// reserve asks for the space of those cells that the layer has no bytes for yet.
func (d *Disk) reserve(l *layer, a, b int64) error {
	if d.opt.Space == nil {
		return nil
	}
	fresh := b - a
	l.data.each(a, b, func(from, to int64) bool {
		fresh -= to - from
		return true
	})
	if fresh == 0 {
		return nil
	}
	return d.opt.Space(fresh * cell)
}

// fill copies one cell from the chain into l, so that a part of it can be written.
func (d *Disk) fill(l *layer, c int64) error {
	if l.data.has(c) {
		return nil
	}
	var whole [cell]byte
	p := whole[:min(cell, d.capacity-c*cell)]
	if err := l.read(p, c*cell); err != nil {
		return err
	}
	if _, err := l.file.WriteAt(p, c*cell); err != nil {
		return err
	}
	d.take(l, c, c+1, true)
	return nil
}

// find is called with the lock held.
func (d *Disk) find(point string) (frozen, error) {
	if d.closed {
		return frozen{}, ErrClosed
	}
	if point == "" {
		f := frozen{layer: d.current, capacity: d.capacity, tracker: d.tracker}
		if d.tracker != nil {
			// What the guest wrote in the open epoch counts, too.
			f.counter = d.tracker.counter() + 1
		}
		return f, nil
	}
	p, ok := d.points[point]
	if !ok {
		return frozen{}, ErrNoSuchPoint
	}
	return p.frozen, nil
}
