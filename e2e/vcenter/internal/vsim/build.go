package vsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/disk"
)

type network struct {
	ref  types.ManagedObjectReference
	name string
	mo   *mo.Network
}

func itoa(n int) string { return strconv.Itoa(n) }

// build makes the inventory. Datacenters and hosts are made by govmomi's own calls, machines by hand: its CreateVM writes five files and
// renders everything a dozen times, 30 ms each, which is too slow for hundreds.
func (v *VC) build(o Options) error {
	ctx := context.Background()
	client, err := vim25.NewClient(ctx, v.service)
	if err != nil {
		return err
	}
	si := v.reg.Get(vim25.ServiceInstance).(*simulator.ServiceInstance)
	v.root = si.Content.RootFolder
	v.service.Listen = &url.URL{Scheme: "https", Path: "/sdk", User: url.UserPassword("nobody", randomHex(16))}
	if o.URL != nil {
		v.service.Listen.Host = o.URL.Host
		v.reg.SessionManager().ServiceHostName = o.URL.Host
	}
	networks := map[string]map[string]*network{}
	for _, dc := range v.inv.Datacenters {
		if networks[dc.Name], err = v.buildDatacenter(ctx, client, dc); err != nil {
			return fmt.Errorf("datacenter %s: %w", dc.Name, err)
		}
	}
	for _, h := range v.hosts {
		h.present()
	}
	about := &si.Content.About
	about.Name, about.FullName = "VMware vCenter Server", "VMware vCenter Server "+v.inv.Version+" build-24022515"
	about.Version, about.Build, about.ApiVersion = v.inv.Version, "24022515", v.apiVersion()
	about.InstanceUuid = v.stableUUID("vcenter").String()
	for _, decl := range v.inv.VMs {
		if err := v.buildMachine(decl, networks[decl.Datacenter]); err != nil {
			return fmt.Errorf("vm %s: %w", decl.Name, err)
		}
	}
	return v.buildUsers(o.Users)
}

func (v *VC) buildDatacenter(ctx context.Context, client *vim25.Client, decl Datacenter) (map[string]*network, error) {
	made, err := object.NewRootFolder(client).CreateDatacenter(ctx, decl.Name)
	if err != nil {
		return nil, err
	}
	folders, err := made.Folders(ctx)
	if err != nil {
		return nil, err
	}
	dc := v.reg.Get(made.Reference()).(*simulator.Datacenter)
	nets := map[string]*network{}
	netFolder := v.reg.Get(folders.NetworkFolder.Reference()).(*simulator.Folder)
	for _, ref := range netFolder.ChildEntity {
		if n, ok := v.reg.Get(ref).(*mo.Network); ok {
			nets[n.Name] = &network{ref: ref, name: n.Name, mo: n}
		}
	}
	for _, name := range decl.Networks {
		if nets[name] != nil {
			continue
		}
		n := &mo.Network{}
		n.Name = name
		v.reg.PutEntity(netFolder, v.reg.NewEntity(n))
		ref := n.Self
		n.Summary = &types.NetworkSummary{Network: &ref, Name: name, Accessible: true}
		netFolder.ChildEntity = append(netFolder.ChildEntity, ref)
		dc.Network = append(dc.Network, ref)
		nets[name] = &network{ref: ref, name: name, mo: n}
	}
	add := func(h Host, pool types.ManagedObjectReference, wait func(types.HostConnectSpec) (*object.Task, error)) error {
		task, err := wait(types.HostConnectSpec{HostName: h.Name})
		if err != nil {
			return err
		}
		info, err := task.WaitForResult(ctx, nil)
		if err != nil {
			return err
		}
		return v.buildHost(h, info.Result.(types.ManagedObjectReference), pool, dc)
	}
	for _, c := range decl.Clusters {
		cluster, err := folders.HostFolder.CreateCluster(ctx, c.Name, types.ClusterConfigSpecEx{})
		if err != nil {
			return nil, err
		}
		pool, err := cluster.ResourcePool(ctx)
		if err != nil {
			return nil, err
		}
		for _, h := range c.Hosts {
			if err := add(h, pool.Reference(), func(s types.HostConnectSpec) (*object.Task, error) {
				return cluster.AddHost(ctx, s, true, nil, nil)
			}); err != nil {
				return nil, err
			}
		}
	}
	for _, h := range decl.Hosts {
		if err := add(h, types.ManagedObjectReference{}, func(s types.HostConnectSpec) (*object.Task, error) {
			return folders.HostFolder.AddStandaloneHost(ctx, s, true, nil, nil)
		}); err != nil {
			return nil, err
		}
	}
	for _, ds := range decl.Datastores {
		if err := v.buildStore(ctx, client, ds, dc); err != nil {
			return nil, fmt.Errorf("datastore %s: %w", ds.Name, err)
		}
	}
	return nets, nil
}

