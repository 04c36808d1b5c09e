"""pyvmomi walks the inventory, and sees in it what cannot be replicated."""

import unittest

from harness import Judge, share
from inventory import MIB, disk, filled, inventory, vm
from pyVmomi import vim, vmodl

VMS = [
    vm("web", disk(64 * MIB, content=filled(1)), disk(32 * MIB, thick=True, datastore="other"), folder="prod/web", firmware="efi",
       nics=[{"network": "VM Network", "mac": "00:50:56:00:00:01"}, {"network": "backup", "type": "e1000e"}]),
    vm("bios", firmware="bios", guest="windows2019srv_64Guest", host="esx-2"),
    vm("independent", disk(), disk(mode="independent_persistent"), disk(mode="independent_nonpersistent")),
    vm("rdm", disk(), disk(rdm="virtual"), disk(rdm="physical")),
    vm("multiwriter", disk(), disk(multiWriter=True)),
    vm("sharedbus", disk(), disk(controller=1), controllers=[{}, {"sharedBus": "physical"}]),
    vm("encrypted", disk(encryptionKey="key-1"), encryptionKey="key-1"),
    vm("ft", faultTolerance=True),
    vm("template", template=True, power="off"),
    vm("old", hardware=4),
    vm("off", power="off"),
]

setUpModule, tearDownModule = share(inventory(VMS))


