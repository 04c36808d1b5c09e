package vsim

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

func oneOf(what, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s %q is none of %s", what, value, strings.Join(allowed, ", "))
}

func orElse[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

// complete fills in defaults, makes the generated VMs, and checks that all that is named exists.
func (inv *Inventory) complete() error {
	orElse(&inv.Name, "sandbox")
	orElse(&inv.Version, "8.0.3")
	if err := inv.Settings.complete(); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if len(inv.Datacenters) == 0 {
		return fmt.Errorf("no datacenters: declare at least one, with a host and a datastore")
	}
	hosts := map[string]string{}
	stores := map[string]string{}
	for i := range inv.Datacenters {
		dc := &inv.Datacenters[i]
		if err := dc.complete(inv.Version, hosts, stores); err != nil {
			return fmt.Errorf("datacenter %q: %w", dc.Name, err)
		}
	}
	if err := inv.completeUsers(); err != nil {
		return err
	}
	for _, g := range inv.Generate {
		if g.Prefix == "" || g.Count <= 0 {
			return fmt.Errorf("generate: each entry needs a prefix and a count above 0")
		}
		for n := 1; n <= g.Count; n++ {
			vm := g.VM
			vm.Name = fmt.Sprintf("%s-%d", g.Prefix, n)
			vm.Controllers = slices.Clone(g.VM.Controllers)
			vm.NICs = slices.Clone(g.VM.NICs)
			vm.Disks = slices.Clone(g.VM.Disks)
			inv.VMs = append(inv.VMs, vm)
		}
	}
	names := map[string]bool{}
	for i := range inv.VMs {
		vm := &inv.VMs[i]
		if err := inv.completeVM(vm, i); err != nil {
			return fmt.Errorf("vm %q: %w", vm.Name, err)
		}
		if key := vm.Datacenter + "\x00" + vm.Name; names[key] {
			// vCenter wants names unique in a folder only; here each also names a datastore folder.
			return fmt.Errorf("vm %q is declared twice in datacenter %q: give each its own name", vm.Name, vm.Datacenter)
		} else {
			names[key] = true
		}
	}
	return nil
}

func (s *Settings) complete() error {
	orElse(&s.SessionIdle, Duration(30*time.Minute))
	orElse(&s.MaxSessions, 3000) // KB 375546: the default of vCenter 8.0 U3.
	orElse(&s.GuestShutdown, Duration(time.Second))
	orElse(&s.BusyFault, "call")
	orElse(&s.MaxSnapshotDepth, 32)
	orElse(&s.SnapshotReserve, Size(1<<20))
	orElse(&s.VDDKDisks, 52)
	orElse(&s.VDDKDisksPerHost, 50)
	orElse(&s.Growth, "keeps")
	if err := oneOf("busyFault", s.BusyFault, "call", "task"); err != nil {
		return err
	}
	return oneOf("growth", s.Growth, "keeps", "resets", "breaks")
}

func (dc *Datacenter) complete(version string, hosts, stores map[string]string) error {
	if dc.Name == "" {
		return fmt.Errorf("it has no name")
	}
	if len(dc.Networks) == 0 {
		dc.Networks = []string{"VM Network"}
	}
	var mine []string
	one := func(h *Host) error {
		if h.Name == "" {
			return fmt.Errorf("a host has no name")
		}
		if hosts[h.Name] != "" {
			return fmt.Errorf("host %q is declared twice", h.Name)
		}
		hosts[h.Name] = dc.Name
		mine = append(mine, h.Name)
		orElse(&h.Version, version)
		orElse(&h.Build, "24022510")
		orElse(&h.State, "connected")
		return oneOf("host "+h.Name+": state", h.State, "connected", "disconnected", "notResponding")
	}
	for i := range dc.Clusters {
		c := &dc.Clusters[i]
		if c.Name == "" {
			return fmt.Errorf("a cluster has no name")
		}
		for j := range c.Hosts {
			if err := one(&c.Hosts[j]); err != nil {
				return err
			}
		}
	}
	for i := range dc.Hosts {
		if err := one(&dc.Hosts[i]); err != nil {
			return err
		}
	}
	if len(mine) == 0 {
		return fmt.Errorf("it has no host: add one below `hosts` or `clusters`")
	}
	for i := range dc.Datastores {
		ds := &dc.Datastores[i]
		if ds.Name == "" || strings.ContainsAny(ds.Name, "/[]") {
			return fmt.Errorf("datastore %q: it needs a name without / [ ]", ds.Name)
		}
		if stores[ds.Name] != "" {
			return fmt.Errorf("datastore %q is declared twice", ds.Name)
		}
		stores[ds.Name] = dc.Name
		orElse(&ds.Type, "VMFS")
		orElse(&ds.Capacity, Size(1<<40))
		if ds.Allocated == "" {
			ds.Allocated = "exact"
			if ds.Type != "VMFS" {
				ds.Allocated = "whole"
			}
		}
		if err := oneOf("datastore "+ds.Name+": type", ds.Type, "VMFS", "NFS", "vsan"); err != nil {
			return err
		}
		if err := oneOf("datastore "+ds.Name+": allocated", ds.Allocated, "exact", "whole", "fault"); err != nil {
			return err
		}
		if len(ds.Hosts) == 0 {
			ds.Hosts = mine
		}
		for _, h := range ds.Hosts {
			if !slices.Contains(mine, h) {
				return fmt.Errorf("datastore %q: host %q is not in this datacenter", ds.Name, h)
			}
		}
	}
	if len(dc.Datastores) == 0 {
		return fmt.Errorf("it has no datastore: add one with a name and a capacity")
	}
	return nil
}

func (inv *Inventory) completeUsers() error {
	admin := false
	for i := range inv.Users {
		u := &inv.Users[i]
		if u.Name == "" {
			return fmt.Errorf("users: a user has no name")
		}
		orElse(&u.Password, "sandbox")
		admin = admin || strings.EqualFold(u.Name, Administrator)
		for j := range u.Permissions {
			p := &u.Permissions[j]
			orElse(&p.Entity, "/")
			if (p.Role == "") == (len(p.Privileges) == 0) {
				return fmt.Errorf("user %q: each permission has either a role (Admin, ReadOnly, NoAccess) or privileges", u.Name)
			}
			if p.Role != "" {
				if err := oneOf("user "+u.Name+": role", p.Role, "Admin", "ReadOnly", "NoAccess"); err != nil {
					return err
				}
			}
			for _, id := range p.Privileges {
				if !knownPrivilege(id) {
					return fmt.Errorf("user %q: vCenter has no privilege %q", u.Name, id)
				}
			}
		}
	}
	if !admin {
		inv.Users = append(inv.Users, User{Name: Administrator, Password: "sandbox", Permissions: []Permission{{Entity: "/", Role: "Admin"}}})
	}
	return nil
}

func (inv *Inventory) completeVM(vm *VM, index int) error {
	if vm.Name == "" || strings.ContainsAny(vm.Name, "/[]%\\") {
		return fmt.Errorf("it needs a name without / [ ] %% \\ (it also names a folder of the datastore)")
	}
	orElse(&vm.Datacenter, inv.Datacenters[0].Name)
	at := slices.IndexFunc(inv.Datacenters, func(d Datacenter) bool { return d.Name == vm.Datacenter })
	if at < 0 {
		return fmt.Errorf("there is no datacenter %q", vm.Datacenter)
	}
	dc := &inv.Datacenters[at]
	hosts := dc.hostNames()
	orElse(&vm.Host, hosts[index%len(hosts)])
	if !slices.Contains(hosts, vm.Host) {
		return fmt.Errorf("datacenter %q has no host %q", dc.Name, vm.Host)
	}
	var seen []string
	for _, ds := range dc.Datastores {
		if slices.Contains(ds.Hosts, vm.Host) {
			seen = append(seen, ds.Name)
		}
	}
	if len(seen) == 0 {
		return fmt.Errorf("host %q sees no datastore", vm.Host)
	}
	orElse(&vm.Datastore, seen[index%len(seen)])
	orElse(&vm.Firmware, "efi")
	orElse(&vm.Guest, "ubuntu64Guest")
	orElse(&vm.Hardware, 19)
	orElse(&vm.CPUs, 2)
	orElse(&vm.Memory, Size(2<<30))
	orElse(&vm.Tools, "running")
	orElse(&vm.Power, "on")
	if len(vm.Controllers) == 0 {
		vm.Controllers = []Controller{{}}
	}
	for i := range vm.Controllers {
		c := &vm.Controllers[i]
		orElse(&c.Type, "pvscsi")
		orElse(&c.SharedBus, "none")
		if err := oneOf("controller type", c.Type, "pvscsi", "lsilogic", "lsilogic-sas", "buslogic"); err != nil {
			return err
		}
		if err := oneOf("sharedBus", c.SharedBus, "none", "physical", "virtual"); err != nil {
			return err
		}
	}
	if len(vm.Controllers) > 4 {
		return fmt.Errorf("it has %d SCSI controllers: 4 are the most", len(vm.Controllers))
	}
	for i := range vm.NICs {
		n := &vm.NICs[i]
		orElse(&n.Network, dc.Networks[0])
		orElse(&n.Type, "vmxnet3")
		if !slices.Contains(dc.Networks, n.Network) {
			return fmt.Errorf("datacenter %q has no network %q", dc.Name, n.Network)
		}
		if err := oneOf("nic type", n.Type, "vmxnet3", "e1000", "e1000e"); err != nil {
			return err
		}
		if n.MAC != "" {
			if _, err := net.ParseMAC(n.MAC); err != nil {
				return fmt.Errorf("nic: %w", err)
			}
		}
	}
	for _, check := range []error{
		oneOf("firmware", vm.Firmware, "bios", "efi"),
		oneOf("tools", vm.Tools, "running", "notRunning", "notInstalled"),
		oneOf("power", vm.Power, "on", "off", "suspended"),
		oneOf("quiesceFails", vm.QuiesceFails, "", "application", "filesystem"),
	} {
		if check != nil {
			return check
		}
	}
	if !knownGuest(vm.Guest) {
		return fmt.Errorf("guest %q is no guest OS identifier of vSphere (ubuntu64Guest, windows2019srv_64Guest, ...)", vm.Guest)
	}
	supported := vm.Hardware >= 7
	if vm.CBTSupported != nil {
		supported = supported && *vm.CBTSupported
	}
	vm.CBTSupported = &supported
	if vm.CBT && !supported {
		return fmt.Errorf("cbt is on, but change tracking is not supported (hardware %d, cbtSupported)", vm.Hardware)
	}
	for i := range vm.Disks {
		if err := vm.Disks[i].complete(vm, seen); err != nil {
			return fmt.Errorf("disk %d: %w", i+1, err)
		}
	}
	return nil
}

func (dc *Datacenter) hostNames() []string {
	var names []string
	for _, c := range dc.Clusters {
		for _, h := range c.Hosts {
			names = append(names, h.Name)
		}
	}
	for _, h := range dc.Hosts {
		names = append(names, h.Name)
	}
	return names
}

func (d *DiskSpec) complete(vm *VM, stores []string) error {
	orElse(&d.Datastore, vm.Datastore)
	orElse(&d.Mode, "persistent")
	if !slices.Contains(stores, d.Datastore) {
		return fmt.Errorf("host %q sees no datastore %q", vm.Host, d.Datastore)
	}
	if d.Size <= 0 || d.Size%512 != 0 {
		return fmt.Errorf("size %d is not a positive multiple of 512 bytes", d.Size)
	}
	if d.Controller < 0 || d.Controller >= len(vm.Controllers) {
		return fmt.Errorf("there is no controller %d: declare it under `controllers`", d.Controller)
	}
	if err := oneOf("mode", d.Mode, "persistent", "independent_persistent", "independent_nonpersistent"); err != nil {
		return err
	}
	if d.RDM != "" {
		if err := oneOf("rdm", d.RDM, "virtual", "physical"); err != nil {
			return err
		}
	}
	for i, p := range d.Content {
		kinds := 0
		for _, has := range []bool{len(p.Extents) > 0, p.Text != "", p.File != ""} {
			if has {
				kinds++
			}
		}
		if kinds != 1 {
			return fmt.Errorf("content, piece %d: it is one of {seed, extents}, {text} or {file}", i+1)
		}
		for _, e := range p.Extents {
			if e.Length <= 0 || e.Offset+e.Length > d.Size {
				return fmt.Errorf("content, piece %d: extent %d+%d does not fit into %d bytes", i+1, e.Offset, e.Length, d.Size)
			}
		}
		if p.Text != "" && p.At+max(p.Length, Size(len(p.Text))) > d.Size {
			return fmt.Errorf("content, piece %d: the text does not fit into %d bytes", i+1, d.Size)
		}
	}
	return nil
}
