package vsim

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/disk"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

// handles are the disks that VDDK clients hold open.
type handles struct {
	vc   *VC
	mu   sync.Mutex
	open map[*handle]struct{}
}

func newHandles(v *VC) *handles { return &handles{vc: v, open: map[*handle]struct{}{}} }

// handle is one open disk.
type handle struct {
	vc       *VC
	disk     *vdisk
	point    string
	host     *host
	capacity int64
	reader   disk.Reader
	// lost: the machine moved, or its host is gone. What is read from then on fails.
	lost atomic.Bool
}

// anyOn tells whether someone reads any layer of the disk: then nothing of its chain can be merged.
func (h *handles) anyOn(d *vdisk) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.open {
		if x.disk == d && !x.lost.Load() {
			return true
		}
	}
	return false
}

// current tells whether someone reads the layer that the guest would write.
func (h *handles) current(d *vdisk) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.open {
		if x.disk == d && x.point == "" && !x.lost.Load() {
			return true
		}
	}
	return false
}

func (h *handles) dropMachine(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.open {
		if x.disk.machine == m {
			x.lost.Store(true)
		}
	}
}

func (h *handles) dropHost(on *host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.open {
		if x.host == on {
			x.lost.Store(true)
		}
	}
}

// add counts a handle in, unless a limit forbids it. A handle that was lost counts until its client closes it, as on a host.
func (h *handles) add(x *handle) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	limits := h.vc.inv.Settings
	sameHost := 0
	for o := range h.open {
		if o.disk == x.disk && o.point == x.point && !o.lost.Load() {
			return fmt.Errorf("the disk is open already: %w", vddk.ErrAlreadyLocked)
		}
		if o.host == x.host {
			sameHost++
		}
	}
	if sameHost >= limits.VDDKDisksPerHost {
		return fmt.Errorf("host %s serves %d disks, its limit: %w", x.host.name, sameHost, vddk.ErrRefused)
	}
	if len(h.open) >= limits.VDDKDisks {
		return fmt.Errorf("%d disks are open through this vCenter, its limit: %w", len(h.open), vddk.ErrRefused)
	}
	h.open[x] = struct{}{}
	return nil
}

func (h *handles) remove(x *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, x)
}

// count is how many disks are open, on one host or (nil) on all.
func (h *handles) count(on *host) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for x := range h.open {
		if on == nil || x.host == on {
			n++
		}
	}
	return n
}

// backend is the vCenter behind the VDDK stand-in.
type backend struct{ vc *VC }

// what a user of VDDK must hold on the machine: VDDK programming guide, "Credentials and Privileges".
var vddkNeeds = []string{"VirtualMachine.Config.DiskLease", "VirtualMachine.Provisioning.DiskRandomRead", "VirtualMachine.Provisioning.DiskRandomAccess"}

// login checks a client's name and password, and finds its machine.
func (b *backend) login(c vddk.Credentials) (*machine, error) {
	v := b.vc
	if !v.password(c.User, c.Password) {
		return nil, fmt.Errorf("login of %q failed: %w", c.User, vddk.ErrPermissions)
	}
	// VDDK logs in by SOAP, too: at the limit of sessions it is turned away as well.
	if _, full := v.sessions.begin(""); full {
		return nil, fmt.Errorf("503 Service Unavailable: %w", vddk.ErrCannotConnect)
	}
	m, fault := v.machineOf(types.ManagedObjectReference{Type: "VirtualMachine", Value: c.VM})
	if fault != nil || !v.has(c.User, m.ref, "System.View") {
		return nil, fmt.Errorf("there is no virtual machine %q: %w", c.VM, vddk.ErrVMNotFound)
	}
	return m, nil
}

// Connect checks login, machine, snapshot and privileges.
func (b *backend) Connect(_ context.Context, c vddk.Credentials) (vddk.Conn, error) {
	m, err := b.login(c)
	if err != nil {
		return nil, err
	}
	for _, id := range vddkNeeds {
		if !b.vc.has(c.User, m.ref, id) {
			return nil, fmt.Errorf("%q lacks %s on %s: %w", c.User, id, c.VM, vddk.ErrPermissions)
		}
	}
	if c.Snapshot != "" {
		if s, fault := b.vc.machineOf(types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: c.Snapshot}); fault != nil || s != m {
			return nil, fmt.Errorf("machine %s has no snapshot %q: %w", c.VM, c.Snapshot, vddk.ErrSnapshotNotFound)
		}
	}
	return &conn{vc: b.vc, machine: m, snapshot: c.Snapshot}, nil
}