class Inventory(Judge):
    def test_walk_by_folders(self):
        """From the root folder down, as a browser of the inventory does."""
        found = []

        def walk(folder, path):
            for child in folder.childEntity:
                if isinstance(child, vim.Folder):
                    walk(child, path + child.name + "/")
                else:
                    found.append(path + child.name)
        for datacenter in self.si.content.rootFolder.childEntity:
            walk(datacenter.vmFolder, "")
        self.assertEqual(sorted(found), sorted("prod/web/web" if v["name"] == "web" else v["name"] for v in VMS))

    def test_walk_by_one_collector(self):
        """One RetrievePropertiesEx over a view, as inventories of thousands are read."""
        content = self.si.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        wanted = ["name", "config.instanceUuid", "config.uuid", "config.version", "config.changeTrackingEnabled", "config.files.vmPathName",
                  "config.hardware.device", "config.firmware", "config.template", "capability.changeTrackingSupported", "runtime.host",
                  "runtime.powerState", "runtime.connectionState", "runtime.consolidationNeeded", "guest.toolsRunningStatus", "datastore",
                  "layoutEx", "disabledMethod", "recentTask"]
        pc = vmodl.query.PropertyCollector
        answer = content.propertyCollector.RetrievePropertiesEx(specSet=[pc.FilterSpec(
            objectSet=[pc.ObjectSpec(obj=view, skip=True, selectSet=[pc.TraversalSpec(type=vim.ContainerView, path="view", skip=False)])],
            propSet=[pc.PropertySpec(type=vim.VirtualMachine, pathSet=wanted)])], options=pc.RetrieveOptions())
        rows = {}
        while answer:
            for o in answer.objects:
                self.assertFalse(o.missingSet, f"{o.missingSet}")
                row = {p.name: p.val for p in o.propSet}
                rows[row["name"]] = row
            answer = content.propertyCollector.ContinueRetrievePropertiesEx(answer.token) if answer.token else None
        self.assertEqual(set(rows), {v["name"] for v in VMS})
        for name, row in rows.items():
            with self.subTest(name):
                self.assertEqual(set(wanted) - set(row), set(), "properties are missing")
        self.assertEqual(len({r["config.instanceUuid"] for r in rows.values()}), len(VMS))
        self.assertEqual(rows["web"]["config.firmware"], "efi")
        self.assertEqual(rows["bios"]["config.firmware"], "bios")
        self.assertTrue(rows["template"]["config.template"])
        self.assertEqual(rows["off"]["runtime.powerState"], "poweredOff")
        self.assertEqual(rows["bios"]["runtime.host"].name, "esx-2")
        self.assertEqual(rows["old"]["config.version"], "vmx-04")

    def test_finding(self):
        index = self.si.content.searchIndex
        web = index.FindByInventoryPath("DC/vm/prod/web/web")
        self.assertEqual(index.FindByUuid(None, web.config.instanceUuid, True, True), web)
        self.assertEqual(index.FindByUuid(None, web.config.uuid, True, False), web)
        self.assertIsNone(index.FindByUuid(None, "00000000-0000-0000-0000-000000000000", True, True))
        self.assertIsNone(index.FindByInventoryPath("DC/vm/none"))

    def test_disks(self):
        web = self.si.content.searchIndex.FindByInventoryPath("DC/vm/prod/web/web")
        disks = self.disks(web)
        self.assertEqual(sorted(disks), [2000, 2001])
        first, second = disks[2000], disks[2001]
        self.assertEqual(first.capacityInBytes, 64 * MIB)
        self.assertEqual(first.backing.fileName.split("]")[0], "[vmfs")
        self.assertEqual(second.backing.fileName.split("]")[0], "[other")
        self.assertTrue(first.backing.thinProvisioned)
        self.assertFalse(second.backing.thinProvisioned)
        self.assertEqual(first.backing.diskMode, "persistent")
        self.assertRegex(first.backing.uuid, "^6000C29")
        self.assertNotEqual(first.backing.uuid, second.backing.uuid)
        self.assertTrue(first.diskObjectId and first.deviceInfo.label)
        self.assertIsNone(first.backing.changeId, "it is not tracked")
        nics = [d for d in web.config.hardware.device if isinstance(d, vim.vm.device.VirtualEthernetCard)]
        self.assertEqual([n.macAddress for n in nics][0], "00:50:56:00:00:01")
        self.assertEqual([type(n) for n in nics], [vim.vm.device.VirtualVmxnet3, vim.vm.device.VirtualE1000e])

    def test_what_cannot_be_replicated_is_seen(self):
        modes = [d.backing.diskMode for d in self.disks(self.vm("independent")).values()]
        self.assertEqual(modes, ["persistent", "independent_persistent", "independent_nonpersistent"])
        rdm = list(self.disks(self.vm("rdm")).values())
        kind = vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo
        self.assertEqual([getattr(d.backing, "compatibilityMode", None) for d in rdm], [None, "virtualMode", "physicalMode"])
        self.assertTrue(all(isinstance(d.backing, kind) for d in rdm[1:]))
        self.assertEqual([d.backing.sharing for d in self.disks(self.vm("multiwriter")).values()][1], "sharingMultiWriter")
        buses = [d.sharedBus for d in self.vm("sharedbus").config.hardware.device if isinstance(d, vim.vm.device.VirtualSCSIController)]
        self.assertEqual(buses, ["noSharing", "physicalSharing"])
        self.assertEqual(self.disks(self.vm("encrypted"))[2000].backing.keyId.keyId, "key-1")
        self.assertIsNotNone(self.vm("encrypted").config.keyId)
        self.assertIsNotNone(self.vm("ft").config.ftInfo)
        self.assertIsNone(self.vm("bios").config.ftInfo)
        self.assertFalse(self.vm("old").capability.changeTrackingSupported)
        self.assertTrue(self.vm("bios").capability.changeTrackingSupported)

    def test_tracking_that_is_not_supported_is_refused(self):
        on = vim.vm.ConfigSpec(changeTrackingEnabled=True)
        self.refused(vmodl.fault.NotSupported, self.vm("old").ReconfigVM_Task, spec=on)

    def test_hosts_and_datastores(self):
        hosts = {h.name: h for h in self.all(vim.HostSystem)}
        self.assertEqual(hosts["esx-2"].config.product.build, "22380479")
        self.assertEqual(hosts["esx-1"].runtime.connectionState, "connected")
        stores = {d.name: d for d in self.all(vim.Datastore)}
        self.assertEqual(stores["small"].summary.capacity, 64 * MIB)
        self.assertEqual(stores["vsan"].summary.type, "vsan")
        self.assertLess(stores["vmfs"].summary.freeSpace, stores["vmfs"].summary.capacity)

    def test_a_property_that_does_not_exist_is_refused(self):
        pc = vmodl.query.PropertyCollector
        spec = pc.FilterSpec(objectSet=[pc.ObjectSpec(obj=self.vm("bios"))],
                             propSet=[pc.PropertySpec(type=vim.VirtualMachine, pathSet=["config.none"])])
        self.refused(vmodl.query.InvalidProperty, self.si.content.propertyCollector.RetrievePropertiesEx, [spec], pc.RetrieveOptions())

    def test_updates_are_told(self):
        """A filter of the property collector tells what changes, and only then."""
        pc = vmodl.query.PropertyCollector
        collector = self.si.content.propertyCollector.CreatePropertyCollector()
        collector.CreateFilter(pc.FilterSpec(
            objectSet=[pc.ObjectSpec(obj=self.vm("off"))],
            propSet=[pc.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState", "name"])]), False)
        first = collector.WaitForUpdatesEx(None, pc.WaitOptions(maxWaitSeconds=5))
        self.assertIsNone(collector.WaitForUpdatesEx(first.version, pc.WaitOptions(maxWaitSeconds=1)), "nothing changed")
        self.sim.control("PUT", "/vms/off/power", {"state": "on"})
        self.addCleanup(self.sim.control, "PUT", "/vms/off/power", {"state": "off"})
        told, version = {}, first.version
        while "runtime.powerState" not in told:
            change = collector.WaitForUpdatesEx(version, pc.WaitOptions(maxWaitSeconds=5))
            self.assertIsNotNone(change, f"told were only {told}")
            version = change.version
            told.update({c.name: c.val for f in change.filterSet for o in f.objectSet for c in o.changeSet})
        self.assertEqual(told["runtime.powerState"], "poweredOn")


if __name__ == "__main__":
    unittest.main()
