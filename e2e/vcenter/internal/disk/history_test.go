package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// world is a disk and the naive oracle beside it: full copies of all that was frozen, and a plain list of what was written when.
type world struct {
	d   *Disk
	r   *rand.Rand
	now int // a count of events

	bytes  []byte
	points map[string]*copyOf
	ids    []*copyOf // older change IDs, those of removed snapshots too
	gone   []Reader  // of removed points

	want, active bool
	gen          int
	dead         map[int]bool // generations that may not answer
	stunned      int          // time of the last stun
	writes       []event

	keep   int
	growth Growth
	hidden bool
	names  int
}

type copyOf struct {
	id    string
	bytes []byte
	gen   int // -1: not tracked
	at    int // when it was frozen
	from  int // what was written after this counts as changed since
}

type event struct{ at, gen, from, to int } // grains

// wrong is what the histories look for: bytes that differ and were not answered.
type wrong struct{ what string }

func (w wrong) Error() string { return w.what }

func newWorld(dir string, r *rand.Rand, q Quirks, hidden bool) (*world, error) {
	capacity := int64(4+r.IntN(12))*Grain - int64(r.IntN(3))*Sector*int64(r.IntN(100))
	o := Options{Thick: r.IntN(4) == 0, Growth: Growth(r.IntN(2)), Quirks: q}
	if r.IntN(4) == 0 {
		o.PageSpan = int64(1+r.IntN(300)) * Sector
	}
	if r.IntN(4) == 0 {
		o.KeepEpochs = 1 + r.IntN(4)
	}
	d, err := CreateWith(dir, "disk", capacity, o)
	return &world{d: d, r: r, bytes: make([]byte, capacity), points: map[string]*copyOf{}, dead: map[int]bool{}, keep: o.KeepEpochs,
		growth: o.Growth, hidden: hidden}, err
}

func (w *world) stun(chain bool) {
	switch {
	case w.active && !w.want:
		w.active = false
		w.killAll()
	case !w.active && w.want && !chain:
		w.active = true
		w.gen++
	}
	w.stunned = w.now
}

func (w *world) killAll() {
	for g := range w.gen + 1 {
		w.dead[g] = true
	}
}

func (w *world) chain() bool { return len(w.d.Chain("")) > 1 || len(w.points) > 0 }

func (w *world) generation() int {
	if w.active {
		return w.gen
	}
	return -1
}

func (w *world) wrote(off, n int) {
	w.writes = append(w.writes, event{w.now, w.generation(), off / Grain, (off + n + Grain - 1) / Grain})
}

func (w *world) anyPoint() string {
	var names []string
	for n := range w.points {
		names = append(names, n)
	}
	slices.Sort(names)
	return names[w.r.IntN(len(names))]
}

func (w *world) area() (off, n int) {
	size := len(w.bytes)
	switch w.r.IntN(4) {
	case 0: // sectors
		off = w.r.IntN(size/Sector) * Sector
		return off, min(size-off, Sector*(1+w.r.IntN(16)))
	case 1: // any bytes
		off = w.r.IntN(size)
		return off, 1 + w.r.IntN(min(size-off, 3*Grain))
	case 2: // to the very end
		n = 1 + w.r.IntN(min(size, Grain))
		return size - n, n
	}
	off = w.r.IntN(size) / cell * cell
	return off, min(size-off, cell*(1+w.r.IntN(40)))
}

// step does one thing to the disk and to the oracle.
func (w *world) step() error {
	w.now++
	k := w.r.IntN(100)
	switch {
	case k < 34:
		off, n := w.area()
		p := make([]byte, n)
		Pattern(w.r.Uint64(), int64(off), p)
		copy(w.bytes[off:], p)
		w.wrote(off, n)
		_, err := w.d.WriteAt(p, int64(off))
		return err
	case k < 44:
		off, n := w.area()
		clear(w.bytes[off : off+n])
		w.wrote(off, n)
		return w.d.Zero(int64(off), int64(n))
	case k < 62:
		return w.snapshot()
	case k < 74 && len(w.points) > 0:
		return w.remove()
	case k < 80 && len(w.points) > 0:
		return w.revert()
	case k < 82:
		w.d.ResetTracking()
		if w.active {
			w.killAll()
			w.gen++
		}
	case k < 87:
		return w.grow()
	case k < 90:
		w.want = w.r.IntN(3) > 0
		w.d.SetTracking(w.want)
	case k < 93:
		w.stun(w.chain())
		w.d.Stun()
	case k < 95:
		w.names++
		err := w.d.Move(w.d.Dir(), fmt.Sprintf("disk%d", w.names))
		w.stun(w.chain())
		return err
	case k < 97:
		if id := w.d.ChangeID(""); (id != "") != w.active {
			return fmt.Errorf("current change ID %q, tracking is %v", id, w.active)
		} else if w.active {
			w.ids = append(w.ids, &copyOf{id, slices.Clone(w.bytes), w.gen, w.now, w.stunned})
		}
	default:
		err := w.d.Consolidate()
		w.stun(w.chain())
		if w.d.NeedsConsolidation() {
			return errors.New("needs consolidation after it was done")
		}
		return err
	}
	return nil
}

