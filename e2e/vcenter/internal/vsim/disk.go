package vsim

import (
	"errors"
	"os"

	"hawser.dev/e2e/vcenter/internal/disk"
)

// newDisk makes a disk's files in the machine's folder.
func (m *machine) newDisk(spec DiskSpec) (*vdisk, error) {
	v := m.vc
	v.mu.RLock()
	s := v.stores[spec.Datastore]
	v.mu.RUnlock()
	if s == nil || s.dc != m.dc {
		return nil, errors.New("virtualDeviceSpec.device.backing.datastore")
	}
	key, unit := m.freeSlot(spec.Controller)
	if unit < 0 {
		return nil, errors.New("virtualDeviceSpec.device.unitNumber")
	}
	d := &vdisk{
		machine: m, key: key, controller: spec.Controller, unit: unit, spec: spec, store: s, base: m.freeName(s),
	}
	m.made++
	d.label = "Hard disk " + itoa(int(key-keyDisk)+1)
	if err := os.MkdirAll(s.local(m.folder, ""), 0o755); err != nil {
		return nil, err
	}
	p := new(place)
	p.at.Store(s)
	o := disk.Options{
		Seed: v.stableUUID("disk", m.inst, itoa(m.made)).String(), Thick: spec.Thick, KeepEpochs: v.inv.Settings.KeepEpochs,
		PageSpan: int64(v.inv.Settings.PageSpan), Space: func(n int64) error { return p.at.Load().grant(n) },
		Growth:     map[string]disk.Growth{"keeps": disk.GrowthKeeps, "resets": disk.GrowthResets, "breaks": disk.GrowthBreaks}[v.inv.Settings.Growth],
		Allocation: map[string]disk.Allocation{"exact": disk.AllocationExact, "whole": disk.AllocationWhole, "fault": disk.AllocationFault}[s.decl.Allocated],
	}
	if spec.Thick && s.free() < int64(spec.Size) {
		return nil, disk.ErrNoSpace
	}
	var err error
	if d.disk, err = disk.CreateWith(s.local(m.folder, ""), d.base, int64(spec.Size), o); err != nil {
		return nil, err
	}
	d.uuid = d.disk.UUID()
	v.usage.add(d.disk, p)
	return d, nil
}

// freeSlot is the next free key and place on a controller.
func (m *machine) freeSlot(controller int) (key, unit int32) {
	taken := map[int32]bool{unitSCSI: true}
	for _, d := range m.disks {
		if d.controller == controller {
			taken[d.unit] = true
		}
	}
	for unit = 0; taken[unit]; unit++ {
	}
	if unit >= disksPerHB {
		return 0, -1
	}
	// vCenter numbers disks by their place: 2000 + 16 times the controller + the unit.
	return keyDisk + int32(controller)*disksPerHB + unit, unit
}
