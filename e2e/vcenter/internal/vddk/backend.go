package vddk

import (
	"context"
	"io"
)

// Sector is VDDK's unit of offsets and lengths.
const Sector = 512

// Flags of VixDiskLib_Open that reach the server.
const (
	// OpenUnbuffered asks for no caching on the host.
	OpenUnbuffered = 1 << 0
	// OpenSingleLink opens one link of a chain, not the whole of it.
	OpenSingleLink = 1 << 1
	// OpenReadOnly is the only way to open a snapshot's disk: without it a backend answers ErrReadOnly.
	OpenReadOnly = 1 << 2
)

// Credentials are what a client names when it connects: who it is, and whose disks it wants.
type Credentials struct {
	User     string
	Password string
	// VM is the managed object reference of the virtual machine, "vm-62" (without VDDK's prefix "moref=").
	VM string
	// Snapshot is the managed object reference of the snapshot, "snapshot-74", or empty.
	Snapshot string
}

// Area is a run of bytes.
type Area struct {
	Start  int64
	Length int64
}

// Backend is the vCenter behind the protocol. Its errors, and those of Conn and Disk, are of type Error; any other error reaches the
// client as ErrFail.
type Backend interface {
	// Connect checks user, password, virtual machine and snapshot. The context ends with the client's connection.
	Connect(ctx context.Context, c Credentials) (Conn, error)
}

// Conn is one VDDK connection: a login, of which at most one Close happens, after all its disks are closed.
type Conn interface {
	// Open opens a disk by the name in the snapshot's configuration, "[datastore] dir/x-000001.vmdk".
	Open(path string, flags uint32) (Disk, error)
	Close() error
}

// Disk is one open disk. ReadAt is called concurrently; Close comes once, when no other call runs.
type Disk interface {
	io.ReaderAt
	// Capacity is the disk's size in bytes, a multiple of Sector.
	Capacity() int64
	// Allocated lists the parts of [off, off+n) that were ever written, ascending and disjoint.
	Allocated(off, n int64) ([]Area, error)
	Close() error
}

// Preparer is what a Backend also is when it can hold a virtual machine in its place (VixDiskLib_PrepareForAccess, EndAccess). For a
// backend that is not, these calls answer ErrNotSupported.
type Preparer interface {
	PrepareForAccess(ctx context.Context, c Credentials, identity string) error
	EndAccess(ctx context.Context, c Credentials, identity string) error
}
