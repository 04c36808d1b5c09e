"""Snapshots as pyvmomi sees them: change IDs, files, the tree, and what is refused."""

import threading
import unittest

from harness import CHANGE_ID, Judge, share
from inventory import MIB, disk, filled, inventory, tracked, vm
from pyVmomi import vim, vmodl

setUpModule, tearDownModule = share(inventory([
    vm("untracked"), vm("deferred"), vm("off", power="off"), vm("files", disk(), disk(content=filled(2))),
    tracked("tree"), tracked("frozen", disk(16 * MIB)),
    tracked("names"), tracked("deep", disk(MIB)), vm("ft", faultTolerance=True), vm("multiwriter", disk(), disk(multiWriter=True)),
    vm("sharedbus", disk(), disk(controller=1), controllers=[{}, {"sharedBus": "virtual"}]), vm("template", template=True, power="off"),
    tracked("mixed", disk(), disk(mode="independent_persistent"), disk(rdm="physical"), disk(rdm="virtual")), tracked("quiesced"),
    vm("full", disk(16 * MIB, content=filled(3, 16 * MIB)), datastore="small"), tracked("reverted", disk(4 * MIB)), tracked("moved"),
]))


class ChangeIDs(Judge):
    def test_only_when_tracked_and_stunned_since(self):
        web = self.vm("untracked")
        snap = self.snapshot(web)
        self.assertIsNone(self.change_id(snap), "tracking is off")
        self.remove(snap)
        self.wait(web.ReconfigVM_Task(spec=vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        self.assertTrue(web.config.changeTrackingEnabled)
        snap = self.snapshot(web)
        self.assertIsNone(self.change_id(snap), "the stun of this very snapshot begins tracking: it has no change ID yet")
        self.remove(snap)
        first = self.snapshot(web)
        self.assertRegex(self.change_id(first), CHANGE_ID)
        second = self.snapshot(web)
        a, b = (self.change_id(s).split("/") for s in (first, second))
        self.assertEqual(a[0], b[0], "one generation")
        self.assertLess(int(a[1]), int(b[1]), "the counter rises")
        self.remove(first, children=True)
        self.wait(web.ReconfigVM_Task(spec=vim.vm.ConfigSpec(changeTrackingEnabled=False)))
        self.remove(self.snapshot(web, "stun"))
        snap = self.snapshot(web)
        self.assertIsNone(self.change_id(snap), "tracking is off again")

    def test_not_while_a_snapshot_stands(self):
        """KB 1031873: tracking can only begin on a disk without snapshots."""
        web = self.vm("deferred")
        foreign = self.sim.control("POST", "/vms/deferred/snapshots", {"name": "by hand"})["ref"]
        self.wait(web.ReconfigVM_Task(spec=vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        self.remove(self.snapshot(web, "stun"))
        snap = self.snapshot(web)
        self.assertIsNone(self.change_id(snap))
        self.sim.control("DELETE", f"/snapshots/{foreign}")
        self.remove(snap)
        self.assertRegex(self.change_id(self.snapshot(web)), CHANGE_ID)

    def test_at_once_when_powered_off(self):
        web = self.vm("off")
        self.wait(web.ReconfigVM_Task(spec=vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        self.assertRegex(self.change_id(web), CHANGE_ID)
        self.assertRegex(self.change_id(self.snapshot(web)), CHANGE_ID)

    def test_disks_that_snapshots_leave_out_have_none(self):
        snap = self.snapshot(self.vm("mixed"))
        ids = {key: d.backing.changeId for key, d in self.disks(snap).items()}
        self.assertRegex(ids[2000], CHANGE_ID)
        self.assertIsNone(ids[2001], "independent")
        self.assertIsNone(ids[2002], "a raw device in physical mode")
        self.assertRegex(ids[2003], CHANGE_ID, "a raw device in virtual mode")


class Files(Judge):
    def test_backings_change_with_snapshots(self):
        web = self.vm("files")

        def names(owner):
            return [d.backing.fileName.split("/")[-1] for d in self.disks(owner).values()]

        base = names(web)
        self.assertEqual(len(set(base)), 2)
        first = self.snapshot(web, "first")
        one = [n.replace(".vmdk", "-000001.vmdk") for n in base]
        self.assertEqual(names(first), base, "the snapshot has the frozen base")
        self.assertEqual(names(web), one, "the guest writes a delta")
        self.assertEqual([d.backing.parent.fileName.split("/")[-1] for d in self.disks(web).values()], base)
        self.assertTrue(all(d.backing.parent is None for d in self.disks(first).values()))
        second = self.snapshot(web, "second")
        self.assertEqual(names(second), one)
        self.assertEqual(names(web), [n.replace(".vmdk", "-000002.vmdk") for n in base])
        browser = web.datastore[0].browser
        folder = web.config.files.vmPathName.rsplit("/", 1)[0] + "/"
        result = self.wait(browser.SearchDatastore_Task(folder, vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.vmdk"])))
        files = {f.path for f in result.file}
        for name in base + one + [n.replace(".vmdk", "-delta.vmdk") for n in one]:
            self.assertIn(name, files)
        self.remove(first)
        self.assertEqual(names(second), base, "what was merged down: the next snapshot has the base now")
        self.remove(second)
        self.assertEqual(names(web), base)
        self.assertTrue(all(d.backing.parent is None for d in self.disks(web).values()))
        self.assertFalse(web.runtime.consolidationNeeded)


class Tree(Judge):
    def test_tree(self):
        web = self.vm("tree")
        self.assertIsNone(web.snapshot)
        a = self.snapshot(web, "a")
        b = self.snapshot(web, "b")
        root = web.snapshot.rootSnapshotList
        self.assertEqual([(n.name, n.snapshot) for n in root], [("a", a)])
        self.assertEqual([(n.name, n.snapshot) for n in root[0].childSnapshotList], [("b", b)])
        self.assertEqual(web.snapshot.currentSnapshot, b)
        self.wait(a.RevertToSnapshot_Task())
        self.assertEqual(web.snapshot.currentSnapshot, a)
        c = self.snapshot(web, "c")
        self.assertEqual({n.name for n in web.snapshot.rootSnapshotList[0].childSnapshotList}, {"b", "c"}, "a branch")
        self.remove(a)
        self.assertEqual({n.name for n in web.snapshot.rootSnapshotList}, {"b", "c"}, "its children move up")
        self.refused(vmodl.fault.ManagedObjectNotFound, a.RemoveSnapshot_Task, False, True)
        self.refused(vmodl.fault.ManagedObjectNotFound, lambda: a.config)
        self.refused(vmodl.fault.ManagedObjectNotFound, a.RevertToSnapshot_Task)
        self.wait(web.RemoveAllSnapshots_Task(consolidate=True))
        self.assertIsNone(web.snapshot)
        self.refused(vmodl.fault.ManagedObjectNotFound, c.RemoveSnapshot_Task, False, True)

    def test_task_tells_what_it_did(self):
        web = self.vm("names")
        task = web.CreateSnapshotEx_Task(name="named", description="what for", memory=False, quiesceSpec=None)
        snap = self.wait(task)
        info = task.info
        self.assertEqual((info.entity, info.entityName, info.descriptionId), (web, "names", "VirtualMachine.createSnapshotEx"))
        self.assertIn(task, web.recentTask)
        node = web.snapshot.rootSnapshotList[0]
        self.assertEqual((node.name, node.description, node.snapshot), ("named", "what for", snap))
        self.remove(snap)

    def test_names(self):
        web = self.vm("names")
        for name in ("", "100%", "x" * 81):
            with self.subTest(name):
                self.refused(vim.fault.InvalidName, web.CreateSnapshotEx_Task, name=name, description="", memory=False, quiesceSpec=None)
        self.remove(self.snapshot(web, "100%25"))

    def test_depth(self):
        """KB 1025279: 32 snapshots in a chain."""
        web = self.vm("deep")
        for n in range(32):
            self.snapshot(web, f"s{n}")
        self.refused(vim.fault.TooManySnapshotLevels, web.CreateSnapshotEx_Task, name="s32", description="", memory=False, quiesceSpec=None)
        self.wait(web.RemoveAllSnapshots_Task())

    def test_what_has_no_snapshots(self):
        for name, fault in {
            "ft": vmodl.fault.NotSupported, "multiwriter": vim.fault.SnapshotIncompatibleDeviceInVm,
            "sharedbus": vim.fault.SnapshotIncompatibleDeviceInVm, "template": vim.fault.InvalidState,
        }.items():
            with self.subTest(name):
                self.refused(fault, self.vm(name).CreateSnapshotEx_Task, name="x", description="", memory=False, quiesceSpec=None)
                self.assertIsNone(self.vm(name).snapshot)

    def test_memory_and_quiescing(self):
        web = self.vm("quiesced")
        spec = vim.vm.GuestQuiesceSpec
        for minutes in (1, 241):
            fault = self.refused(vmodl.fault.InvalidArgument, web.CreateSnapshotEx_Task, name="x", description="", memory=False,
                                 quiesceSpec=spec(timeout=minutes))
            self.assertIn("timeout", fault.invalidProperty)
        snap = self.wait(web.CreateSnapshotEx_Task(name="x", description="", memory=False, quiesceSpec=spec(timeout=5)))
        self.assertTrue(web.snapshot.rootSnapshotList[0].quiesced)
        self.remove(snap)
        self.sim.control("PUT", "/vms/quiesced/tools", {"state": "notRunning"})
        snap = self.wait(web.CreateSnapshotEx_Task(name="x", description="", memory=False, quiesceSpec=spec(timeout=5)))
        self.assertFalse(web.snapshot.rootSnapshotList[0].quiesced, "without Tools the wish is passed over")
        self.remove(snap)
        for fault in ("ApplicationQuiesceFault", "FilesystemQuiesceFault"):
            self.sim.control("POST", "/faults", {"method": "CreateSnapshotEx_Task", "on": "task", "fault": fault, "count": 1})
            self.refused(getattr(vim.fault, fault), web.CreateSnapshotEx_Task, name="x", description="", memory=False, quiesceSpec=None)

    def test_power_state_is_recorded(self):
        snap = self.snapshot(self.vm("moved"))
        self.assertEqual(self.vm("moved").snapshot.rootSnapshotList[0].state, "poweredOff", "no memory: it would start from off")
        self.remove(snap)

    def test_a_full_datastore_takes_none(self):
        full = self.vm("full")
        self.sim.control("PATCH", "/datastores/small", {"free": 0})
        fault = self.refused(vim.fault.NoDiskSpace, full.CreateSnapshotEx_Task, name="x", description="", memory=False, quiesceSpec=None)
        self.assertEqual(fault.datastore, "small")
        self.sim.control("PATCH", "/datastores/small", {"free": 8 * MIB})
        snap = self.snapshot(full)
        store = self.store("small")
        self.write(full, 0, length=4 * MIB, seed=8)
        self.until(lambda: store.summary.freeSpace == 4 * MIB)  # what the delta ate
        self.assertRefusedByControl(507, "space", "PUT", "/vms/full/disks/2000/bytes", raw=b"", offset=4 * MIB, length=8 * MIB, seed=8)
        self.assertIsNotNone(full.runtime.question, "the guest waits for space")
        answer = full.runtime.question
        self.sim.control("PATCH", "/datastores/small", {"free": 16 * MIB})
        full.AnswerVM(questionId=answer.id, answerChoice="0")
        self.assertIsNone(full.runtime.question)
        self.remove(snap)


class Frozen(Judge):
    def test_stays_while_the_guest_writes(self):
        """Bytes and SHA-256 of what was frozen, under writes, further snapshots, and their removal."""
        web = self.vm("frozen")
        self.write(web, 0, length=8 * MIB, seed=4)
        snap = self.snapshot(web, "frozen")
        before, sha = self.frozen(snap), self.sha(snap)
        stop = threading.Event()

        def guest():
            n = 0
            while not stop.is_set():
                self.write(web, n * 77777 % (15 * MIB), length=200000, seed=n)
                n += 1

        thread = threading.Thread(target=guest)
        thread.start()
        try:
            for n in range(8):
                other = self.snapshot(web, f"other {n}")
                self.assertEqual(self.frozen(snap, MIB, 4 * MIB), before[MIB:5 * MIB])
                self.remove(other)
        finally:
            stop.set()
            thread.join()
        self.assertEqual(self.frozen(snap), before)
        self.assertEqual(self.sha(snap), sha)
        self.assertNotEqual(self.sim.control("GET", "/vms/frozen/disks/2000/sha256")["sha256"], sha)
        self.remove(snap)
        self.assertRefusedByControl(404, "no snapshot", "GET", f"/snapshots/{snap._moId}/disks/2000/sha256")

    def test_revert_brings_the_bytes_back(self):
        web = self.vm("reverted")
        self.write(web, 0, b"before")
        snap = self.snapshot(web)
        self.write(web, 0, b"after.")
        self.wait(snap.RevertToSnapshot_Task())
        self.sim.control("PUT", "/vms/reverted/power", {"state": "on"})
        got = self.sim.control("GET", "/vms/reverted/disks/2000/bytes", offset=0, length=6)
        self.assertEqual(got, b"before")
        self.remove(snap)


if __name__ == "__main__":
    unittest.main()
