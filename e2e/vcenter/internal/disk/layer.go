package disk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// cell is the unit in which a layer knows whether it holds a byte. A write of less copies the rest of its cell from below, as the 4 KiB
// grains of VMware's SEsparse deltas do.
const cell = 4 << 10

// layer is one file of the chain. The bytes of a cell come from the topmost layer that holds it; the base holds them all.
type layer struct {
	name   string // of its descriptor, without ".vmdk"
	file   *os.File
	parent *layer // nil: the base
	kids   int    // layers on top of it
	point  string // the snapshot that froze it; "" = none
	held   bool   // its snapshot went, but merging it is left to Consolidate
	holds  bitset // cells that this layer answers for (deltas only)
	data   bitset // those of them that are more than zeroes

	descriptor, ctk string // what was written last into x.vmdk and x-ctk.vmdk
}

func (l *layer) has(c int64) bool { return l.parent == nil || l.holds.has(c) }

// extent is the name of the file with its bytes.
func (l *layer) extent() string {
	if l.parent == nil {
		return l.name + "-flat.vmdk"
	}
	return l.name + "-delta.vmdk"
}

// owner is the layer whose bytes cell c of l has; zero tells that they are zeroes without looking.
func (l *layer) owner(c int64) (at *layer, zero bool) {
	for at = l; !at.has(c); at = at.parent {
	}
	return at, !at.data.has(c)
}

// allocated tells which cells of page n, seen through l, hold data.
func (l *layer) allocated(n int64, p *page) bool {
	var open page
	for i := range open {
		open[i] = ^uint64(0)
	}
	any := false
	for at := l; at != nil; at = at.parent {
		if d := at.data.pages[n]; d != nil {
			any = true
			for i := range p {
				p[i] |= d[i] & open[i]
			}
		}
		if h := at.holds.pages[n]; h != nil {
			for i := range open {
				open[i] &^= h[i]
			}
		}
	}
	return any
}

// read fills p with the bytes at off as seen through l.
func (l *layer) read(p []byte, off int64) error {
	for len(p) > 0 {
		c := off / cell
		at, zero := l.owner(c)
		end := (c + 1) * cell
		for end < off+int64(len(p)) {
			next, nextZero := l.owner(end / cell)
			if nextZero != zero || !zero && next != at {
				break
			}
			end += cell
		}
		n := min(int64(len(p)), end-off)
		if zero {
			clear(p[:n])
		} else if _, err := at.file.ReadAt(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// punch gives the bytes back to the file system; they read as zeroes then. Not every file system can.
func (l *layer) punch(off, n int64) error {
	const keepSize, punchHole = 1, 2 // FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE of fallocate(2)
	return syscall.Fallocate(int(l.file.Fd()), keepSize|punchHole, off, n)
}

// remove closes the layer's file and deletes all that stands in the folder for it.
func (l *layer) remove(dir string) error {
	err := l.file.Close()
	for _, f := range []string{l.extent(), l.name + ".vmdk", l.name + "-ctk.vmdk"} {
		err = errors.Join(err, removeFile(dir, f))
	}
	return err
}

func removeFile(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
