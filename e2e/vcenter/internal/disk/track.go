package disk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// tracker is one generation of changed block tracking. Points that were frozen in it keep a reference, so that what they can answer goes
// on being answered after a revert has begun another generation for the current layer.
type tracker struct {
	generation [16]byte
	first      int64    // the counter of epochs[0]
	epochs     []bitset // grains written while the counter stood at first, first+1, ...; the last one is open
	dead       error    // why its answers are gone: tracking was reset or switched off
}

func newTracker(seed string, nth int64) *tracker {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(nth))
	sum := sha256.Sum256(append([]byte("generation\x00"+seed+"\x00"), n[:]...))
	t := &tracker{first: 1, epochs: make([]bitset, 1)}
	copy(t.generation[:], sum[:])
	t.generation[0] = 0x52 // as all of VMware's own uuids begin
	return t
}

// counter is the number of the open epoch.
func (t *tracker) counter() int64 { return t.first + int64(len(t.epochs)) - 1 }

// close ends the open epoch and begins the next; keep is how many closed ones stay.
func (t *tracker) close(keep int) {
	t.epochs = append(t.epochs, bitset{})
	if over := len(t.epochs) - 1 - keep; keep > 0 && over > 0 {
		t.epochs = append([]bitset(nil), t.epochs[over:]...)
		t.first += int64(over)
	}
}

func (t *tracker) mark(off, n int64) {
	t.epochs[len(t.epochs)-1].set(off/Grain, (off+n+Grain-1)/Grain)
}

// id is the change ID at a counter: 16 hex pairs with spaces, a dash in the middle, a slash and the counter.
func (t *tracker) id(counter int64) string { return FormatChangeID(t.generation, counter) }

// FormatChangeID writes a change ID in the form of vSphere: "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81".
func FormatChangeID(generation [16]byte, counter int64) string {
	var b strings.Builder
	for i, x := range generation {
		switch {
		case i == 8:
			b.WriteByte('-')
		case i > 0:
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%02x", x)
	}
	return b.String() + "/" + strconv.FormatInt(counter, 10)
}

var separators = strings.NewReplacer(" ", "", "-", "")

// ParseChangeID reads a change ID; anything but the exact form is ErrBadChangeID.
func ParseChangeID(s string) (generation [16]byte, counter int64, err error) {
	uuid, num, ok := strings.Cut(s, "/")
	if !ok || len(uuid) != 47 {
		return generation, 0, fmt.Errorf("%w: %q", ErrBadChangeID, s)
	}
	if _, e := hex.Decode(generation[:], []byte(separators.Replace(uuid))); e != nil {
		return generation, 0, fmt.Errorf("%w: %q", ErrBadChangeID, s)
	}
	counter, e := strconv.ParseInt(num, 10, 64)
	if e != nil || FormatChangeID(generation, counter) != s || counter < 0 {
		return generation, 0, fmt.Errorf("%w: %q", ErrBadChangeID, s)
	}
	return generation, counter, nil
}

// since lists the epochs between change ID id and counter upto (not included), or says why they are not to be had.
func (t *tracker) since(id string, upto int64) ([]bitset, error) {
	generation, counter, err := ParseChangeID(id)
	switch {
	case err != nil:
		return nil, err
	case t == nil:
		return nil, ErrNotTracked
	case generation != t.generation:
		return nil, ErrOtherGeneration
	case t.dead != nil:
		return nil, t.dead
	case counter > upto:
		return nil, fmt.Errorf("%w: counter %d is after %d", ErrBadChangeID, counter, upto)
	case counter < t.first:
		return nil, ErrNoEpoch
	}
	return t.epochs[counter-t.first : upto-t.first], nil
}
