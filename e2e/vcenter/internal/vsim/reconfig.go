package vsim

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/disk"
)

// reconfigurable are the fields of a spec that this simulator carries out; others are refused, not passed over.
var reconfigurable = map[string]string{
	"ChangeTrackingEnabled": "VirtualMachine.Config.ChangeTracking",
	"Name":                  "VirtualMachine.Config.Rename",
	"Annotation":            "VirtualMachine.Config.Annotation",
	"ExtraConfig":           "VirtualMachine.Config.AdvancedConfig",
	"NumCPUs":               "VirtualMachine.Config.CPUCount",
	"MemoryMB":              "VirtualMachine.Config.Memory",
	"ChangeVersion":         "",
	"DeviceChange":          "",
}

func specFields(spec *types.VirtualMachineConfigSpec) []string {
	var names []string
	val := reflect.ValueOf(spec).Elem()
	for i := range val.NumField() {
		if f := val.Type().Field(i); f.Name != "DynamicData" && !val.Field(i).IsZero() {
			names = append(names, f.Name)
		}
	}
	return names
}

// reconfigNeeds are the privileges that a spec needs, by what it changes.
func reconfigNeeds(spec *types.VirtualMachineConfigSpec) []string {
	var ids []string
	for _, name := range specFields(spec) {
		if id, ok := reconfigurable[name]; !ok {
			ids = append(ids, "VirtualMachine.Config.Settings")
		} else if id != "" {
			ids = append(ids, id)
		}
	}
	for _, c := range spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		_, isDisk := change.Device.(*types.VirtualDisk)
		switch {
		case !isDisk && change.Operation == types.VirtualDeviceConfigSpecOperationEdit:
			ids = append(ids, "VirtualMachine.Config.EditDevice")
		case !isDisk:
			ids = append(ids, "VirtualMachine.Config.AddRemoveDevice")
		case change.Operation == types.VirtualDeviceConfigSpecOperationAdd && change.FileOperation == types.VirtualDeviceConfigSpecFileOperationCreate:
			ids = append(ids, "VirtualMachine.Config.AddNewDisk")
		case change.Operation == types.VirtualDeviceConfigSpecOperationAdd:
			ids = append(ids, "VirtualMachine.Config.AddExistingDisk")
		case change.Operation == types.VirtualDeviceConfigSpecOperationRemove:
			ids = append(ids, "VirtualMachine.Config.RemoveDisk")
		default:
			ids = append(ids, "VirtualMachine.Config.DiskExtend")
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// ReconfigVMTask changes a machine.
func (f *front) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	for _, name := range specFields(&req.Spec) {
		if _, ok := reconfigurable[name]; !ok {
			fault := notSupported("spec." + strings.ToLower(name[:1]) + name[1:] + " is not simulated")
			return refuse(message(fault), fault)
		}
	}
	ref, fault := v.start(job{
		method: "ReconfigVM_Task", id: "reconfigure", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		work: func() (types.AnyType, types.BaseMethodFault) { return nil, m.reconfigure(&req.Spec) },
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: ref}}
}

func (m *machine) reconfigure(spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	if fault := m.ready(); fault != nil {
		return fault
	}
	if spec.ChangeVersion != "" && spec.ChangeVersion != m.config().ChangeVersion {
		return say(&types.ConcurrentAccess{}, "", "The configuration was changed since it was read")
	}
	if m.decl.Template && (spec.ChangeTrackingEnabled != nil || len(spec.DeviceChange) > 0) {
		return notSupported("a template's hardware cannot be changed")
	}
	if spec.ChangeTrackingEnabled != nil && *spec.ChangeTrackingEnabled && !*m.decl.CBTSupported {
		return notSupported("change tracking is not supported by this virtual machine (capability.changeTrackingSupported)")
	}
	if (spec.NumCPUs != 0 || spec.MemoryMB != 0) && m.power != off {
		return powerFault(m.power, off)
	}
	for i, c := range spec.DeviceChange {
		if fault := m.changeDevice(int32(i), c.GetVirtualDeviceConfigSpec()); fault != nil {
			return fault
		}
	}
	if spec.ChangeTrackingEnabled != nil {
		m.cbt = *spec.ChangeTrackingEnabled
		m.track(m.cbt)
		if m.power == off {
			m.stun() // nothing runs: the tracking files are written at once
		}
	}
	if spec.Name != "" {
		if fault := m.rename(spec.Name); fault != nil {
			return fault
		}
	}
	if spec.Annotation != "" {
		m.note = spec.Annotation
	}
	if spec.NumCPUs != 0 {
		m.cpus = int(spec.NumCPUs)
	}
	if spec.MemoryMB != 0 {
		m.memory = spec.MemoryMB << 20
	}
	for _, o := range spec.ExtraConfig {
		ov := o.GetOptionValue()
		if m.extra == nil {
			m.extra = map[string]string{}
		}
		if value := fmt.Sprint(ov.Value); value == "" {
			delete(m.extra, ov.Key)
		} else {
			m.extra[ov.Key] = value
		}
	}
	m.settle()
	return nil
}

func (m *machine) rename(name string) types.BaseMethodFault {
	if strings.ContainsAny(unescaped(name), "/%\\") {
		return say(&types.InvalidName{Name: name, Entity: &m.ref}, "", "The name '"+name+"' is invalid")
	}
	if other := m.vc.find(name); other != nil && other != m && other.dc == m.dc {
		return say(&types.DuplicateName{Name: name, Object: other.ref}, "", "The name '"+name+"' already exists.")
	}
	m.vc.mu.Lock()
	m.name = name
	m.vc.mu.Unlock()
	return nil
}

// RenameTask changes a machine's name; its files keep theirs.
func (f *front) RenameTask(ctx *simulator.Context, req *types.Rename_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	ref, fault := v.start(job{
		method: "Rename_Task", id: "rename", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		work: func() (types.AnyType, types.BaseMethodFault) {
			if fault := m.rename(req.NewName); fault != nil {
				return nil, fault
			}
			m.settle()
			return nil, nil
		},
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.Rename_TaskBody{Res: &types.Rename_TaskResponse{Returnval: ref}}
}

func badDevice(i int32, property string) types.BaseMethodFault {
	fault := &types.InvalidDeviceSpec{DeviceIndex: i}
	fault.Property = property
	return say(fault, "", fmt.Sprintf("Invalid configuration for device '%d': %s", i, property))
}

func badOperation(i int32, op types.VirtualDeviceConfigSpecOperation, why string) types.BaseMethodFault {
	fault := &types.InvalidDeviceOperation{BadOp: op}
	fault.DeviceIndex = i
	return say(fault, "", why)
}

func (m *machine) changeDevice(i int32, change *types.VirtualDeviceConfigSpec) types.BaseMethodFault {
	switch d := change.Device.(type) {
	case *types.VirtualDisk:
		switch change.Operation {
		case types.VirtualDeviceConfigSpecOperationAdd:
			return m.addDiskBySpec(i, d, change.FileOperation)
		case types.VirtualDeviceConfigSpecOperationRemove:
			return m.removeDisk(i, d.Key, change.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy)
		case types.VirtualDeviceConfigSpecOperationEdit:
			return m.editDisk(i, d)
		}
	case types.BaseVirtualEthernetCard:
		card := d.GetVirtualEthernetCard()
		at := slices.IndexFunc(m.nics, func(n *nic) bool { return n.key == card.Key })
		switch {
		case change.Operation == types.VirtualDeviceConfigSpecOperationEdit && at >= 0:
			if card.Connectable != nil {
				m.nics[at].off = !card.Connectable.StartConnected || m.running() && !card.Connectable.Connected
			}
			return nil
		case change.Operation == types.VirtualDeviceConfigSpecOperationRemove && at >= 0:
			m.nics = slices.Delete(slices.Clone(m.nics), at, at+1)
			return nil
		}
	}
	return badOperation(i, change.Operation, fmt.Sprintf("%s of %s is not simulated", change.Operation, vimName(change.Device)))
}

func (m *machine) addDiskBySpec(i int32, d *types.VirtualDisk, op types.VirtualDeviceConfigSpecFileOperation) types.BaseMethodFault {
	if op != types.VirtualDeviceConfigSpecFileOperationCreate {
		return badOperation(i, types.VirtualDeviceConfigSpecOperationAdd, "only new disks can be added: fileOperation create")
	}
	size := d.CapacityInBytes
	if size == 0 {
		size = d.CapacityInKB * 1024
	}
	spec := DiskSpec{Size: Size(size), Mode: "persistent", Datastore: m.home.name, Controller: int(d.ControllerKey - keySCSI)}
	if spec.Controller < 0 || spec.Controller >= len(m.decl.Controllers) {
		return badDevice(i, "virtualDeviceSpec.device.controllerKey")
	}
	if size <= 0 || size%disk.Sector != 0 {
		return badDevice(i, "virtualDeviceSpec.device.capacityInBytes")
	}
	if b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
		orElse(&b.DiskMode, "persistent")
		spec.Mode = b.DiskMode
		spec.Thick = b.ThinProvisioned != nil && !*b.ThinProvisioned
		if name, _, ok := strings.Cut(strings.TrimPrefix(b.FileName, "["), "]"); ok && name != "" {
			spec.Datastore = name
		}
	}
	if _, err := m.addDisk(spec); err != nil {
		if errors.Is(err, disk.ErrNoSpace) {
			return m.home.noSpace(m.home.path(m.folder, ""))
		}
		return badDevice(i, err.Error())
	}
	return nil
}

// addDisk makes a new disk, tracked as the machine is: a disk of a tracked machine is tracked from the stun on that its hot-add is.
func (m *machine) addDisk(spec DiskSpec) (*vdisk, error) {
	d, err := m.newDisk(spec)
	if err != nil {
		return nil, err
	}
	m.disks = append(m.disks, d)
	d.disk.SetTracking(m.cbt && d.trackable())
	d.disk.Stun()
	return d, nil
}

func (m *machine) removeDisk(i, key int32, destroy bool) types.BaseMethodFault {
	d := m.diskByKey(key)
	if d == nil {
		return badDevice(i, "virtualDeviceSpec.device.key")
	}
	if m.vc.handles.current(d) {
		return say(&types.FileLocked{FileFault: types.FileFault{File: d.path("")}}, "msg.fileio.lock", "Failed to lock the file")
	}
	m.disks = slices.DeleteFunc(slices.Clone(m.disks), func(x *vdisk) bool { return x == d })
	held := false
	m.walk(func(s *snapshot) {
		held = held || slices.ContainsFunc(s.disks, func(f frozenDisk) bool { return f.disk == d && f.frozen })
	})
	if held {
		return nil // snapshots still have it
	}
	m.vc.usage.remove(d.disk)
	var err error
	if destroy {
		err = d.disk.Remove()
	} else {
		err = d.disk.Close()
	}
	if err != nil {
		return m.diskFault(d, err)
	}
	return nil
}

// editDisk grows a disk, or changes its mode while the machine is off.
func (m *machine) editDisk(i int32, spec *types.VirtualDisk) types.BaseMethodFault {
	d := m.diskByKey(spec.Key)
	if d == nil {
		return badDevice(i, "virtualDeviceSpec.device.key")
	}
	size := spec.CapacityInBytes
	if size == 0 || size == d.disk.Capacity() && spec.CapacityInKB*1024 > size {
		size = spec.CapacityInKB * 1024
	}
	if size == 0 {
		size = d.disk.Capacity()
	}
	if size != d.disk.Capacity() {
		if fault := m.grow(i, d, size); fault != nil {
			return fault
		}
	}
	if b, ok := spec.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && b.DiskMode != "" && b.DiskMode != d.spec.Mode {
		if m.power != off {
			return powerFault(m.power, off)
		}
		if len(m.roots) > 0 {
			return badOperation(i, types.VirtualDeviceConfigSpecOperationEdit, "The mode of a disk with snapshots cannot be changed")
		}
		d.spec.Mode = b.DiskMode
		m.track(m.cbt)
	}
	return nil
}

func (m *machine) grow(i int32, d *vdisk, size int64) types.BaseMethodFault {
	err := d.disk.Grow(size)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, disk.ErrHasSnapshots):
		return badOperation(i, types.VirtualDeviceConfigSpecOperationEdit, "A disk of a virtual machine with snapshots cannot be resized")
	case errors.Is(err, disk.ErrCapacity):
		return badOperation(i, types.VirtualDeviceConfigSpecOperationEdit, "The capacity of a disk can only grow, by whole sectors")
	}
	return m.diskFault(d, err)
}

// RefreshStorageInfo renders sizes anew.
func (f *front) RefreshStorageInfo(_ *simulator.Context, req *types.RefreshStorageInfo) soap.HasFault {
	m, fault := f.vc.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vc.update(m.vm, set("layoutEx", m.layout()), set("storage", m.storage()), set("summary", m.summary()))
	return &methods.RefreshStorageInfoBody{Res: new(types.RefreshStorageInfoResponse)}
}
