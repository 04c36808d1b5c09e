package vsim

import (
	"fmt"
	"strconv"

	"github.com/vmware/govmomi/vim25/types"
)

// Keys of devices, as vCenter gives them.
const (
	keyIDE     = 200
	keyPS2     = 300
	keyPCI     = 100
	keySIO     = 400
	keyVideo   = 500
	keyKbd     = 600
	keyMouse   = 700
	keySCSI    = 1000
	keyDisk    = 2000
	keyNIC     = 4000
	keyVMCI    = 12000
	unitSCSI   = 7 // of the controller itself: no disk may have it
	disksPerHB = 16
)

func device(key, controller int32, unit int32, label, summary string) types.VirtualDevice {
	d := types.VirtualDevice{Key: key, ControllerKey: controller, DeviceInfo: &types.Description{Label: label, Summary: summary}}
	if unit >= 0 {
		d.UnitNumber = types.NewInt32(unit)
	}
	return d
}

func controllerOf(key, parent, unit int32, label string, bus int32, kids []int32) types.VirtualController {
	return types.VirtualController{VirtualDevice: device(key, parent, unit, label, label), BusNumber: bus, Device: kids}
}

// devices renders the machine's hardware; disks as the function given shows them. All values are new at each call.
func (m *machine) devices(disks []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	scsi := make([]int32, len(m.decl.Controllers))
	byController := map[int32][]int32{}
	pci := []int32{keyVideo, keyVMCI}
	for i := range scsi {
		scsi[i] = keySCSI + int32(i)
		pci = append(pci, scsi[i])
	}
	for _, d := range disks {
		v := d.GetVirtualDevice()
		byController[v.ControllerKey] = append(byController[v.ControllerKey], v.Key)
	}
	for _, n := range m.nics {
		pci = append(pci, n.key)
	}
	out := []types.BaseVirtualDevice{
		&types.VirtualIDEController{VirtualController: controllerOf(keyIDE, 0, -1, "IDE 0", 0, nil)},
		&types.VirtualIDEController{VirtualController: controllerOf(keyIDE+1, 0, -1, "IDE 1", 1, nil)},
		&types.VirtualPS2Controller{VirtualController: controllerOf(keyPS2, 0, -1, "PS2 controller 0", 0, []int32{keyKbd, keyMouse})},
		&types.VirtualPCIController{VirtualController: controllerOf(keyPCI, 0, -1, "PCI controller 0", 0, pci)},
		&types.VirtualSIOController{VirtualController: controllerOf(keySIO, 0, -1, "SIO controller 0", 0, nil)},
		&types.VirtualKeyboard{VirtualDevice: device(keyKbd, keyPS2, 0, "Keyboard", "Keyboard")},
		&types.VirtualPointingDevice{VirtualDevice: device(keyMouse, keyPS2, 1, "Pointing device", "Pointing device; Device")},
		&types.VirtualMachineVideoCard{VirtualDevice: device(keyVideo, keyPCI, 0, "Video card", "Video card"), VideoRamSizeInKB: 4096},
		&types.VirtualMachineVMCIDevice{VirtualDevice: device(keyVMCI, keyPCI, 17, "VMCI device", "Device on the virtual machine PCI bus")},
	}
	for i, c := range m.decl.Controllers {
		out = append(out, m.scsi(i, c, byController[scsi[i]]))
	}
	for _, n := range m.nics {
		out = append(out, n.device(m.power == types.VirtualMachinePowerStatePoweredOn))
	}
	return append(out, disks...)
}

func (m *machine) scsi(i int, c Controller, kids []int32) types.BaseVirtualDevice {
	sharing := map[string]types.VirtualSCSISharing{
		"none": types.VirtualSCSISharingNoSharing, "physical": types.VirtualSCSISharingPhysicalSharing, "virtual": types.VirtualSCSISharingVirtualSharing,
	}[c.SharedBus]
	base := types.VirtualSCSIController{
		VirtualController: controllerOf(keySCSI+int32(i), keyPCI, int32(3+i), fmt.Sprintf("SCSI controller %d", i), int32(i), kids),
		HotAddRemove:      types.NewBool(true), SharedBus: sharing, ScsiCtlrUnitNumber: unitSCSI,
	}
	info := base.DeviceInfo.(*types.Description)
	switch c.Type {
	case "lsilogic":
		info.Summary = "LSI Logic"
		return &types.VirtualLsiLogicController{VirtualSCSIController: base}
	case "lsilogic-sas":
		info.Summary = "LSI Logic SAS"
		return &types.VirtualLsiLogicSASController{VirtualSCSIController: base}
	case "buslogic":
		info.Summary = "BusLogic"
		return &types.VirtualBusLogicController{VirtualSCSIController: base}
	}
	info.Summary = "VMware paravirtual SCSI"
	return &types.ParaVirtualSCSIController{VirtualSCSIController: base}
}