func (v *VC) buildHost(decl Host, ref, pool types.ManagedObjectReference, dc *simulator.Datacenter) error {
	hs := v.reg.Get(ref).(*simulator.HostSystem)
	if pool.Value == "" {
		cr, ok := v.reg.Get(*hs.Parent).(*mo.ComputeResource)
		if !ok {
			return errors.New("it has no compute resource")
		}
		pool = *cr.ResourcePool
	}
	h := &host{
		vc: v, ref: ref, name: decl.Name, hs: hs, pool: pool, dc: dc,
		state: types.HostSystemConnectionState(decl.State), maintenance: decl.Maintenance,
	}
	h.decl = decl
	v.hosts[h.name] = h
	return nil
}

// present shows the host's version and state. Not before all hosts are there: govmomi's AddHost parses the versions of those already
// present, and panics on those it does not know.
func (h *host) present() {
	v, decl, hs := h.vc, h.decl, h.hs
	product := types.AboutInfo{
		Name: "VMware ESXi", FullName: "VMware ESXi " + decl.Version + " build-" + decl.Build, Vendor: "VMware, Inc.", Version: decl.Version,
		Build: decl.Build, OsType: "vmnix-x86", ProductLineId: "embeddedEsx", ApiType: "HostAgent", ApiVersion: decl.Version + ".0",
		LicenseProductName: "VMware ESX Server", LicenseProductVersion: strings.SplitN(decl.Version, ".", 2)[0] + ".0",
	}
	// Not by update: govmomi's hosts share what their template points to.
	config, own := *hs.Config, product
	config.Product = product
	hs.Config, hs.Summary.Config.Product = &config, &own
	v.update(hs, set("runtime.connectionState", h.state), set("summary.runtime.connectionState", h.state),
		set("runtime.inMaintenanceMode", h.maintenance), set("summary.runtime.inMaintenanceMode", h.maintenance))
}

func (v *VC) buildStore(ctx context.Context, client *vim25.Client, decl Datastore, dc *simulator.Datacenter) error {
	s := &store{vc: v, name: decl.Name, decl: decl, dc: dc, dir: path.Join(v.dir, decl.Name)}
	s.capacity.Store(int64(decl.Capacity))
	s.shown.Store(-1)
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	for _, name := range decl.Hosts {
		system, err := object.NewHostSystem(client, v.hosts[name].ref).ConfigManager().DatastoreSystem(ctx)
		if err != nil {
			return err
		}
		ds, err := system.CreateLocalDatastore(ctx, decl.Name, s.dir)
		if err != nil {
			return err
		}
		if ref := ds.Reference(); ref.Value != "" {
			s.ref = ref // the second host mounts the same one, and govmomi then answers nothing
		}
	}
	s.ds = v.reg.Get(s.ref).(*simulator.Datastore)
	now := time.Now().UTC()
	s.ds.Info = &types.VmfsDatastoreInfo{
		DatastoreInfo: types.DatastoreInfo{
			Name: s.name, Url: s.dir, FreeSpace: s.free(), MaxFileSize: 62 << 40, MaxMemoryFileSize: 62 << 40, Timestamp: &now,
		},
		Vmfs: &types.HostVmfsVolume{
			HostFileSystemVolume: types.HostFileSystemVolume{Type: "VMFS", Name: s.name, Capacity: int64(decl.Capacity)},
			BlockSizeMb:          1, MaxBlocks: 63 << 20, MajorVersion: 6, Version: "6.82", Uuid: v.stableUUID("datastore", s.name).String(),
		},
	}
	s.ds.Summary.Type = decl.Type
	s.ds.Summary.Capacity = int64(decl.Capacity)
	s.ds.Summary.MultipleHostAccess = types.NewBool(len(decl.Hosts) > 1)
	v.stores[s.name] = s
	return nil
}

// folderFor finds or makes the folder of a machine below its datacenter's vm folder.
func (v *VC) folderFor(dc *simulator.Datacenter, names string) *simulator.Folder {
	at := v.reg.Get(dc.VmFolder).(*simulator.Folder)
	for _, name := range strings.FieldsFunc(names, func(r rune) bool { return r == '/' }) {
		if next, ok := v.reg.FindByName(name, at.ChildEntity).(*simulator.Folder); ok {
			at = next
			continue
		}
		next := &simulator.Folder{}
		next.Name, next.ChildType = name, slices.Clone(at.ChildType)
		v.reg.PutEntity(at, v.reg.NewEntity(next))
		at.ChildEntity = append(at.ChildEntity, next.Self)
		at = next
	}
	return at
}

