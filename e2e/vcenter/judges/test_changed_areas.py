"""QueryChangedDiskAreas: right to the byte, page by page, and each of its faults."""

import unittest

from harness import CHANGE_ID, GRAIN, Judge, Simulator, share
from inventory import MIB, disk, filled, inventory, tracked, vm
from pyVmomi import vim, vmodl

AREAS = 5001

setUpModule, tearDownModule = share(inventory([
    tracked("areas", disk(AREAS * 2 * GRAIN)), tracked("bytes", disk(8 * MIB, content=filled(1)), disk(4 * MIB)),
    tracked("refusals", disk(4 * MIB)),
    tracked("other", disk(4 * MIB)), vm("untracked", disk(4 * MIB)), tracked("reset", disk(4 * MIB)), tracked("reverted", disk(4 * MIB)),
    tracked("hidden", disk(4 * MIB)), tracked("grown", disk(4 * MIB)), tracked("changed", disk(4 * MIB), disk(4 * MIB)),
    tracked("moved", disk(4 * MIB)),
    tracked("pages", disk(4 * MIB)), tracked("consolidated", disk(4 * MIB)), tracked("quirk", disk(4 * MIB)),
    tracked("off", disk(4 * MIB), power="off"),
    tracked("vmfs", disk(4 * MIB, content=filled(5, MIB, MIB))),
    tracked("vsan", disk(4 * MIB, content=filled(5, MIB, MIB)), datastore="vsan"),
    tracked("nfs", disk(4 * MIB), datastore="nfs"), tracked("mixed", disk(4 * MIB), disk(4 * MIB, mode="independent_persistent")),
]))


class Right(Judge):
    def test_page_by_page(self):
        """More than 5,000 areas: three pages, none of more than 2,000, each byte that differs in one of them."""
        web = self.vm("areas")
        base = self.snapshot(web, "base")
        since = self.change_id(base)
        for n in range(AREAS):
            self.write(web, n * 2 * GRAIN + (n % 128) * 512, length=512, seed=7)
        snap = self.snapshot(web, "changed")
        pages = self.pages(web, snap, since)
        self.assertEqual([len(p) for p in pages], [2000, 2000, 1001])
        self.assertEqual([a for p in pages for a in p], [(n * 2 * GRAIN, GRAIN) for n in range(AREAS)])
        for n in (0, 1999, 2000, 3999, 4000, 5000):
            before = self.frozen(base, n * 2 * GRAIN, 2 * GRAIN)
            after = self.frozen(snap, n * 2 * GRAIN, 2 * GRAIN)
            self.assertNotEqual(before[:GRAIN], after[:GRAIN])
            self.assertEqual(before[GRAIN:], after[GRAIN:], "what was not answered did not change")
        self.wait(web.RemoveAllSnapshots_Task())

    def test_every_byte_that_differs_is_covered(self):
        """Over a row of snapshots and removals: the areas since each older change ID cover what differs from its bytes."""
        web = self.vm("bytes")
        old, kept = [], []
        for cycle in range(8):
            for n in range(3):
                self.write(web, (cycle * 1234567 + n * 54321) % (7 * MIB), length=70000, seed=cycle * 10 + n)
            self.write(web, cycle * MIB, length=3000, zero=True)
            self.write(web, (cycle * 99999) % (3 * MIB), length=512, seed=cycle, key=2001)
            snap = self.snapshot(web, f"cycle {cycle}")
            now = {key: self.frozen(snap, key=key) for key in (2000, 2001)}
            for key in now:
                for change_id, then in [o[key] for o in old]:
                    at = 0
                    for start, length in self.areas(web, snap, change_id, key) + [(len(then), 0)]:
                        self.assertEqual(then[at:start], now[key][at:start], f"cycle {cycle}: {at}..{start} differ and were not answered")
                        at = start + length
            old.append({key: (self.change_id(snap, key), now[key]) for key in now})
            kept.append(snap)
            if len(kept) > 2:
                self.remove(kept.pop(cycle % 3))  # the first, a middle or the last one
        self.wait(web.RemoveAllSnapshots_Task())

    def test_nothing_changed(self):
        web = self.vm("pages")
        first = self.snapshot(web)
        second = self.snapshot(web)
        self.assertEqual(self.pages(web, second, self.change_id(first)), [[]])
        self.assertEqual(self.pages(web, second, self.change_id(second)), [[]])
        self.wait(web.RemoveAllSnapshots_Task())

    def test_empty_pages(self):
        """A page may cover a part of the disk in which nothing changed: it has a length and no areas."""
        web = self.vm("pages")
        first = self.snapshot(web)
        self.write(web, 3 * MIB, b"x")
        second = self.snapshot(web)
        self.sim.control("PUT", "/vms/pages/cbt/pages", {"span": MIB})
        self.assertEqual(self.pages(web, second, self.change_id(first)), [[], [], [], [(3 * MIB, GRAIN)]])
        self.wait(web.RemoveAllSnapshots_Task())

    def test_no_change_is_missed_around_a_removal(self):
        """What the guest writes while a snapshot is there, and after it went, is in the next answer."""
        web = self.vm("consolidated")
        snap = self.snapshot(web)
        since = self.change_id(snap)
        self.write(web, 0, b"while it stands")
        self.remove(snap)
        self.write(web, MIB, b"afterwards")
        snap = self.snapshot(web)
        self.assertEqual(self.areas(web, snap, since), [(0, GRAIN), (MIB, GRAIN)])
        self.remove(snap)

    def test_allocated(self):
        for name, want in {"vmfs": [(MIB, MIB)], "vsan": [(0, 4 * MIB)]}.items():
            with self.subTest(name):
                web = self.vm(name)
                snap = self.snapshot(web)
                self.assertEqual(self.areas(web, snap, "*"), want)
                self.remove(snap)
        web = self.vm("nfs")
        snap = self.snapshot(web)
        self.refused(vim.fault.FileFault, web.QueryChangedDiskAreas, snap, 2000, 0, "*")
        self.remove(snap)