func (n *nic) device(on bool) types.BaseVirtualDevice {
	card := types.VirtualEthernetCard{
		VirtualDevice: device(n.key, keyPCI, n.unit, fmt.Sprintf("Network adapter %d", n.key-keyNIC+1), n.spec.Network),
		AddressType:   string(types.VirtualEthernetCardMacTypeAssigned), MacAddress: n.mac, WakeOnLanEnabled: types.NewBool(true),
	}
	card.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: n.spec.Network, UseAutoDetect: types.NewBool(false)},
		Network:                        types.NewReference(n.network.ref),
	}
	card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: !n.off, AllowGuestControl: true, Connected: on && !n.off, Status: "ok"}
	switch n.spec.Type {
	case "e1000":
		return &types.VirtualE1000{VirtualEthernetCard: card}
	case "e1000e":
		return &types.VirtualE1000e{VirtualEthernetCard: card}
	}
	return &types.VirtualVmxnet3{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: card}}
}

// render shows a disk as frozen at a point, or as it is ("").
func (d *vdisk) render(point, changeID string, capacity int64) types.BaseVirtualDevice {
	out := &types.VirtualDisk{
		VirtualDevice:   device(d.key, keySCSI+int32(d.controller), d.unit, d.label, numberWithCommas(capacity/1024)+" KB"),
		CapacityInKB:    capacity / 1024,
		CapacityInBytes: capacity,
		Shares:          &types.SharesInfo{Shares: 1000, Level: types.SharesLevelNormal},
		StorageIOAllocation: &types.StorageIOAllocationInfo{
			Limit: types.NewInt64(-1), Shares: &types.SharesInfo{Shares: 1000, Level: types.SharesLevelNormal}, Reservation: types.NewInt32(0),
		},
		DiskObjectId:               d.machine.refNumber() + "-" + strconv.Itoa(int(d.key)),
		NativeUnmanagedLinkedClone: types.NewBool(false),
		GuestReadOnly:              types.NewBool(false),
	}
	chain := d.disk.Chain(point)
	switch {
	case d.spec.RDM != "":
		out.Backing = d.rdm(chain, changeID)
	default:
		out.Backing = d.flat(chain, changeID)
	}
	return out
}

func (d *vdisk) file(name string) types.VirtualDeviceFileBackingInfo {
	ref := d.store.ref
	return types.VirtualDeviceFileBackingInfo{FileName: d.store.path(d.dir(), name), Datastore: &ref}
}

func (d *vdisk) sharing() string {
	if d.spec.MultiWriter {
		return string(types.VirtualDiskSharingSharingMultiWriter)
	}
	return string(types.VirtualDiskSharingSharingNone)
}

func (d *vdisk) flat(chain []string, changeID string) *types.VirtualDiskFlatVer2BackingInfo {
	if len(chain) == 0 {
		return nil
	}
	b := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: d.file(chain[0]),
		DiskMode:                     d.spec.Mode, Split: types.NewBool(false), WriteThrough: types.NewBool(false),
		ThinProvisioned: types.NewBool(!d.spec.Thick), Uuid: d.uuid, ContentId: d.machine.vc.contentID(d.uuid, chain[0]), ChangeId: changeID,
		DigestEnabled: types.NewBool(false), Sharing: d.sharing(),
	}
	if d.spec.Thick {
		b.EagerlyScrub = types.NewBool(false)
	}
	if d.spec.EncryptionKey != "" {
		b.KeyId = &types.CryptoKeyId{KeyId: d.spec.EncryptionKey, ProviderId: &types.KeyProviderId{Id: "sandbox-kms"}}
	}
	if len(chain) > 1 {
		b.DeltaDiskFormat = "redoLogFormat"
		b.Parent = d.flat(chain[1:], "")
	}
	return b
}

func (d *vdisk) rdm(chain []string, changeID string) *types.VirtualDiskRawDiskMappingVer1BackingInfo {
	if len(chain) == 0 {
		return nil
	}
	mode := types.VirtualDiskCompatibilityModeVirtualMode
	if d.spec.RDM == "physical" {
		mode = types.VirtualDiskCompatibilityModePhysicalMode
	}
	lun := "naa.6000" + d.machine.vc.stableUUID("lun", d.uuid).String()[24:]
	b := &types.VirtualDiskRawDiskMappingVer1BackingInfo{
		VirtualDeviceFileBackingInfo: d.file(chain[0]), LunUuid: "0200" + d.machine.vc.stableUUID("lun", d.uuid).String()[24:], DeviceName: "vml." + lun,
		CompatibilityMode: string(mode), DiskMode: d.spec.Mode, Uuid: d.uuid, ChangeId: changeID, Sharing: d.sharing(),
	}
	if len(chain) > 1 {
		b.DeltaDiskFormat = "redoLogFormat"
		b.Parent = d.rdm(chain[1:], "")
	}
	return b
}

// contentID is what vSphere calls the CID of a disk's content: it changes with the file that is written.
func (v *VC) contentID(uuid, file string) string {
	id := v.stableUUID("content", uuid, file)
	return fmt.Sprintf("%x", id[:16])
}

func (m *machine) refNumber() string {
	for i := len(m.ref.Value) - 1; i >= 0; i-- {
		if c := m.ref.Value[i]; c < '0' || c > '9' {
			return m.ref.Value[i+1:]
		}
	}
	return m.ref.Value
}

func numberWithCommas(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
