package vsim

import (
	"errors"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/disk"
)

// The keys under which a host says why it cannot tell changes; clients tell the families apart by them (vsphere-csi-driver,
// TranslateVslmError).
const (
	keyNoTrack   = "vim.hostd.vmsvc.cbt.noTrack"
	keyNoEpoch   = "vim.hostd.vmsvc.cbt.noEpoch"
	keyNoChanges = "vim.hostd.vmsvc.cbt.cannotGetChanges"
)

// QueryChangedDiskAreas tells what changed on a disk between a change ID and a snapshot.
func (f *front) QueryChangedDiskAreas(_ *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	areas, fault := m.changed(req.Snapshot, req.DeviceKey, req.StartOffset, req.ChangeId)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	info := types.DiskChangeInfo{StartOffset: areas.Start, Length: areas.Length}
	for _, a := range areas.Changed {
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: a.Start, Length: a.Length})
	}
	return &methods.QueryChangedDiskAreasBody{Res: &types.QueryChangedDiskAreasResponse{Returnval: info}}
}

func (m *machine) changed(snap *types.ManagedObjectReference, key int32, start int64, changeID string) (disk.Areas, types.BaseMethodFault) {
	none := disk.Areas{}
	if fault := m.connected(); fault != nil {
		return none, fault
	}
	var d *vdisk
	point := ""
	if snap == nil {
		// "Using the current snapshot will only work for virtual machines that are powered off" (API reference).
		if m.power != types.VirtualMachinePowerStatePoweredOff {
			return none, powerFault(m.power, types.VirtualMachinePowerStatePoweredOff)
		}
		d = m.diskByKey(key)
	} else {
		m.vc.mu.RLock()
		s := m.vc.snaps[snap.Value]
		m.vc.mu.RUnlock()
		if s == nil || s.machine != m || snap.Type != "VirtualMachineSnapshot" {
			return none, say(&types.NotFound{}, "", "The snapshot "+snap.Value+" does not exist")
		}
		for _, f := range s.disks {
			if f.disk.key != key {
				continue
			}
			d, point = f.disk, s.point()
			if !f.frozen {
				return none, m.noTrack(d)
			}
		}
	}
	if d == nil {
		return none, invalidArgument("deviceKey")
	}
	if !d.trackable() {
		return none, m.noTrack(d)
	}
	areas, err := d.disk.Changed(point, changeID, start, disk.MaxAreas)
	if err != nil {
		return none, m.changeFault(d, err)
	}
	return areas, nil
}

func (m *machine) noTrack(d *vdisk) types.BaseMethodFault {
	return fileFault(d.path(""), keyNoTrack, "Error caused by file "+d.path("")+": change tracking is not enabled on the disk")
}

// changeFault maps the disk engine's closed set of errors to what a host answers.
func (m *machine) changeFault(d *vdisk, err error) types.BaseMethodFault {
	file := d.path("")
	switch {
	case errors.Is(err, disk.ErrNoSuchPoint), errors.Is(err, disk.ErrClosed):
		return say(&types.NotFound{}, "", "The snapshot does not exist")
	case errors.Is(err, disk.ErrBeyondEnd):
		return invalidArgument("startOffset")
	case errors.Is(err, disk.ErrBadChangeID):
		return invalidArgument("changeId")
	case errors.Is(err, disk.ErrNotTracked):
		return m.noTrack(d)
	case errors.Is(err, disk.ErrNoEpoch):
		return fileFault(file, keyNoEpoch, "Error caused by file "+file+": cannot get the epoch of this change ID")
	case errors.Is(err, disk.ErrOtherGeneration):
		return fileFault(file, keyNoChanges, "Error caused by file "+file+": change tracking ID mismatch")
	case errors.Is(err, disk.ErrAllocationUnknown):
		return fileFault(file, keyNoEpoch, "Error caused by file "+file+": cannot get the current epoch")
	}
	return fileFault(file, "", "Error caused by file "+file+": "+err.Error())
}
