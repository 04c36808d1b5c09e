package vsim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// show renders all that the machine's truth says into the properties of its object. The machine's lock is held.
func (m *machine) show() {
	v := m.vc
	v.update(m.vm,
		set("name", m.title()),
		set("config", m.config()),
		set("runtime", m.runtime()),
		set("guest", m.guest()),
		set("summary", m.summary()),
		set("layoutEx", m.layout()),
		set("storage", m.storage()),
		set("datastore", m.stores()),
		set("snapshot", m.snapshotInfo()),
		set("rootSnapshot", m.rootRefs()),
		set("disabledMethod", slices.Sorted(maps.Keys(m.disabled))),
	)
}

// config renders the current configuration.
func (m *machine) config() *types.VirtualMachineConfigInfo {
	var disks []types.BaseVirtualDevice
	for _, d := range m.disks {
		disks = append(disks, d.render("", d.disk.ChangeID(""), d.disk.Capacity()))
	}
	return m.configWith(disks)
}

func (m *machine) configWith(disks []types.BaseVirtualDevice) *types.VirtualMachineConfigInfo {
	dir := m.home.path(m.folder, "")
	d := m.decl
	c := &types.VirtualMachineConfigInfo{
		ChangeVersion: m.generated.Format(time.RFC3339Nano), Modified: m.generated,
		Name: m.title(), GuestFullName: guestName(d.Guest), GuestId: d.Guest, AlternateGuestName: "",
		Version: fmt.Sprintf("vmx-%02d", d.Hardware), Uuid: m.uuid, InstanceUuid: m.inst, CreateDate: types.NewTime(m.vc.started),
		Template: d.Template, Annotation: m.note, Firmware: d.Firmware,
		Files: types.VirtualMachineFileInfo{
			VmPathName: m.home.path(m.folder, m.folder+".vmx"), SnapshotDirectory: dir, SuspendDirectory: dir, LogDirectory: dir,
		},
		Tools: &types.ToolsConfigInfo{ToolsVersion: m.toolsVersion(), SyncTimeWithHost: types.NewBool(false), ToolsUpgradePolicy: "manual"},
		Flags: types.VirtualMachineFlagInfo{
			EnableLogging: types.NewBool(true), SnapshotDisabled: types.NewBool(false), SnapshotLocked: types.NewBool(false),
			DiskUuidEnabled: types.NewBool(true), SnapshotPowerOffBehavior: "powerOff",
		},
		DefaultPowerOps: types.VirtualMachineDefaultPowerOpInfo{PowerOffType: "soft", SuspendType: "hard", ResetType: "soft"},
		Hardware: types.VirtualHardware{
			NumCPU: int32(m.cpus), NumCoresPerSocket: types.NewInt32(1), MemoryMB: int32(m.memory >> 20), Device: m.devices(disks),
			AutoCoresPerSocket: types.NewBool(false),
		},
		BootOptions:           &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(false)},
		ChangeTrackingEnabled: types.NewBool(m.cbt),
		ExtraConfig:           m.extraConfig(),
		DatastoreUrl:          []types.VirtualMachineConfigInfoDatastoreUrlPair{{Name: m.home.name, Url: m.home.url()}},
		SwapPlacement:         "inherit",
		CpuHotAddEnabled:      types.NewBool(false), MemoryHotAddEnabled: types.NewBool(false),
	}
	if d.FaultTolerance {
		c.FtInfo = &types.FaultTolerancePrimaryConfigInfo{
			FaultToleranceConfigInfo: types.FaultToleranceConfigInfo{
				Role: 1, InstanceUuids: []string{m.inst, m.vc.stableUUID("ft", m.inst).String()},
				ConfigPaths: []string{c.Files.VmPathName, m.home.path(m.folder+"_1", m.folder+".vmx")},
			},
		}
	}
	if d.EncryptionKey != "" {
		c.KeyId = &types.CryptoKeyId{KeyId: d.EncryptionKey, ProviderId: &types.KeyProviderId{Id: "sandbox-kms"}}
	}
	return c
}

// extraConfig mirrors change tracking as a host does: ctkEnabled for the VM, scsi0:0.ctkEnabled for each disk.
func (m *machine) extraConfig() []types.BaseOptionValue {
	all := maps.Clone(m.extra)
	if all == nil {
		all = map[string]string{}
	}
	all["ctkEnabled"] = map[bool]string{true: "TRUE", false: "FALSE"}[m.cbt]
	for _, d := range m.disks {
		if m.cbt && d.trackable() {
			all[fmt.Sprintf("scsi%d:%d.ctkEnabled", d.controller, d.unit)] = "TRUE"
		}
	}
	var out []types.BaseOptionValue
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, &types.OptionValue{Key: k, Value: all[k]})
	}
	return out
}