// PrepareForAccess disables vMotion of the machine until EndAccess, as VixDiskLib_PrepareForAccess does by Global.DisableMethods.
func (b *backend) PrepareForAccess(_ context.Context, c vddk.Credentials, identity string) error {
	m, err := b.login(c)
	if err != nil {
		return err
	}
	if !b.vc.has(c.User, b.vc.root, "Global.DisableMethods") || !b.vc.has(c.User, b.vc.root, "Global.EnableMethods") {
		return fmt.Errorf("the host is not licensed for this feature: %w", vddk.ErrNoLicense)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if by, ok := m.disabled["RelocateVM_Task"]; ok {
		return fmt.Errorf("RelocateVM_Task is disabled by %q already: %w", by, vddk.ErrFail)
	}
	m.disable("RelocateVM_Task", identity)
	return nil
}

// EndAccess enables vMotion again.
func (b *backend) EndAccess(_ context.Context, c vddk.Credentials, identity string) error {
	m, err := b.login(c)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disabled["RelocateVM_Task"] != identity {
		return fmt.Errorf("RelocateVM_Task is not disabled by %q: %w", identity, vddk.ErrInvalidArg)
	}
	m.enable("RelocateVM_Task")
	return nil
}

func (m *machine) disable(method, by string) {
	if m.disabled == nil {
		m.disabled = map[string]string{}
	}
	m.disabled[method] = by
	m.show()
}

func (m *machine) enable(method string) {
	delete(m.disabled, method)
	m.show()
}

type conn struct {
	vc       *VC
	machine  *machine
	snapshot string
}

// Close has nothing to do: disks are closed one by one.
func (c *conn) Close() error { return nil }

// Open opens one disk of the snapshot, read-only, by its name in the snapshot's configuration.
func (c *conn) Open(path string, flags uint32) (vddk.Disk, error) {
	m := c.machine
	if flags&vddk.OpenReadOnly == 0 {
		return nil, fmt.Errorf("only reading is allowed here: %w", vddk.ErrReadOnly)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unplaced {
		return nil, fmt.Errorf("the virtual machine is gone: %w", vddk.ErrVMNotFound)
	}
	if m.connected() != nil {
		return nil, fmt.Errorf("host %s is not connected: %w", m.host.name, vddk.ErrRefused)
	}
	x, err := c.handleFor(path)
	if err != nil {
		return nil, err
	}
	if flags&vddk.OpenSingleLink != 0 && len(x.disk.disk.Chain(x.point)) > 1 {
		return nil, fmt.Errorf("single links of a chain are not simulated: %w", vddk.ErrNotSupported)
	}
	if x.reader, err = x.disk.disk.Point(x.point); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", path, err, vddk.ErrFileNotFound)
	}
	x.host = m.host
	x.capacity = x.reader.Size()
	if err := c.vc.handles.add(x); err != nil {
		return nil, err
	}
	return x, nil
}

// handleFor finds the disk that a name means.
func (c *conn) handleFor(path string) (*handle, error) {
	m := c.machine
	missing := fmt.Errorf("%q is no disk of this snapshot's configuration: %w", path, vddk.ErrFileNotFound)
	if c.snapshot == "" {
		for _, d := range m.disks {
			if d.path("") != path {
				continue
			}
			if m.power != off {
				return nil, fmt.Errorf("%s is in use by the running machine: %w", path, vddk.ErrFileAccess)
			}
			return &handle{vc: c.vc, disk: d}, nil
		}
		return nil, missing
	}
	c.vc.mu.RLock()
	s := c.vc.snaps[c.snapshot]
	c.vc.mu.RUnlock()
	if s == nil {
		return nil, fmt.Errorf("snapshot %s is gone: %w", c.snapshot, vddk.ErrSnapshotNotFound)
	}
	for _, f := range s.disks {
		switch {
		case !f.frozen && f.disk.path("") == path:
			// Independent disks and raw devices in physical mode cannot be opened since VDDK 7 ("Error 1").
			return nil, fmt.Errorf("%s is not part of the snapshot: %w", path, vddk.ErrFail)
		case f.frozen && f.disk.path(s.point()) == path:
			if f.disk.spec.EncryptionKey != "" {
				return nil, fmt.Errorf("%s is encrypted: %w", path, vddk.ErrPermissions)
			}
			return &handle{vc: c.vc, disk: f.disk, point: s.point()}, nil
		}
	}
	return nil, missing
}

// ReadAt reads frozen bytes, as long as the machine stays where it was when the disk was opened.
func (x *handle) ReadAt(p []byte, at int64) (int, error) {
	if x.lost.Load() {
		return 0, fmt.Errorf("the virtual machine has moved, or its host is gone: %w", vddk.ErrConnectionLost)
	}
	n, err := x.reader.ReadAt(p, at)
	if err != nil && err != io.EOF {
		return n, fmt.Errorf("%v: %w", err, vddk.ErrFail)
	}
	return n, err
}

// Capacity is the disk's size when it was frozen.
func (x *handle) Capacity() int64 { return x.capacity }

// Allocated lists what holds data.
func (x *handle) Allocated(at, n int64) ([]vddk.Area, error) {
	if x.lost.Load() {
		return nil, fmt.Errorf("the virtual machine has moved, or its host is gone: %w", vddk.ErrConnectionLost)
	}
	areas, err := x.reader.Allocated(at, n)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, vddk.ErrFail)
	}
	out := make([]vddk.Area, len(areas))
	for i, a := range areas {
		out[i] = vddk.Area{Start: a.Start, Length: a.Length}
	}
	return out, nil
}

// Close gives the disk back.
func (x *handle) Close() error {
	x.vc.handles.remove(x)
	return nil
}
