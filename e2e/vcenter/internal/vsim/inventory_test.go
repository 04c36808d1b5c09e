package vsim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

func TestInventoryFileIsStrict(t *testing.T) {
	const head = "datacenters: [{name: DC1, hosts: [{name: h1}], datastores: [{name: d1}]}]\n"
	for text, want := range map[string]string{
		"":                           "empty",
		"name: x":                    "no datacenters",
		"nmae: x\n" + head:           "nmae",
		head + "---\nname: y":        "more than one",
		"datacenters: [{name: DC1}]": "no host",
		"datacenters: [{name: DC1, hosts: [{name: h1}]}]":                                                          "no datastore",
		"datacenters: [{name: DC1, hosts: [{name: h1}, {name: h1}], datastores: [{name: d1}]}]":                    "twice",
		"datacenters: [{name: DC1, hosts: [{name: h1}], datastores: [{name: d1, hosts: [h2]}]}]":                   "h2",
		"datacenters: [{name: DC1, hosts: [{name: h1}], datastores: [{name: d1, capacity: 5 apples}]}]":            "KiB, MiB, GiB",
		head + "settings: {taskTime: soon}":                                                                        "200ms",
		head + "settings: {busyFault: both}":                                                                       "call, task",
		head + "vms: [{name: a}, {name: a}]":                                                                       "twice",
		head + "vms: [{name: a/b}]":                                                                                "without /",
		head + "vms: [{name: a, host: h9}]":                                                                        "h9",
		head + "vms: [{name: a, datacenter: DC9}]":                                                                 "DC9",
		head + "vms: [{name: a, guest: beos}]":                                                                     "beos",
		head + "vms: [{name: a, firmware: coreboot}]":                                                              "bios, efi",
		head + "vms: [{name: a, power: maybe}]":                                                                    "on, off, suspended",
		head + "vms: [{name: a, hardware: 4, cbt: true}]":                                                          "not supported",
		head + "vms: [{name: a, nics: [{network: n9}]}]":                                                           "n9",
		head + "vms: [{name: a, disks: [{size: 100}]}]":                                                            "512",
		head + "vms: [{name: a, disks: [{size: 1MiB, datastore: d9}]}]":                                            "d9",
		head + "vms: [{name: a, disks: [{size: 1MiB, controller: 2}]}]":                                            "controller 2",
		head + "vms: [{name: a, disks: [{size: 1MiB, rdm: odd}]}]":                                                 "virtual, physical",
		head + "vms: [{name: a, disks: [{size: 1MiB, content: full}]}]":                                            "`empty`",
		head + "vms: [{name: a, disks: [{size: 1MiB, content: {sede: 1}}]}]":                                       "sede",
		head + "vms: [{name: a, disks: [{size: 1MiB, content: {seed: 1}}]}]":                                       "one of {seed, extents}",
		head + "vms: [{name: a, disks: [{size: 1MiB, content: {seed: 1, extents: [{offset: 1MiB, length: 1}]}}]}]": "does not fit",
		head + "users: [{name: u, permissions: [{role: King}]}]":                                                   "King",
		head + "users: [{name: u, permissions: [{privileges: [No.Such]}]}]":                                        "No.Such",
		head + "users: [{name: u, permissions: [{entity: /}]}]":                                                    "either a role",
		head + "generate: [{prefix: x}]":                                                                           "count",
	} {
		_, err := ParseInventory([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q\n got %v\nwant something with %q", text, err, want)
		}
	}
	inv, err := ParseInventory([]byte(head + "users: [{name: u, permissions: [{entity: /DC1/vm/nothing, role: Admin}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(inv, Options{State: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "/DC1/vm/nothing") {
		t.Errorf("a permission on nothing: %v", err)
	}
}

func TestTheSandboxesOwnInventory(t *testing.T) {
	inv, err := LoadInventory("../../../sandbox/inventory.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b := startInventory(t, inv)
	vms, err := b.ctl.VMs()
	b.must(err)
	equal(b, len(vms), 12)
	web := b.props("web-1")
	equal(b, len(disksOf(web.Config.Hardware.Device)), 3)
	equal(b, web.Config.Firmware, "efi")
	equal(b, web.Guest.Net[0].IpAddress[0], "192.0.2.11")
	// Its account for replication can do one whole cycle.
	w := b.as("hawser@vsphere.local")
	s := w.snap("web-1")
	_, err = w.query("web-1", &s.ref, 2000, 0, "*")
	b.must(err)
	c, err := b.connect("hawser@vsphere.local", "sandbox", b.vm("web-1").Reference().Value, s.ref.Value)
	b.must(err)
	d, err := c.Open(flat(s.disks[0]).FileName, 1<<2)
	b.must(err)
	b.must(d.Close())
	_, err = w.remove(s)
	b.must(err)
	b.must(w.consolidate("web-1"))
	_, err = w.vm("web-1").Destroy(w.ctx)
	refused[types.NoPermission](b, err)
}

func TestHardwareThatCannotBeReplicatedIsShown(t *testing.T) {
	b := start(t)
	odd := disksOf(b.props("odd").Config.Hardware.Device)
	equal(b, flat(odd[1]).DiskMode, "independent_persistent")
	for i, mode := range map[int]string{2: "physicalMode", 3: "virtualMode"} {
		equal(b, odd[i].Backing.(*types.VirtualDiskRawDiskMappingVer1BackingInfo).CompatibilityMode, mode)
	}
	equal(b, flat(disksOf(b.props("multi").Config.Hardware.Device)[0]).Sharing, "sharingMultiWriter")
	equal(b, flat(disksOf(b.props("crypt").Config.Hardware.Device)[0]).KeyId.KeyId, "k1")
	equal(b, b.props("crypt").Config.KeyId.KeyId, "k1")
	ft := b.props("ft")
	if ft.Config.FtInfo == nil || ft.Runtime.FaultToleranceState != types.VirtualMachineFaultToleranceStateRunning {
		t.Error("fault tolerance does not show")
	}
	equal(b, b.props("tmpl").Config.Template, true)
	equal(b, b.props("ancient").Config.Version, "vmx-04")
	for _, d := range b.props("shared").Config.Hardware.Device {
		if c, ok := d.(types.BaseVirtualSCSIController); ok {
			equal(b, c.GetVirtualSCSIController().SharedBus, types.VirtualSCSISharingPhysicalSharing)
			equal(b, c.GetVirtualSCSIController().Key, int32(1000))
		}
	}
}

func TestIdentitiesAreStable(t *testing.T) {
	ids := func() string {
		b := start(t)
		p := b.props("web")
		return b.c.ServiceContent.About.InstanceUuid + p.Config.InstanceUuid + p.Config.Uuid + flat(disksOf(p.Config.Hardware.Device)[0]).Uuid +
			flat(disksOf(p.Config.Hardware.Device)[0]).ChangeId + p.Self.Value
	}
	if a, b := ids(), ids(); a != b {
		t.Errorf("%s\n%s", a, b)
	}
	b := start(t)
	equal(b, b.c.ServiceContent.About.ApiVersion, "8.0.3.0")
	if d := disksOf(b.props("web").Config.Hardware.Device)[1]; d.Key != 2001 || *d.UnitNumber != 1 || d.ControllerKey != 1000 {
		t.Errorf("disk %d at %d:%d", d.Key, d.ControllerKey, *d.UnitNumber)
	}
}

func TestStateFolderOfSomebodyElseIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "datastores", "precious"), 0o755); err != nil {
		t.Fatal(err)
	}
	inv, err := ParseInventory([]byte(testInventory))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(inv, Options{State: dir}); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "datastores", "precious")); err != nil {
		t.Fatal(err)
	}
}

// 500 machines stand within 30 seconds; measured on two busy cores, 2 to 3 seconds.
func TestFiveHundredMachinesInThirtySeconds(t *testing.T) {
	inv, err := ParseInventory([]byte(`
name: big
datacenters: [{name: DC1, hosts: [{name: h1}, {name: h2}], datastores: [{name: d1, capacity: 8TiB}]}]
generate: [{prefix: vm, count: 500, vm: {cbt: true, nics: [{}], disks: [{size: 40GiB, content: {seed: 1, extents: [{offset: 0, length: 64KiB}]}}, {size: 1TiB}]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b := startInventory(t, inv)
	took := time.Since(began)
	vms, err := b.ctl.VMs()
	b.must(err)
	equal(b, len(vms), 500)
	t.Logf("500 machines in %v", took)
	if took > 30*time.Second {
		t.Fatalf("it took %v", took)
	}
}