func (m *machine) runtime() types.VirtualMachineRuntimeInfo {
	host := m.host.ref
	r := types.VirtualMachineRuntimeInfo{
		Host: &host, ConnectionState: types.VirtualMachineConnectionStateConnected, PowerState: m.power, BootTime: m.bootTime,
		FaultToleranceState: types.VirtualMachineFaultToleranceStateNotConfigured, ConsolidationNeeded: m.needs,
		RecordReplayState: types.VirtualMachineRecordReplayStateInactive, CleanPowerOff: types.NewBool(m.power != types.VirtualMachinePowerStatePoweredOn),
		Paused: types.NewBool(false), SnapshotInBackground: types.NewBool(false), Question: m.question,
	}
	if m.decl.FaultTolerance {
		r.FaultToleranceState = types.VirtualMachineFaultToleranceStateRunning
	}
	if m.connected() != nil {
		r.ConnectionState = types.VirtualMachineConnectionStateDisconnected
	}
	return r
}

func (m *machine) running() bool { return m.power == types.VirtualMachinePowerStatePoweredOn }

func (m *machine) toolsVersion() int32 {
	if m.noTools {
		return 0
	}
	return 12389
}

func (m *machine) toolsRunning() types.VirtualMachineToolsRunningStatus {
	if m.noTools || !m.running() {
		return types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	}
	return m.tools
}

func (m *machine) toolsStatus() types.VirtualMachineToolsStatus {
	switch {
	case m.noTools:
		return types.VirtualMachineToolsStatusToolsNotInstalled
	case m.toolsRunning() == types.VirtualMachineToolsRunningStatusGuestToolsRunning:
		return types.VirtualMachineToolsStatusToolsOk
	}
	return types.VirtualMachineToolsStatusToolsNotRunning
}

func (m *machine) guest() *types.GuestInfo {
	g := &types.GuestInfo{
		ToolsStatus: m.toolsStatus(), ToolsRunningStatus: string(m.toolsRunning()), ToolsVersion: fmt.Sprint(m.toolsVersion()),
		ToolsVersionStatus2: string(types.VirtualMachineToolsVersionStatusGuestToolsCurrent), GuestId: m.decl.Guest, GuestFullName: guestName(m.decl.Guest),
		GuestFamily: guestFamily(m.decl.Guest), GuestState: string(types.VirtualMachineGuestStateNotRunning),
	}
	if m.noTools {
		g.ToolsVersionStatus2 = string(types.VirtualMachineToolsVersionStatusGuestToolsNotInstalled)
	}
	if m.toolsRunning() == types.VirtualMachineToolsRunningStatusGuestToolsRunning {
		g.GuestState = string(types.VirtualMachineGuestStateRunning)
		g.HostName = m.title()
		g.IpAddress = m.decl.Address
		for _, n := range m.nics {
			info := types.GuestNicInfo{Network: n.spec.Network, MacAddress: n.mac, Connected: !n.off, DeviceConfigId: n.key}
			if n.spec.Address != "" {
				info.IpAddress = []string{n.spec.Address}
				orElse(&g.IpAddress, n.spec.Address)
			}
			g.Net = append(g.Net, info)
		}
	}
	return g
}

func (m *machine) summary() types.VirtualMachineSummary {
	ref := m.ref
	guest := m.guest()
	return types.VirtualMachineSummary{
		Vm: &ref, Runtime: m.runtime(), OverallStatus: types.ManagedEntityStatusGreen,
		Guest: &types.VirtualMachineGuestSummary{
			GuestId: guest.GuestId, GuestFullName: guest.GuestFullName, ToolsStatus: guest.ToolsStatus, ToolsRunningStatus: guest.ToolsRunningStatus,
			ToolsVersionStatus2: guest.ToolsVersionStatus2, HostName: guest.HostName, IpAddress: guest.IpAddress,
		},
		Config: types.VirtualMachineConfigSummary{
			Name: m.title(), Template: m.decl.Template, VmPathName: m.home.path(m.folder, m.folder+".vmx"), MemorySizeMB: int32(m.memory >> 20),
			NumCpu: int32(m.cpus), NumEthernetCards: int32(len(m.nics)), NumVirtualDisks: int32(len(m.disks)), Uuid: m.uuid, InstanceUuid: m.inst,
			GuestId: m.decl.Guest, GuestFullName: guestName(m.decl.Guest), Annotation: m.note, HwVersion: fmt.Sprintf("vmx-%02d", m.decl.Hardware),
		},
		Storage:    m.storageSummary(),
		QuickStats: types.VirtualMachineQuickStats{GuestHeartbeatStatus: types.ManagedEntityStatusGreen},
	}
}

func (m *machine) storageSummary() *types.VirtualMachineStorageSummary {
	s := &types.VirtualMachineStorageSummary{Timestamp: time.Now().UTC()}
	for _, d := range m.disks {
		used := d.disk.Used()
		s.Committed += used
		s.Unshared += used
		s.Uncommitted += max(0, d.disk.Capacity()-used)
	}
	return s
}