func (v *VC) buildMachine(decl VM, nets map[string]*network) error {
	h, home := v.hosts[decl.Host], v.stores[decl.Datastore]
	m := &machine{
		vc: v, vm: &simulator.VirtualMachine{}, decl: decl, name: decl.Name, dc: h.dc, host: h, home: home, folder: decl.Name,
		cbt: decl.CBT, note: decl.Annotation, cpus: decl.CPUs, memory: int64(decl.Memory), generated: v.started.UTC(),
		power: map[string]types.VirtualMachinePowerState{"on": on, "off": off, "suspended": suspended}[decl.Power],
	}
	if decl.Template {
		m.power = off
	}
	if err := m.setTools(decl.Tools); err != nil {
		return err
	}
	// vSphere's own: BIOS UUIDs begin with 42, instance UUIDs with 50.
	m.uuid = "42" + v.stableUUID("bios", decl.Datacenter, decl.Name).String()[2:]
	m.inst = "50" + v.stableUUID("instance", decl.Datacenter, decl.Name).String()[2:]
	if m.power == on {
		m.bootTime = types.NewTime(v.started.UTC())
	}
	if err := os.MkdirAll(home.local(m.folder, ""), 0o755); err != nil {
		return err
	}
	vmx := fmt.Sprintf("displayName = %q\nuuid.bios = %q\n", m.name, m.uuid)
	if err := os.WriteFile(home.local(m.folder, m.folder+".vmx"), []byte(vmx), 0o644); err != nil {
		return err
	}
	parent := v.folderFor(h.dc, decl.Folder)
	v.reg.NewEntity(m.vm)
	m.ref = m.vm.Self
	for i, n := range decl.NICs {
		m.nics = append(m.nics, v.buildNIC(m, i, n, nets[n.Network]))
	}
	for i, spec := range decl.Disks {
		d, err := m.newDisk(spec)
		if err == nil {
			m.disks = append(m.disks, d)
			err = fill(d.disk, spec.Content)
		}
		if err != nil {
			return fmt.Errorf("disk %d: %w", i+1, err)
		}
	}
	m.track(m.cbt)
	m.stun()
	m.fillObject()
	v.place(m, parent)
	v.machines[m.ref.Value] = m
	return nil
}

// fillObject sets the properties for the first time, before anybody can see the object: no listener need be told.
func (m *machine) fillObject() {
	vm := m.vm
	vm.Name = m.name
	vm.Config = m.config()
	vm.Runtime = m.runtime()
	vm.Guest = m.guest()
	vm.Summary = m.summary()
	vm.LayoutEx = m.layout()
	vm.Layout = &types.VirtualMachineFileLayout{}
	vm.Storage = m.storage()
	vm.Datastore = m.stores()
	pool := m.host.pool
	vm.ResourcePool = &pool
	switch cr := m.vc.reg.Get(*m.host.hs.Parent).(type) {
	case *mo.ComputeResource:
		vm.EnvironmentBrowser = *cr.EnvironmentBrowser
	case *simulator.ClusterComputeResource:
		vm.EnvironmentBrowser = *cr.EnvironmentBrowser
	}
	vm.GuestHeartbeatStatus = types.ManagedEntityStatusGreen
	vm.Snapshot, _ = m.snapshotInfo().(*types.VirtualMachineSnapshotInfo)
	vm.RootSnapshot = m.rootRefs()
	vm.DataSets = map[string]*simulator.DataSet{}
	yes := true
	vm.Capability = types.VirtualMachineCapability{
		SnapshotOperationsSupported: true, MultipleSnapshotsSupported: true, SnapshotConfigSupported: true, PoweredOffSnapshotsSupported: true,
		MemorySnapshotsSupported: true, RevertToSnapshotSupported: true, QuiescedSnapshotsSupported: true,
		DiskOnlySnapshotOnSuspendedVMSupported: &yes,
		ChangeTrackingSupported:                *m.decl.CBTSupported, ToolsSyncTimeSupported: true,
	}
	for _, n := range m.nics {
		if !slices.Contains(vm.Network, n.network.ref) {
			vm.Network = append(vm.Network, n.network.ref)
		}
	}
}

func (v *VC) buildNIC(m *machine, i int, spec NIC, n *network) *nic {
	mac := spec.MAC
	if mac == "" {
		// The range of addresses that vCenter gives: 00:50:56 and below 40.
		id := v.stableUUID("mac", m.inst, itoa(i))
		mac = fmt.Sprintf("00:50:56:%02x:%02x:%02x", 0x80|id[0]&0x3f, id[1], id[2])
	}
	return &nic{key: keyNIC + int32(i), unit: int32(7 + i), spec: spec, mac: mac, network: n}
}

