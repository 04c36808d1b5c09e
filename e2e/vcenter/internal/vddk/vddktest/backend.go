// Package vddktest is a backend in memory for the tests of the VDDK protocol and of the stand-in library: one virtual machine with one
// snapshot, whose guest can go on writing.
package vddktest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"

	"hawser.dev/e2e/vcenter/internal/vddk"
)

// What the backend knows, and all that it lets in.
const (
	User     = "administrator@vsphere.local"
	Password = "p:ss word%"
	VM       = "vm-62"
	Snapshot = "snapshot-74"
	// Grain is the unit of allocation.
	Grain = 64 << 10
)

// Backend is the fake vCenter. Budget disks of its one host may be open at once.
type Backend struct {
	Budget int

	mu     sync.Mutex
	disks  map[string]*Disk
	open   map[string]int
	logins int
	held   map[string]bool
}

// New returns a backend without disks.
func New(budget int) *Backend {
	return &Backend{Budget: budget, disks: map[string]*Disk{}, open: map[string]int{}, held: map[string]bool{}}
}

// Disk is a virtual disk: what the guest writes, and the bytes frozen by the snapshot.
type Disk struct {
	mu      sync.RWMutex
	frozen  []byte
	current []byte
}

// Add makes a disk of a size, in which every third of some grains was written, and freezes it.
func (b *Backend) Add(path string, size int, seed uint64) *Disk {
	d := &Disk{frozen: make([]byte, size)}
	r := rand.New(rand.NewPCG(seed, 1))
	for off := 0; off < size; off += Grain {
		if r.IntN(3) > 0 {
			continue
		}
		p := d.frozen[off:min(off+Grain, size)]
		for i := range p {
			p[i] = byte(r.Uint32())
		}
	}
	d.current = append([]byte(nil), d.frozen...)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disks[path] = d
	return d
}

// Frozen is the oracle: the bytes as of the snapshot.
func (d *Disk) Frozen() []byte { return d.frozen }

// GuestWrite overwrites a random piece of the running disk.
func (d *Disk) GuestWrite(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	off := r.IntN(len(d.current)/vddk.Sector) * vddk.Sector
	for i := range d.current[off : off+vddk.Sector] {
		d.current[off+i] = byte(r.Uint32())
	}
}

// Logins counts the connections that are logged in now.
func (b *Backend) Logins() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logins
}

func check(c vddk.Credentials) error {
	switch {
	case c.User != User || c.Password != Password:
		return fmt.Errorf("cannot complete login due to an incorrect user name or password: %w", vddk.ErrPermissions)
	case c.VM != VM:
		return fmt.Errorf("failed to find the VM %q: %w", c.VM, vddk.ErrVMNotFound)
	case c.Snapshot != "" && c.Snapshot != Snapshot:
		return fmt.Errorf("failed to find the snapshot %q: %w", c.Snapshot, vddk.ErrSnapshotNotFound)
	}
	return nil
}

// Connect implements vddk.Backend.
func (b *Backend) Connect(_ context.Context, c vddk.Credentials) (vddk.Conn, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logins++
	return &conn{b: b, snapshot: c.Snapshot}, nil
}

// PrepareForAccess implements vddk.Preparer.
func (b *Backend) PrepareForAccess(_ context.Context, c vddk.Credentials, identity string) error {
	if err := check(c); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[identity] = true
	return nil
}

// EndAccess implements vddk.Preparer.
func (b *Backend) EndAccess(_ context.Context, _ vddk.Credentials, identity string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.held[identity] {
		return vddk.ErrInvalidArg
	}
	delete(b.held, identity)
	return nil
}

type conn struct {
	b        *Backend
	snapshot string
}

func (c *conn) Open(path string, flags uint32) (vddk.Disk, error) {
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.disks[path]
	total := 0
	for _, n := range b.open {
		total += n
	}
	switch {
	case d == nil || !strings.HasPrefix(path, "["):
		return nil, vddk.ErrFileNotFound
	case flags&vddk.OpenReadOnly == 0:
		return nil, fmt.Errorf("only reading is allowed here: %w", vddk.ErrReadOnly)
	case c.snapshot == "":
		return nil, fmt.Errorf("%s is in use by the virtual machine: %w", path, vddk.ErrFileAccess)
	case b.open[path] > 0:
		return nil, fmt.Errorf("failed to lock %s: %w", path, vddk.ErrAlreadyLocked)
	case total >= b.Budget:
		return nil, fmt.Errorf("NBD_ERR_NETWORK_CONNECT: the host has %d disks open: %w", total, vddk.ErrRefused)
	}
	b.open[path]++
	return &handle{Disk: d, b: b, path: path}, nil
}

func (c *conn) Close() error {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.logins--
	return nil
}

type handle struct {
	*Disk
	b    *Backend
	path string
}

func (h *handle) Capacity() int64 { return int64(len(h.frozen)) }

func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, h.frozen[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) Allocated(off, n int64) ([]vddk.Area, error) {
	var areas []vddk.Area
	for at := off / Grain * Grain; at < off+n; at += Grain {
		for _, x := range h.frozen[at:min(at+Grain, int64(len(h.frozen)))] {
			if x != 0 {
				areas = append(areas, vddk.Area{Start: max(at, off), Length: min(at+Grain, off+n) - max(at, off)})
				break
			}
		}
	}
	return areas, nil
}

func (h *handle) Close() error {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	if h.b.open[h.path]--; h.b.open[h.path] == 0 {
		delete(h.b.open, h.path)
	}
	return nil
}