func (m *machine) storage() *types.VirtualMachineStorageInfo {
	info := &types.VirtualMachineStorageInfo{Timestamp: time.Now().UTC()}
	by := map[*store]*types.VirtualMachineUsageOnDatastore{}
	for _, d := range m.disks {
		u := by[d.store]
		if u == nil {
			u = &types.VirtualMachineUsageOnDatastore{Datastore: d.store.ref}
			by[d.store] = u
		}
		used := d.disk.Used()
		u.Committed += used
		u.Unshared += used
		u.Uncommitted += max(0, d.disk.Capacity()-used)
	}
	for _, u := range by {
		info.PerDatastoreUsage = append(info.PerDatastoreUsage, *u)
	}
	slices.SortFunc(info.PerDatastoreUsage, func(a, b types.VirtualMachineUsageOnDatastore) int {
		return compareRefs(a.Datastore, b.Datastore)
	})
	return info
}

// stores are the datastores on which the machine has files, its home first.
func (m *machine) stores() []types.ManagedObjectReference {
	out := []types.ManagedObjectReference{m.home.ref}
	for _, d := range m.disks {
		if !slices.Contains(out, d.store.ref) {
			out = append(out, d.store.ref)
		}
	}
	return out
}

// layout lists the machine's files: those of the whole chain of each disk, and each snapshot's.
func (m *machine) layout() *types.VirtualMachineFileLayoutEx {
	l := &types.VirtualMachineFileLayoutEx{Timestamp: time.Now().UTC()}
	add := func(name, kind string, size int64) int32 {
		key := int32(len(l.File))
		l.File = append(l.File, types.VirtualMachineFileLayoutExFileInfo{
			Key: key, Name: name, Type: kind, Size: size, UniqueSize: size, Accessible: types.NewBool(true),
		})
		return key
	}
	add(m.home.path(m.folder, m.folder+".vmx"), "config", 2048)
	add(m.home.path(m.folder, m.folder+".nvram"), "nvram", 8684)
	keys := map[string]int32{}
	for _, d := range m.disks {
		chain := d.disk.Chain("")
		var units []types.VirtualMachineFileLayoutExDiskUnit
		for i := len(chain) - 1; i >= 0; i-- {
			path := d.store.path(d.dir(), chain[i])
			key, ok := keys[path]
			if !ok {
				key = add(path, "diskDescriptor", 512)
				keys[path] = key
				file := extentOf(chain[i], i == len(chain)-1)
				keys[path+"\x00"] = add(d.store.path(d.dir(), file), "diskExtent", d.store.blocks(d.dir(), file))
			}
			units = append(units, types.VirtualMachineFileLayoutExDiskUnit{FileKey: []int32{key, keys[path+"\x00"]}})
		}
		l.Disk = append(l.Disk, types.VirtualMachineFileLayoutExDiskLayout{Key: d.key, Chain: units})
	}
	m.walk(func(s *snapshot) {
		l.Snapshot = append(l.Snapshot, types.VirtualMachineFileLayoutExSnapshotLayout{
			Key: s.ref, DataKey: add(m.home.path(m.folder, s.file), "snapshotData", 28000), MemoryKey: -1, Disk: l.Disk,
		})
	})
	return l
}

func (m *machine) snapshotInfo() any {
	if len(m.roots) == 0 {
		return nil
	}
	info := types.VirtualMachineSnapshotInfo{RootSnapshotList: m.tree(m.roots)}
	if m.current != nil {
		ref := m.current.ref
		info.CurrentSnapshot = &ref
	}
	return &info
}

func (m *machine) tree(list []*snapshot) []types.VirtualMachineSnapshotTree {
	var out []types.VirtualMachineSnapshotTree
	for _, s := range list {
		out = append(out, types.VirtualMachineSnapshotTree{
			Snapshot: s.ref, Vm: m.ref, Name: s.name, Description: s.text, Id: s.id, CreateTime: s.created, State: s.power, Quiesced: s.quiesced,
			ReplaySupported: types.NewBool(false), ChildSnapshotList: m.tree(s.children),
		})
	}
	return out
}

func (m *machine) rootRefs() []types.ManagedObjectReference {
	return refsOf(m.roots)
}

func refsOf(list []*snapshot) []types.ManagedObjectReference {
	out := []types.ManagedObjectReference{}
	for _, s := range list {
		out = append(out, s.ref)
	}
	return out
}

// render shows the snapshot's configuration: as it was, but for the names of files, which change when other snapshots are merged.
func (s *snapshot) render() types.VirtualMachineConfigInfo {
	var disks []types.BaseVirtualDevice
	for _, f := range s.disks {
		point := ""
		if f.frozen {
			point = s.point()
		}
		disks = append(disks, f.disk.render(point, f.changeID, f.capacity))
	}
	c := s.config
	c.Hardware.Device = s.machine.devices(disks)
	return c
}

// showSnapshots renders all snapshots of the machine anew.
func (m *machine) showSnapshots() {
	m.walk(func(s *snapshot) {
		m.vc.update(s.mo, set("config", s.render()), set("childSnapshot", refsOf(s.children)))
	})
}

func compareRefs(a, b types.ManagedObjectReference) int {
	switch {
	case a.Value < b.Value:
		return -1
	case a.Value > b.Value:
		return 1
	}
	return 0
}

func knownGuest(id string) bool {
	return slices.Contains(simulator.GuestID, types.VirtualMachineGuestOsIdentifier(id))
}