class Refused(Judge):
    def setUp(self):
        super().setUp()
        self.web = self.vm("refusals")
        self.snap = self.snapshot(self.web)
        self.addCleanup(lambda: self.wait(self.vm("refusals", self.connect()).RemoveAllSnapshots_Task()))
        self.id = self.change_id(self.snap)

    def ask(self, key=2000, start=0, change_id=None, vm_=None, **other):
        return (vm_ or self.web).QueryChangedDiskAreas(other.get("snap", self.snap), key, start, change_id or self.id)

    def test_offsets_at_and_beyond_the_end(self):
        for start in (4 * MIB, 4 * MIB + 1, 1 << 60, -1):
            with self.subTest(start):
                fault = self.refused(vmodl.fault.InvalidArgument, self.ask, start=start)
                self.assertEqual(fault.invalidProperty, "startOffset")
        self.assertEqual(self.ask(start=4 * MIB - 512).length, 512)

    def test_bad_change_ids(self):
        uuid, counter = self.id.split("/")
        for bad in ("", "0", uuid, uuid + "/", uuid + "/x", uuid + "/-1", "**", uuid.replace(" ", "") + "/" + counter,
                    f"{uuid}/{int(counter) + 1}"):
            with self.subTest(bad):
                fault = self.refused(vmodl.fault.InvalidArgument, self.web.QueryChangedDiskAreas, self.snap, 2000, 0, bad)
                self.assertEqual(fault.invalidProperty, "changeId")

    def test_device_keys(self):
        for key in (0, -1, 2001, 1000, 4000):
            with self.subTest(key):
                self.assertEqual(self.refused(vmodl.fault.InvalidArgument, self.ask, key=key).invalidProperty, "deviceKey")

    def test_snapshots_of_others_and_of_the_past(self):
        other = self.vm("other")
        theirs = self.snapshot(other)
        self.refused(vim.fault.NotFound, self.ask, snap=theirs)
        self.remove(theirs)
        gone = self.snapshot(self.web)
        self.remove(gone)
        self.refused(vim.fault.NotFound, self.ask, snap=gone)

    def test_without_a_snapshot(self):
        """API reference: the current state only of a VM that is powered off."""
        self.refused(vim.fault.InvalidPowerState, self.ask, snap=None)
        off = self.vm("off")
        snap = self.snapshot(off)
        since = self.change_id(snap)
        self.remove(snap)
        self.sim.control("PUT", "/vms/off/power", {"state": "on"})
        self.write(off, 0, b"x")
        self.sim.control("PUT", "/vms/off/power", {"state": "off"})
        self.assertEqual(self.areas(off, None, since), [(0, GRAIN)])

    def test_another_generation(self):
        other = self.vm("other")
        theirs = self.snapshot(other)
        foreign = self.change_id(theirs)
        self.remove(theirs)
        fault = self.refused(vim.fault.FileFault, self.ask, change_id=foreign)
        self.assertTrue(fault.file.endswith(".vmdk"), fault.file)
        self.assertTrue(fault.faultMessage[0].key, "the family is told by the message's key")

    def test_not_tracked(self):
        web = self.vm("untracked")
        snap = self.snapshot(web)
        for change_id in (self.id, "*"):
            fault = self.refused(vim.fault.FileFault, web.QueryChangedDiskAreas, snap, 2000, 0, change_id)
            self.assertIn("noTrack", fault.faultMessage[0].key)
        self.remove(snap)
        mixed = self.vm("mixed")
        snap = self.snapshot(mixed)
        self.refused(vim.fault.FileFault, mixed.QueryChangedDiskAreas, snap, 2001, 0, "*")
        self.remove(snap)

    def test_privilege(self):
        fault = self.refused(vim.fault.NoPermission, self.ask, vm_=self.vm("refusals", self.connect("reader@vsphere.local", "reader")))
        self.assertEqual(fault.privilegeId, "VirtualMachine.Provisioning.DiskRandomRead")