// fill writes a disk's first content.
func fill(d *disk.Disk, c Content) error {
	for _, p := range c {
		switch {
		case p.File != "":
			f, err := os.Open(p.File)
			if err != nil {
				return err
			}
			err = pour(d, f, int64(p.At))
			if err := errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("%s: %w", p.File, err)
			}
		case p.Text != "":
			length := int(max(p.Length, Size(len(p.Text))))
			text := strings.Repeat(p.Text, length/len(p.Text)+1)[:length]
			if err := pour(d, strings.NewReader(text), int64(p.At)); err != nil {
				return err
			}
		default:
			buf := make([]byte, 1<<20)
			for _, e := range p.Extents {
				for at, end := int64(e.Offset), int64(e.Offset+e.Length); at < end; {
					b := buf[:min(int64(len(buf)), end-at)]
					disk.Pattern(p.Seed, at, b)
					if _, err := d.WriteAt(b, at); err != nil {
						return err
					}
					at += int64(len(b))
				}
			}
		}
	}
	return nil
}

func pour(d *disk.Disk, r io.Reader, at int64) error {
	buf := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, werr := d.WriteAt(buf[:n], at); werr != nil {
				return werr
			}
			at += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// buildUsers makes accounts, roles and permissions.
func (v *VC) buildUsers(extra map[string]string) error {
	am := v.reg.Get(*v.content().AuthorizationManager).(*simulator.AuthorizationManager)
	for _, id := range privilegeList() {
		group, name := "", id
		if at := strings.LastIndex(id, "."); at > 0 {
			group, name = id[:at], id[at+1:]
		}
		am.PrivilegeList = append(am.PrivilegeList, types.AuthorizationPrivilege{PrivId: id, OnParent: false, Name: name, PrivGroupName: group})
	}
	permissions := map[types.ManagedObjectReference][]types.Permission{}
	for _, decl := range v.inv.Users {
		u := &user{name: decl.Name, password: decl.Password, grants: map[types.ManagedObjectReference]grant{}}
		for _, p := range decl.Permissions {
			ref, err := v.byPath(p.Entity)
			if err != nil {
				return fmt.Errorf("user %s: %w", decl.Name, err)
			}
			g := grant{privileges: map[string]bool{}, propagate: p.Propagate == nil || *p.Propagate}
			roleID := int32(-5) // NoAccess
			switch p.Role {
			case "Admin":
				g.all, roleID = true, -1
			case "ReadOnly":
				roleID = -2
			case "":
				role := types.AuthorizationRole{
					RoleId: int32(1000 + len(am.RoleList)), Name: decl.Name + "-" + itoa(len(am.RoleList)),
					Info:      &types.Description{Label: decl.Name, Summary: decl.Name},
					Privilege: slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(readOnly), p.Privileges...)))),
				}
				am.RoleList = append(am.RoleList, role)
				roleID = role.RoleId
			}
			if p.Role != "NoAccess" {
				for _, id := range append(slices.Clone(readOnly), p.Privileges...) {
					g.privileges[id] = true
				}
			}
			u.grants[ref] = g
			permissions[ref] = append(permissions[ref], types.Permission{
				Entity: &ref, Principal: strings.ToUpper(decl.Name), RoleId: roleID, Propagate: g.propagate,
			})
		}
		v.users[account(decl.Name)] = u
	}
	for name, password := range extra {
		key := account(name)
		if u := v.users[key]; u != nil {
			u.password = password
			continue
		}
		v.users[key] = &user{name: name, password: password, grants: map[types.ManagedObjectReference]grant{
			v.root: {all: true, propagate: true, privileges: map[string]bool{}},
		}}
	}
	for ref, list := range permissions {
		am.SetEntityPermissions(&types.SetEntityPermissions{Entity: ref, Permission: list})
	}
	return nil
}

// byPath finds an entity by its inventory path.
func (v *VC) byPath(p string) (types.ManagedObjectReference, error) {
	if p == "/" {
		return v.root, nil
	}
	res := v.reg.SearchIndex().FindByInventoryPath(v.ctx(), &types.FindByInventoryPath{InventoryPath: strings.TrimPrefix(p, "/")})
	if body, ok := res.(*methods.FindByInventoryPathBody); ok && body.Res != nil && body.Res.Returnval != nil {
		return *body.Res.Returnval, nil
	}
	return types.ManagedObjectReference{}, fmt.Errorf("there is no entity %q: give an inventory path such as / or /DC1/vm/prod", p)
}
