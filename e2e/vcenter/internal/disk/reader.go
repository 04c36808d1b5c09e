package disk

import (
	"crypto/sha256"
	"io"
)

// frozen is what a point is: a layer and the state of tracking at the moment that it was frozen.
type frozen struct {
	layer    *layer
	capacity int64
	tracker  *tracker // nil: not tracked
	counter  int64    // epochs below it had ended
}

type pointState struct {
	frozen
	gone   bool
	digest *[32]byte // of the bytes, once it was computed: they never change
}

type reader struct {
	d *Disk
	p *pointState // nil: the current bytes
}

// Point returns the reader of a point; "" reads the disk as it is now.
func (d *Disk) Point(point string) (Reader, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, ErrClosed
	}
	if point == "" {
		return &reader{d: d}, nil
	}
	p, ok := d.points[point]
	if !ok {
		return nil, ErrNoSuchPoint
	}
	return &reader{d, p}, nil
}

// state is called with the lock held, at each call anew: a removal may have merged the layer into another, or ended the point.
func (r *reader) state() (frozen, error) {
	switch {
	case r.d.closed:
		return frozen{}, ErrClosed
	case r.p == nil:
		return frozen{layer: r.d.current, capacity: r.d.capacity}, nil
	case r.p.gone:
		return frozen{}, ErrNoSuchPoint
	}
	return r.p.frozen, nil
}

func (r *reader) Size() int64 {
	if r.p != nil {
		return r.p.capacity
	}
	return r.d.Capacity()
}

// ReadAt follows io.ReaderAt: at the end it answers what there is, and io.EOF.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	r.d.mu.RLock()
	defer r.d.mu.RUnlock()
	f, err := r.state()
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, ErrBeyondEnd
	}
	n := max(0, min(int64(len(p)), f.capacity-off))
	if err := f.layer.read(p[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (r *reader) Allocated(off, n int64) ([]Area, error) {
	r.d.mu.RLock()
	defer r.d.mu.RUnlock()
	f, err := r.state()
	if err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || off > f.capacity || n > f.capacity-off {
		return nil, ErrBeyondEnd
	}
	areas := []Area{}
	if n == 0 {
		return areas, nil
	}
	r.d.chunks(f.layer, off, off+n, func(a, b int64) bool {
		areas = append(areas, clip(a, b, off, off+n))
		return true
	})
	return areas, nil
}

func (r *reader) SHA256() ([32]byte, error) {
	if r.p != nil {
		r.d.mu.RLock()
		digest, gone := r.p.digest, r.p.gone
		r.d.mu.RUnlock()
		if digest != nil && !gone {
			return *digest, nil
		}
	}
	h := sha256.New()
	// Not under one lock: a guest that had to wait for a whole disk's digest would be seen as a stun.
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, r.Size())); err != nil {
		return [32]byte{}, err
	}
	sum := [32]byte(h.Sum(nil))
	if r.p != nil {
		r.d.mu.Lock()
		r.p.digest = &sum
		r.d.mu.Unlock()
	}
	return sum, nil
}
