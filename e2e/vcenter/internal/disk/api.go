// Package disk is the engine of one virtual disk: its bytes, the chain of layers that snapshots make of them, and its changed block
// tracking (CBT). It knows nothing of SOAP.
//
// A disk is a tree of layers, each a sparse file in the VM's folder of the datastore. The newest is the current one, which the guest
// writes; a snapshot freezes it under a point's name and puts a delta on top. What a point answers never changes until it is removed.
//
// Tracking follows what VMware documents: a switch takes effect at the next stun, a change ID is a generation and a counter, the counter
// rises at every stun, and each stun closes an epoch, the set of 64 KiB grains that were written in it.
package disk

import (
	"errors"
	"io"
)

const (
	// Grain is the granularity of changed block tracking: one mark covers so many bytes.
	Grain = 64 << 10
	// MaxAreas is the most areas that one answer of Changed holds, as vCenter's QueryChangedDiskAreas does.
	MaxAreas = 2000
	// Sector is the unit of a disk's capacity.
	Sector = 512
	// AllAllocated as change ID asks for what is allocated instead of what changed.
	AllAllocated = "*"
)

// The errors of this package, a closed set. The simulator maps each to one fault.
var (
	ErrNoSuchPoint       = errors.New("no such snapshot of this disk")                                    // NotFound
	ErrPointExists       = errors.New("the disk has a snapshot of this name already")                     // a bug of the caller
	ErrBeyondEnd         = errors.New("offset is at or beyond the end of the disk")                       // InvalidArgument(startOffset)
	ErrBadChangeID       = errors.New("change ID is malformed, or newer than what is asked about")        // InvalidArgument(changeId)
	ErrNotTracked        = errors.New("changed block tracking was not active for this disk")              // FileFault, noTrack
	ErrOtherGeneration   = errors.New("change ID is of another generation: tracking was reset since")     // FileFault, cannotGetChanges
	ErrNoEpoch           = errors.New("what changed since this change ID is no longer known")             // FileFault, noEpoch
	ErrAllocationUnknown = errors.New("the datastore cannot tell which areas are allocated")              // FileFault, off VMFS
	ErrHasSnapshots      = errors.New("a disk that has snapshots cannot be resized")                      // InvalidDeviceOperation
	ErrCapacity          = errors.New("capacity must be a positive multiple of 512 and may never shrink") // InvalidDeviceSpec
	ErrNoSpace           = errors.New("no space left on the datastore")                                   // NoDiskSpace
	ErrClosed            = errors.New("the disk was removed")                                             // ManagedObjectNotFound
)

// Area is a range of bytes.
type Area struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
}

// Areas is one page of an answer: all that changed in Start..Start+Length. The next page begins where it ends. Changed may be empty;
// Length is never 0.
type Areas struct {
	Start   int64  `json:"start"`
	Length  int64  `json:"length"`
	Changed []Area `json:"changed"`
}

// Reader reads the frozen bytes of a point. Once the point is removed its calls fail with ErrNoSuchPoint: never do they answer other
// bytes.
type Reader interface {
	io.ReaderAt
	// Size is the capacity the disk had when it was frozen.
	Size() int64
	// Allocated lists the 64 KiB chunks in off..off+n that hold data, merged where they touch and clipped to the range asked for.
	Allocated(off, n int64) ([]Area, error)
	// SHA256 is the digest of all Size bytes.
	SHA256() ([32]byte, error)
}

// Growth says what growing a disk does to its tracking.
type Growth int

const (
	// GrowthKeeps goes on with the same generation and counts all that was added as changed.
	GrowthKeeps Growth = iota
	// GrowthResets starts a new generation.
	GrowthResets
	// GrowthBreaks answers wrongly, in the same generation, once the disk was grown past a multiple of 128 GiB: what ESXi 4 and 5 did
	// before their patches (KB 2090639).
	GrowthBreaks
)

// Allocation says what the datastore knows about allocated areas.
type Allocation int

const (
	// AllocationExact answers "*" to 64 KiB, as VMFS does.
	AllocationExact Allocation = iota
	// AllocationWhole answers "*" with one area, the whole disk; other datastores may.
	AllocationWhole
	// AllocationFault answers "*" with ErrAllocationUnknown; others may do that.
	AllocationFault
)

// Quirks are the ways in which hosts are known to answer wrongly. All are off unless a test wants them.
type Quirks struct {
	// MergeForgets loses the marks of the open epoch when a delta is merged: ESXi 6.0 before its patch (KB 2136854).
	MergeForgets bool `json:"mergeForgets,omitempty"`
	// ForgetWrite loses the mark of every n-th write; 0 = never. No host is known to; it is there to test tests.
	ForgetWrite int `json:"forgetWrite,omitempty"`
}

// Options are the choices at a disk's creation. The zero value is a thin disk on VMFS under a host without faults.
type Options struct {
	// Seed is the source of the disk's uuid and of its generations, so that two runs answer alike. Empty: the file's name.
	Seed string
	// Thick counts the whole capacity as allocated.
	Thick bool
	// Growth says what growing does to tracking.
	Growth Growth
	// Allocation says what "*" answers.
	Allocation Allocation
	// KeepEpochs is how many closed epochs are kept; what is older is ErrNoEpoch. 0 keeps all.
	KeepEpochs int
	// PageSpan is the most bytes that one page of Changed covers, so that pages can be empty. 0: no limit.
	PageSpan int64
	// Space, where given, is asked before n more bytes of the datastore are taken; its error refuses the write. It must not call the disk,
	// except for Used and UsedBy.
	Space func(n int64) error
	// Quirks of the host.
	Quirks Quirks
}