class Generations(Judge):
    """What ends a generation of change IDs, and what does not."""

    def start(self, name, key=2000):
        web = self.vm(name)
        snap = self.snapshot(web)
        since = self.change_id(snap, key)
        self.assertRegex(since, CHANGE_ID)
        return web, snap, since

    def after(self, web, since, fault=None, key=2000):
        """Asks a new snapshot what changed since."""
        snap = self.snapshot(web)
        try:
            now = self.change_id(snap, key)
            if fault:
                self.refused(fault, web.QueryChangedDiskAreas, snap, key, 0, since)
                self.assertNotEqual(now.split("/")[0], since.split("/")[0], "a new generation has another uuid")
                return None
            self.assertEqual(now.split("/")[0], since.split("/")[0])
            return self.areas(web, snap, since, key)
        finally:
            self.remove(snap)

    def test_reset(self):
        web, snap, since = self.start("reset")
        self.sim.control("POST", "/vms/reset/cbt/reset")
        fault = self.refused(vim.fault.FileFault, web.QueryChangedDiskAreas, snap, 2000, 0, since)
        self.assertIn("noEpoch", fault.faultMessage[0].key)
        self.remove(snap)
        self.after(web, since, vim.fault.FileFault)

    def test_off_and_on(self):
        web, snap, since = self.start("reset")
        self.remove(snap)
        for on in (False, True):
            self.wait(web.ReconfigVM_Task(spec=vim.vm.ConfigSpec(changeTrackingEnabled=on)))
            self.remove(self.snapshot(web, "stun"))
        self.after(web, since, vim.fault.FileFault)

    def test_revert(self):
        web, snap, since = self.start("reverted")
        self.wait(snap.RevertToSnapshot_Task())
        self.sim.control("PUT", "/vms/reverted/power", {"state": "on"})
        self.remove(snap)
        self.after(web, since, vim.fault.FileFault)

    def test_hidden_revert_answers_wrongly(self):
        """The switch for hosts that go on with the same generation: bytes differ, and no area says so."""
        web, base, _ = self.start("hidden")
        self.write(web, 0, b"will be undone")
        later = self.snapshot(web)
        since, then = self.change_id(later), self.frozen(later)
        self.sim.control("POST", f"/snapshots/{base._moId}/revert", {"hidden": True})
        self.sim.control("PUT", "/vms/hidden/power", {"state": "on"})
        snap = self.snapshot(web)
        self.assertEqual(self.areas(web, snap, since), [])
        self.assertNotEqual(self.frozen(snap), then)
        self.assertEqual(self.change_id(snap).split("/")[0], since.split("/")[0])
        self.wait(web.RemoveAllSnapshots_Task())

    def test_vmotion_keeps_it(self):
        web, snap, since = self.start("moved")
        self.remove(snap)
        self.write(web, 0, b"x")
        self.wait(web.RelocateVM_Task(vim.vm.RelocateSpec(host=self.host("esx-2"))))
        self.assertEqual(web.runtime.host.name, "esx-2")
        self.assertEqual(self.after(web, since), [(0, GRAIN)])
        self.sim.control("POST", "/vms/moved/migrate", {"host": "esx-1"})
        self.assertEqual(web.runtime.host.name, "esx-1")
        self.assertEqual(self.after(web, since), [(0, GRAIN)])

    def test_storage_vmotion(self):
        web, snap, since = self.start("moved")
        self.remove(snap)
        self.write(web, MIB, b"y")
        before = self.sim.control("GET", "/vms/moved/disks/2000/sha256")
        uuid = self.disks(web)[2000].backing.uuid
        self.wait(web.RelocateVM_Task(vim.vm.RelocateSpec(datastore=self.store("other"))))
        backing = self.disks(web)[2000].backing
        self.assertTrue(backing.fileName.startswith("[other] "))
        self.assertEqual(backing.uuid, uuid)
        self.assertEqual(self.sim.control("GET", "/vms/moved/disks/2000/sha256"), before)
        self.assertEqual(self.after(web, since), [(MIB, GRAIN)])
        self.sim.control("POST", "/vms/moved/relocate", {"datastore": "vmfs"})

    def test_storage_vmotion_that_resets(self):
        """KB 1020128: some releases begin anew."""
        sim, shared = Simulator(inventory([tracked("moved", disk(MIB))], settings={"relocateResetsTracking": True})), Judge.sim
        self.addCleanup(sim.stop)
        Judge.sim = sim
        try:
            self.si = self.connect()
            web, snap, since = self.start("moved")
            self.remove(snap)
            self.sim.control("POST", "/vms/moved/relocate", {"datastore": "other"})
            self.after(web, since, vim.fault.FileFault)
        finally:
            Judge.sim = shared

    def grow(self, web, size, key=2000):
        device = self.disks(web)[key]
        device.capacityInBytes = size
        device.capacityInKB = size // 1024
        change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=device)
        return web.ReconfigVM_Task(spec=vim.vm.ConfigSpec(deviceChange=[change]))

    def test_growth(self):
        web, snap, since = self.start("grown")
        self.refused(vim.fault.InvalidDeviceOperation, self.grow, web, 8 * MIB)
        self.assertRefusedByControl(409, "snapshots", "POST", "/vms/grown/disks/2000/grow", {"capacity": 8 * MIB})
        self.remove(snap)
        self.refused(vim.fault.InvalidDeviceOperation, self.grow, web, 2 * MIB)
        self.assertRefusedByControl(400, "shrink", "POST", "/vms/grown/disks/2000/grow", {"capacity": 2 * MIB})
        self.wait(self.grow(web, 6 * MIB))
        self.assertEqual(self.disks(web)[2000].capacityInBytes, 6 * MIB)
        self.assertEqual(self.after(web, since), [(4 * MIB, 2 * MIB)])
        self.sim.control("POST", "/vms/grown/disks/2000/grow", {"capacity": 7 * MIB})
        self.assertEqual(self.after(web, since), [(4 * MIB, 3 * MIB)])

    def test_disks_come_and_go(self):
        web, snap, since = self.start("changed", 2001)
        self.remove(snap)
        added = self.sim.control("POST", "/vms/changed/disks", {"size": MIB})
        self.assertEqual(self.disks(web)[added["key"]].capacityInBytes, MIB)
        uuid = self.disks(web)[2001].backing.uuid
        self.sim.control("POST", "/vms/changed/disks/2001/replace")
        self.assertNotEqual(self.disks(web)[2001].backing.uuid, uuid, "the same key, another disk")
        self.remove(self.snapshot(web, "stun"))
        self.after(web, since, vim.fault.FileFault, 2001)
        self.sim.control("DELETE", f"/vms/changed/disks/{added['key']}")
        self.assertNotIn(added["key"], self.disks(web))

    def test_quirks(self):
        web, snap, since = self.start("quirk")
        self.sim.control("PUT", "/vms/quirk/cbt/quirks", {"mergeForgets": True})
        self.write(web, 0, b"lost")
        self.remove(snap)
        self.assertEqual(self.after(web, since), [], "KB 2136854: what was written before the merge is not told")


if __name__ == "__main__":
    unittest.main()