func (w *world) snapshot() error {
	if len(w.points) >= 5 {
		return nil
	}
	w.names++
	name := fmt.Sprintf("snapshot-%d", w.names)
	chain := w.chain()
	if err := w.d.Snapshot(name); err != nil {
		return err
	}
	c := &copyOf{w.d.ChangeID(name), slices.Clone(w.bytes), w.generation(), w.now, w.now}
	if (c.id != "") != w.active {
		return fmt.Errorf("change ID of a new snapshot is %q, tracking was %v", c.id, w.active)
	}
	w.stun(chain)
	w.points[name] = c
	if c.id != "" {
		w.ids = append(w.ids, c)
	}
	if len(w.ids) > 12 {
		w.ids = slices.Delete(w.ids, 0, 1)
	}
	return w.check(name)
}

func (w *world) remove() error {
	name := w.anyPoint()
	r, err := w.d.Point(name)
	if err != nil {
		return err
	}
	w.gone = append(w.gone, r)
	delete(w.points, name)
	if w.r.IntN(4) == 0 {
		err = w.d.RemovePoint(name)
	} else {
		err = w.d.RemoveSnapshot(name)
	}
	w.stun(w.chain())
	return errors.Join(err, w.checkBytes())
}

func (w *world) revert() error {
	name := w.anyPoint()
	if err := w.d.Revert(name, w.hidden); err != nil {
		return err
	}
	if w.active && !w.hidden {
		w.gen++
	}
	w.bytes = slices.Clone(w.points[name].bytes)
	w.stun(w.chain())
	return w.checkBytes()
}

func (w *world) grow() error {
	n := int64(len(w.bytes)) + int64(1+w.r.IntN(300))*Sector
	err := w.d.Grow(n)
	if w.chain() {
		if !errors.Is(err, ErrHasSnapshots) {
			return fmt.Errorf("growing under snapshots: %v", err)
		}
		return nil
	}
	old := len(w.bytes)
	w.bytes = append(slices.Clone(w.bytes), make([]byte, int(n)-old)...)
	if w.active && w.growth == GrowthResets {
		w.killAll()
		w.gen++
	} else {
		w.wrote(old, int(n)-old)
	}
	return err
}

// checkBytes compares what the guest and the points read with the copies.
func (w *world) checkBytes() error {
	got := make([]byte, len(w.bytes))
	if _, err := w.d.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, w.bytes) {
		return errors.New("the guest reads other bytes than it wrote")
	}
	for name, c := range w.points {
		r, err := w.d.Point(name)
		if err != nil {
			return err
		}
		got := make([]byte, r.Size())
		if _, err := r.ReadAt(got, 0); err != nil {
			return err
		}
		if !bytes.Equal(got, c.bytes) {
			return fmt.Errorf("%s reads other bytes than were frozen", name)
		}
	}
	for _, r := range w.gone {
		if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrNoSuchPoint) {
			return fmt.Errorf("a removed snapshot still answers: %v", err)
		}
	}
	return nil
}

