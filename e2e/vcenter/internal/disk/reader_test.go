package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"testing"
)

// A frozen point is read by several while the guest writes and other snapshots come and go: it answers the same bytes throughout, and
// ErrNoSuchPoint once it is gone.
func TestFrozenWhileTheGuestWrites(t *testing.T) {
	d := tracked(t, 64*Grain, Options{})
	write(t, d, 1, 0, 48*Grain)
	ok(t, d.Snapshot("a"))
	want := make([]byte, d.Capacity())
	r, err := d.Point("a")
	ok(t, err)
	_, err = r.ReadAt(want, 0)
	ok(t, err)
	sum, err := r.SHA256()
	ok(t, err)
	if sum != sha256.Sum256(want) {
		t.Fatal("SHA-256 is not that of the bytes")
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			got := make([]byte, len(want))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Error("a frozen point changed:", err)
					return
				}
			}
		})
	}
	for i := range int64(150) {
		write(t, d, uint64(i), i%60*Grain+i*100, 2*Grain)
		ok(t, d.Zero((i*7)%60*Grain, Grain))
		if i%5 == 1 {
			ok(t, d.Snapshot("other"))
		}
		if i%5 == 3 {
			ok(t, d.RemoveSnapshot("other"))
		}
	}
	close(stop)
	wg.Wait()
	ok(t, d.Snapshot("b"), d.RemoveSnapshot("a"))
	_, err = r.ReadAt(want, 0)
	is(t, err, ErrNoSuchPoint)
	_, err = r.SHA256()
	is(t, err, ErrNoSuchPoint)
}

func TestPattern(t *testing.T) {
	whole := make([]byte, 100)
	Pattern(1234567, 0, whole)
	// The outputs that are published for SplitMix64 with this seed.
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423} {
		if got := binary.LittleEndian.Uint64(whole[8*i:]); got != want {
			t.Error(i, got)
		}
	}
	for off := range 60 {
		part := make([]byte, 37)
		Pattern(1234567, int64(off), part)
		if !bytes.Equal(part, whole[off:off+37]) {
			t.Fatal(off)
		}
	}
}
