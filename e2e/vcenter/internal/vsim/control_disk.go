package vsim

import (
	"errors"
	"slices"

	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
	"hawser.dev/e2e/vcenter/internal/disk"
)

// guest runs a write of the guest: the machine runs, and has no question that waits.
func (c *controller) guest(vm string, key int32, write func(*disk.Disk) error) error {
	m, err := c.machine(vm)
	if err != nil {
		return err
	}
	m.mu.Lock()
	d, err := c.disk(m, key)
	power, question := m.power, m.question
	m.mu.Unlock()
	switch {
	case err != nil:
		return err
	case power != on:
		return control.Conflict("%s is not powered on: its guest writes nothing", m.title())
	case question != nil:
		return control.Conflict("%s waits for an answer: %s", m.title(), question.Text)
	}
	// Not under the machine's lock: a guest writes while vCenter works.
	err = write(d.disk)
	if errors.Is(err, disk.ErrNoSpace) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.ask(d.store)
	}
	return err
}

// GuestWrite writes as the guest.
func (c *controller) GuestWrite(vm string, key int32, p []byte, at int64) error {
	return c.guest(vm, key, func(d *disk.Disk) error {
		_, err := d.WriteAt(p, at)
		return err
	})
}

// GuestZero zeroes as the guest.
func (c *controller) GuestZero(vm string, key int32, at, n int64) error {
	return c.guest(vm, key, func(d *disk.Disk) error { return d.Zero(at, n) })
}

// CurrentDisk reads what the guest would.
func (c *controller) CurrentDisk(vm string, key int32) (r disk.Reader, err error) {
	err = c.with(vm, func(m *machine) error {
		d, err := c.disk(m, key)
		if err != nil {
			return err
		}
		r, err = d.disk.Point("")
		return err
	})
	return r, err
}

// SnapshotDisk reads what a snapshot froze.
func (c *controller) SnapshotDisk(snap string, key int32) (disk.Reader, error) {
	s, err := c.snapshot(snap)
	if err != nil {
		return nil, err
	}
	s.machine.mu.Lock()
	defer s.machine.mu.Unlock()
	for _, f := range s.disks {
		if f.disk.key != key {
			continue
		}
		if !f.frozen {
			return nil, control.Conflict("disk %d is not part of snapshots: it is independent, or a raw device in physical mode", key)
		}
		return f.disk.disk.Point(s.point())
	}
	return nil, control.NotFound("snapshot %s has no disk %d", snap, key)
}

// ResetCBT begins a new generation of tracking.
func (c *controller) ResetCBT(vm string, key int32) error {
	return c.withDisks(vm, key, func(d *vdisk) error {
		d.disk.ResetTracking()
		return nil
	})
}

// SetQuirks makes the host of a disk answer wrongly.
func (c *controller) SetQuirks(vm string, key int32, q disk.Quirks) error {
	return c.withDisks(vm, key, func(d *vdisk) error {
		d.disk.SetQuirks(q)
		return nil
	})
}

// SetPageSpan makes pages of changed areas short.
func (c *controller) SetPageSpan(vm string, key int32, bytes int64) error {
	return c.withDisks(vm, key, func(d *vdisk) error {
		d.disk.SetPageSpan(bytes)
		return nil
	})
}

// AddDisk adds a disk.
func (c *controller) AddDisk(vm string, n control.NewDisk) (out control.Disk, err error) {
	err = c.aloneErr(vm, func(m *machine) error {
		spec, err := m.specOf(n)
		if err != nil {
			return err
		}
		d, err := m.addDisk(spec)
		if err != nil {
			return err
		}
		m.settle()
		out = d.told("", d.disk.Capacity(), d.disk.ChangeID(""))
		return nil
	})
	return out, err
}

// aloneErr is alone for work that ends in the control port's own errors.
func (c *controller) aloneErr(vm string, f func(*machine) error) error {
	var inner error
	if err := c.alone(vm, func(m *machine) types.BaseMethodFault {
		inner = f(m)
		return nil
	}); err != nil {
		return err
	}
	return inner
}

// specOf checks a new disk as the inventory file is checked.
func (m *machine) specOf(n control.NewDisk) (DiskSpec, error) {
	spec := DiskSpec{Size: Size(n.Size), Datastore: n.Datastore, Thick: n.Thick, Mode: n.Mode, RDM: n.RDM, MultiWriter: n.MultiWriter}
	orElse(&spec.Datastore, m.home.name)
	var seen []string
	for _, s := range m.vc.allStores() {
		if slices.Contains(s.decl.Hosts, m.host.name) {
			seen = append(seen, s.name)
		}
	}
	if err := spec.complete(&m.decl, seen); err != nil {
		return spec, control.Invalid("%v", err)
	}
	return spec, nil
}

// RemoveDisk takes a disk away, with its files unless a snapshot has it.
func (c *controller) RemoveDisk(vm string, key int32) error {
	return c.alone(vm, func(m *machine) types.BaseMethodFault {
		if m.diskByKey(key) == nil {
			return say(&types.NotFound{}, "", m.title()+" has no such disk")
		}
		fault := m.removeDisk(0, key, true)
		if fault == nil {
			m.settle()
		}
		return fault
	})
}

// ReplaceDisk puts an empty disk in the place of another.
func (c *controller) ReplaceDisk(vm string, key int32, size int64) (out control.Disk, err error) {
	err = c.aloneErr(vm, func(m *machine) error {
		old, err := c.disk(m, key)
		if err != nil {
			return err
		}
		spec := old.spec
		spec.Content = nil
		spec.Size = Size(old.disk.Capacity())
		if size != 0 {
			spec.Size = Size(size)
		}
		if spec.Size <= 0 || spec.Size%disk.Sector != 0 {
			return disk.ErrCapacity
		}
		if fault := m.removeDisk(0, key, true); fault != nil {
			return controlError(fault)
		}
		d, err := m.addDisk(spec)
		if err != nil {
			return err
		}
		d.key, d.unit, d.label = old.key, old.unit, old.label
		m.settle()
		out = d.told("", d.disk.Capacity(), d.disk.ChangeID(""))
		return nil
	})
	return out, err
}

// GrowDisk makes a disk larger.
func (c *controller) GrowDisk(vm string, key int32, capacity int64) error {
	return c.aloneErr(vm, func(m *machine) error {
		d, err := c.disk(m, key)
		if err != nil {
			return err
		}
		if err := d.disk.Grow(capacity); err != nil {
			return err
		}
		m.settle()
		return nil
	})
}