// check asks for all known change IDs what changed up to a point.
func (w *world) check(name string) error {
	p := w.points[name]
	if name == "" {
		p = &copyOf{"", w.bytes, w.generation(), w.now, w.now}
	}
	for _, id := range w.ids {
		if id.gen == p.gen && id.at > p.at {
			continue // of a later time: the counters may be the same, the question has no sense
		}
		if err := w.ask(name, p, id); err != nil {
			return fmt.Errorf("%q since %s: %w", name, id.id, err)
		}
	}
	if err := w.allocated(name, p); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	for bad, want := range map[string]error{
		"": ErrBadChangeID, "52/1": ErrBadChangeID, FormatChangeID([16]byte{0x52, 1}, -1): ErrBadChangeID,
		FormatChangeID([16]byte{0x52, 1}, 1) + " ": ErrBadChangeID, FormatChangeID([16]byte{0x52, 1}, 1): ErrOtherGeneration} {
		if p.gen < 0 && want == ErrOtherGeneration {
			want = ErrNotTracked
		}
		if _, err := w.d.Changed(name, bad, 0, 0); !errors.Is(err, want) {
			return fmt.Errorf("change ID %q: %v, not %v", bad, err, want)
		}
	}
	return nil
}

func (w *world) ask(name string, p, id *copyOf) error {
	areas, err := w.walk(name, id.id, int64(len(p.bytes)))
	switch {
	case p.gen < 0:
		return refused(err, ErrNotTracked)
	case id.gen != p.gen:
		return refused(err, ErrOtherGeneration)
	case w.dead[p.gen]:
		if errors.Is(err, ErrNotTracked) {
			return nil
		}
		return refused(err, ErrNoEpoch)
	case w.keep > 0 && errors.Is(err, ErrNoEpoch):
		return nil
	case err != nil:
		return err
	}
	at := 0
	for _, a := range append(areas, Area{int64(len(p.bytes)), 0}) {
		to := int(a.Start)
		if at < to && (to > len(id.bytes) || !bytes.Equal(p.bytes[at:to], id.bytes[at:to])) {
			return wrong{fmt.Sprintf("bytes in %d..%d differ and were not answered", at, to)}
		}
		at = to + int(a.Length)
	}
	if w.hidden || w.d.opt.Quirks != (Quirks{}) {
		return nil
	}
	// Nothing is answered that was not written, either: exactly the grains of the writes in between.
	expect := make([]bool, (len(p.bytes)+Grain-1)/Grain)
	for _, e := range w.writes {
		if e.gen == p.gen && e.at > id.from && e.at <= p.at {
			for g := e.from; g < e.to; g++ {
				expect[g] = true
			}
		}
	}
	for _, a := range areas {
		for g := a.Start / Grain; g < (a.Start+a.Length+Grain-1)/Grain; g++ {
			if !expect[g] {
				return fmt.Errorf("grain %d was answered and never written", g)
			}
		}
	}
	return nil
}

func refused(err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%v instead of %v", err, want)
	}
	return nil
}

// allocated checks that what "*" and Allocated leave out is zeroes.
func (w *world) allocated(name string, p *copyOf) error {
	areas, err := w.walk(name, AllAllocated, int64(len(p.bytes)))
	if p.gen < 0 || w.dead[p.gen] {
		if !errors.Is(err, ErrNotTracked) && !errors.Is(err, ErrNoEpoch) {
			return fmt.Errorf("\"*\" of an untracked disk: %v", err)
		}
	} else if err != nil {
		return err
	} else if err := zeroBetween(areas, p.bytes); err != nil {
		return err
	}
	r, err := w.d.Point(name)
	if err != nil {
		return err
	}
	areas, err = r.Allocated(0, r.Size())
	if err != nil {
		return err
	}
	return zeroBetween(areas, p.bytes)
}

func zeroBetween(areas []Area, b []byte) error {
	at := int64(0)
	for _, a := range append(areas, Area{int64(len(b)), 0}) {
		if len(bytes.Trim(b[at:a.Start], "\x00")) > 0 {
			return fmt.Errorf("data in %d..%d are not among the allocated areas", at, a.Start)
		}
		at = a.Start + a.Length
	}
	return nil
}

// walk reads page by page and holds each page to its form.
func (w *world) walk(name, id string, capacity int64) ([]Area, error) {
	limit := 1 + w.r.IntN(6)
	var all []Area
	for at := int64(0); at < capacity; {
		p, err := w.d.Changed(name, id, at, limit)
		if err != nil {
			return nil, err
		}
		if p.Start != at || p.Length <= 0 || p.Start+p.Length > capacity || len(p.Changed) > limit {
			return nil, fmt.Errorf("a page of start %d, length %d, %d areas after asking at %d for %d", p.Start, p.Length, len(p.Changed), at, limit)
		}
		for _, a := range p.Changed {
			if a.Length <= 0 || a.Start < at || a.Start+a.Length > p.Start+p.Length {
				return nil, fmt.Errorf("area %v is outside its page or before the last one", a)
			}
			at = a.Start + a.Length
			all = append(all, a)
		}
		at = p.Start + p.Length
	}
	if _, err := w.d.Changed(name, id, capacity, limit); err == nil {
		return nil, errors.New("an offset at the end was answered")
	}
	return all, nil
}

func (w *world) end() error {
	if err := w.checkBytes(); err != nil {
		return err
	}
	if err := w.check(""); err != nil {
		return err
	}
	for name, c := range w.points {
		if err := w.check(name); err != nil {
			return err
		}
		r, err := w.d.Point(name)
		if err != nil {
			return err
		}
		if sum, err := r.SHA256(); err != nil || sum != sha256.Sum256(c.bytes) {
			return fmt.Errorf("%s has another SHA-256 than what was frozen (%v)", name, err)
		}
	}
	return w.account()
}

// account compares the running account of space with a count.
func (w *world) account() error {
	var all, deltas int64
	for _, l := range w.d.layers {
		all += l.data.count() * cell
		if l.parent != nil {
			deltas += l.data.count() * cell
		}
		for _, s := range []*bitset{&l.data, &l.holds} {
			n := int64(0)
			for _, p := range s.pages {
				n += ones(p)
			}
			if n != s.count() {
				return errors.New("a set has lost count")
			}
		}
	}
	if _, got := w.d.UsedBy(); w.d.Used() != all || got != deltas {
		return fmt.Errorf("account of space: %d and %d, counted %d and %d", w.d.Used(), got, all, deltas)
	}
	return nil
}

func history(dir string, seed uint64, q Quirks, hidden bool) error {
	r := rand.New(rand.NewPCG(seed, 0))
	w, err := newWorld(dir, r, q, hidden)
	if err != nil {
		return err
	}
	defer func() { _ = w.d.Remove() }()
	if r.IntN(8) > 0 { // most begin as disks do that are replicated
		w.want = true
		w.d.SetTracking(true)
	}
	for range 15 + r.IntN(45) {
		if err := w.step(); err != nil {
			return err
		}
	}
	return w.end()
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: give a whole number", name, s)
	}
	return n
}

// scratch is a folder in memory where the machine has one: on a disk the files of a thousand histories take three times as long.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "histories-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// histories runs n seeds and returns the errors by seed.
func histories(t *testing.T, first, n uint64, q Quirks, hidden bool) map[uint64]error {
	var (
		mu    sync.Mutex
		found = map[uint64]error{}
		next  atomic.Uint64
		wg    sync.WaitGroup
	)
	for range 2 {
		dir := scratch(t)
		wg.Go(func() {
			for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
				if err := history(dir, first+i, q, hidden); err != nil {
					mu.Lock()
					found[first+i] = err
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return found
}

func TestHistories(t *testing.T) {
	seed := number(t, "HAWSER_SEED", uint64(time.Now().UnixNano()))
	n := number(t, "HAWSER_HISTORIES", 1000)
	t.Logf("%d histories; the first is HAWSER_SEED=%d", n, seed)
	for s, err := range histories(t, seed, n, Quirks{}, false) {
		t.Errorf("HAWSER_SEED=%d HAWSER_HISTORIES=1: %v", s, err)
	}
}

// TestHistoriesFindFaults shows that the histories can fail: each planted fault is found as bytes that differ and were not answered.
func TestHistoriesFindFaults(t *testing.T) {
	seed := number(t, "HAWSER_SEED", 1)
	for name, c := range map[string]struct {
		q      Quirks
		hidden bool
	}{
		"a write's mark is forgotten":            {Quirks{ForgetWrite: 5}, false},
		"marks are lost when a delta is merged":  {Quirks{MergeForgets: true}, false},
		"tracking goes on after a hidden revert": {Quirks{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			found := histories(t, seed, 60, c.q, c.hidden)
			answers := 0
			for s, err := range found {
				var w wrong
				if !errors.As(err, &w) {
					t.Errorf("HAWSER_SEED=%d: another error than the planted one: %v", s, err)
				}
				answers++
			}
			t.Logf("found in %d of 60 histories", answers)
			if answers == 0 {
				t.Error("the planted fault was not found")
			}
		})
	}
}
