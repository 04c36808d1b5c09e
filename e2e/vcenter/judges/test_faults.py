"""Each fault that a replication meets: those that arise by themselves, and any other one by injection."""

import http.client
import time
import unittest

from harness import Judge, Simulator, share
from inventory import CYCLE, MIB, disk, filled, inventory, tracked, vm
from pyVmomi import vim, vmodl

setUpModule, tearDownModule = share(inventory([
    tracked("web", disk(4 * MIB)), tracked("busy", disk(4 * MIB)), tracked("consolidated", disk(4 * MIB)),
    vm("off", disk(MIB), power="off"),
    tracked("cycle", disk(4 * MIB)), vm("guest", disk(MIB)), vm("gone", disk(MIB)), vm("lost", disk(MIB), host="esx-2"),
    vm("renamed", disk(MIB)),
], users=[{"name": "one@vsphere.local", "password": "one", "permissions": [{"entity": "/DC/vm/web", "role": "ReadOnly"}]}]))

# What the API reference lists for the calls of a cycle, and what any call may end in.
FAULTS = {
    vmodl.fault: ["InvalidArgument", "ManagedObjectNotFound", "NotSupported", "SystemError", "RequestCanceled", "HostCommunication",
                  "HostNotConnected", "HostNotReachable", "NotEnoughLicenses", "SecurityError", "MethodNotFound"],
    vim.fault: [
        "NotAuthenticated", "InvalidLogin", "NoPermission", "NotFound", "FileFault", "FileLocked", "CannotAccessFile",
        "FileNotFound", "FileAlreadyExists", "NoDiskSpace", "TaskInProgress", "InvalidState", "InvalidPowerState", "MethodDisabled",
        "ResourceInUse", "ConcurrentAccess", "SnapshotFault", "TooManySnapshotLevels", "MultipleSnapshotsNotSupported",
        "VmConfigFault", "InvalidName", "ApplicationQuiesceFault", "FilesystemQuiesceFault", "QuestionPending", "ToolsUnavailable",
        "Timedout", "InvalidDatastore", "RestrictedVersion", "GenericVmConfigFault", "MemorySnapshotOnIndependentDisk"],
}


class Injected(Judge):
    """By the control port, into any method: as the call's answer, as the task's end, or before SOAP."""

    def inject(self, **fault):
        return self.sim.control("POST", "/faults", fault)["id"]

    def test_each_fault_of_a_call(self):
        web = self.vm("web")
        for module, names in FAULTS.items():
            for name in names:
                with self.subTest(name):
                    self.inject(method="ConsolidateVMDisks_Task", fault=name, message="as injected", count=1)
                    fault = self.refused(getattr(module, name), web.ConsolidateVMDisks_Task)
                    # As the real one does, it adds the id of the operation, which is another one each time.
                    self.assertRegex(fault.msg, r"^as injected \(opID=[0-9a-f-]+\)$")
                    self.wait(web.ConsolidateVMDisks_Task())

    def test_each_fault_of_a_task(self):
        web = self.vm("web")
        for module, names in FAULTS.items():
            for name in names:
                with self.subTest(name):
                    self.inject(method="CreateSnapshotEx_Task", on="task", fault=name, message="as injected", count=1)
                    task = web.CreateSnapshotEx_Task(name="x", description="", memory=False, quiesceSpec=None)
                    fault = self.refused(getattr(module, name), self.wait, task)
                    self.assertIsNone(web.snapshot, "what failed was not done")
                    # As the real one does, it adds the id of the operation, which is another one each time.
                    self.assertRegex(fault.msg, r"^as injected \(opID=[0-9a-f-]+\)$")

    def test_each_method(self):
        """Whatever the method, known to this simulator or only to govmomi's."""
        web = self.vm("web")
        snap = self.snapshot(web)
        for method, call in {
            "QueryChangedDiskAreas": lambda: web.QueryChangedDiskAreas(snap, 2000, 0, "*"),
            "RemoveSnapshot_Task": lambda: snap.RemoveSnapshot_Task(False),
            "ReconfigVM_Task": lambda: web.ReconfigVM_Task(vim.vm.ConfigSpec()),
            "RelocateVM_Task": lambda: web.RelocateVM_Task(vim.vm.RelocateSpec()),
            "PowerOffVM_Task": web.PowerOffVM_Task, "ShutdownGuest": web.ShutdownGuest, "CurrentTime": self.si.CurrentTime,
            "FindByInventoryPath": lambda: self.vm("web"), "RetrievePropertiesEx": lambda: self.all_properties(web),
            "Login": lambda: self.sim.login(), "CreateContainerView": lambda: self.all(vim.VirtualMachine),
        }.items():
            with self.subTest(method):
                self.inject(method=method, fault="FileFault", properties={"file": "[vmfs] web/web.vmdk"}, count=1)
                self.assertEqual(self.refused(vim.fault.FileFault, call).file, "[vmfs] web/web.vmdk")
                self.assertEqual(self.sim.control("GET", "/calls")[method]["faults"], 1)
                self.sim.control("DELETE", "/calls")
        self.assertEqual(web.runtime.powerState, "poweredOn")
        self.remove(snap)

    def all_properties(self, obj):
        pc = vmodl.query.PropertyCollector
        spec = pc.FilterSpec(objectSet=[pc.ObjectSpec(obj=obj)], propSet=[pc.PropertySpec(type=type(obj), pathSet=["name"])])
        return self.si.content.propertyCollector.RetrievePropertiesEx([spec], pc.RetrieveOptions())

    def test_503(self):
        web = self.vm("web")
        self.inject(method="*", status=503, count=2)
        for _ in range(2):
            with self.assertRaisesRegex(http.client.HTTPException, "503"):
                web.QueryChangedDiskAreas(None, 2000, 0, "*")
        self.assertEqual(web.name, "web")

    def test_skip_count_and_object(self):
        web, other = self.vm("web"), self.vm("busy")
        fault = self.inject(method="ConsolidateVMDisks_Task", object=web._moId, fault="TaskInProgress", skip=1, count=2)
        self.wait(other.ConsolidateVMDisks_Task())
        self.wait(web.ConsolidateVMDisks_Task())
        for _ in range(2):
            self.refused(vim.fault.TaskInProgress, web.ConsolidateVMDisks_Task)
        self.wait(web.ConsolidateVMDisks_Task())
        self.assertEqual([(f["id"], f["hits"]) for f in self.sim.control("GET", "/faults")], [(fault, 2)])
        self.sim.control("DELETE", f"/faults/{fault}")
        self.assertEqual(self.sim.control("GET", "/faults"), [])

    def test_slow_calls_and_slow_tasks(self):
        """The two apart: a call that waits, and a call that answers at once with a task that takes long."""
        web = self.vm("web")
        self.inject(method="ConsolidateVMDisks_Task", delayMs=700, count=1)
        start = time.monotonic()
        task = web.ConsolidateVMDisks_Task()
        self.assertGreater(time.monotonic() - start, 0.7)
        self.wait(task)
        self.inject(method="ConsolidateVMDisks_Task", on="task", delayMs=1000, count=1)
        start = time.monotonic()
        task = web.ConsolidateVMDisks_Task()
        self.assertLess(time.monotonic() - start, 0.7)
        self.assertIn(task.info.state, ("running", "queued"))
        self.wait(task)
        self.assertGreater(time.monotonic() - start, 1.0)

    def test_what_is_no_fault_is_refused(self):
        self.assertRefusedByControl(400, "properties", "POST", "/faults", {"method": "Login", "fault": "SnapshotIncompatibleDeviceInVm"})
        self.assertRefusedByControl(400, "NoSuchFault", "POST", "/faults", {"method": "Login", "fault": "NoSuchFault"})
        self.assertRefusedByControl(400, "is no fault", "POST", "/faults", {"method": "Login", "fault": "VirtualMachineConfigSpec"})
        self.assertRefusedByControl(400, "fiel", "POST", "/faults", {"method": "Login", "fault": "FileFault", "properties": {"fiel": "x"}})

    def test_vddk_faults_are_listed_and_cleared(self):
        fault = self.sim.control("POST", "/vddk/faults", {"op": "read", "error": 16392, "count": 1})["id"]
        self.assertEqual(self.sim.control("GET", "/vddk")["openDisks"], [])
        self.sim.control("DELETE", f"/vddk/faults/{fault}")
        self.assertRefusedByControl(404, "no fault", "DELETE", f"/vddk/faults/{fault}")


class Natural(Judge):
    """Faults that the state of things leads to."""

    def test_privileges(self):
        """A user who lacks one privilege is refused that one call, by its name; one who has them all does a whole cycle."""
        def cycle(si):
            web = self.vm("cycle", si)
            yield "VirtualMachine.Config.ChangeTracking", lambda: web.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True))
            yield "VirtualMachine.State.CreateSnapshot", lambda: web.CreateSnapshotEx_Task("x", "", False, None)
            yield "VirtualMachine.Provisioning.DiskRandomRead", lambda: web.QueryChangedDiskAreas(
                web.snapshot.currentSnapshot, 2000, 0, "*")
            yield "VirtualMachine.State.RemoveSnapshot", lambda: web.snapshot.currentSnapshot.RemoveSnapshot_Task(False, True)
            yield "VirtualMachine.State.RemoveSnapshot", web.ConsolidateVMDisks_Task
            yield "VirtualMachine.Interact.PowerOff", web.PowerOffVM_Task
            yield "VirtualMachine.Interact.PowerOn", web.PowerOnVM_Task

        def done(call):
            result = call()
            if isinstance(result, vim.Task):
                self.wait(result)
        for _, call in cycle(self.connect("backup@vsphere.local", "backup")):
            done(call)
        admin = {}
        for lacking in CYCLE:
            with self.subTest(lacking):
                si = self.connect(f"without-{lacking}@vsphere.local", "backup")
                admin = list(cycle(self.si))
                for n, (needed, call) in enumerate(cycle(si)):
                    if needed != lacking:
                        done(call)
                        continue
                    fault = self.refused(vim.fault.NoPermission, call)
                    self.assertEqual((fault.privilegeId, fault.object._moId), (lacking, self.vm("cycle")._moId))
                    done(admin[n][1])
        reader = self.connect("reader@vsphere.local", "reader")
        for needed, call in cycle(reader):
            if "currentSnapshot" not in call.__code__.co_names:
                self.assertEqual(self.refused(vim.fault.NoPermission, call).privilegeId, needed)

    def test_who_may_see_nothing(self):
        """API reference, Login: NoPermission if the user and password are valid, but the user has no access granted."""
        self.refused(vim.fault.NoPermission, self.sim.login, "nobody@vsphere.local", "nobody")

    def test_who_may_see_one(self):
        one = self.connect("one@vsphere.local", "one")
        web, busy = (vim.VirtualMachine(self.vm(name)._moId, one._stub) for name in ("web", "busy"))
        self.assertEqual(web.name, "web")
        self.assertEqual(self.refused(vim.fault.NoPermission, lambda: busy.name).privilegeId, "System.View")
        pc = vmodl.query.PropertyCollector
        view = one.content.viewManager.CreateContainerView(one.content.rootFolder, [vim.VirtualMachine], True)
        spec = pc.FilterSpec(
            objectSet=[pc.ObjectSpec(obj=view, skip=True, selectSet=[pc.TraversalSpec(type=vim.ContainerView, path="view", skip=False)])],
            propSet=[pc.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])])
        answer = one.content.propertyCollector.RetrievePropertiesEx([spec], pc.RetrieveOptions())
        self.assertEqual([o.propSet[0].val for o in answer.objects], ["web"])

    def test_has_privilege(self):
        manager, web = self.si.content.authorizationManager, self.vm("web")
        for user, want in {"backup@vsphere.local": True, "reader@vsphere.local": False}.items():
            si = self.connect(user, user.split("@")[0])
            key = si.content.sessionManager.currentSession.key
            got = si.content.authorizationManager.HasPrivilegeOnEntities([web], key, [CYCLE[0], "System.View"])
            self.assertEqual([(p.privId, p.isGranted) for p in got[0].privAvailability], [(CYCLE[0], want), ("System.View", True)])
        key = self.si.content.sessionManager.currentSession.key
        self.refused(vmodl.fault.InvalidArgument, manager.HasPrivilegeOnEntities, [web], key, ["None"])

    def test_task_in_progress(self):
        busy = self.vm("busy")
        self.sim.control("POST", "/faults", {"method": "CreateSnapshotEx_Task", "on": "task", "delayMs": 1500, "count": 1})
        task = busy.CreateSnapshotEx_Task("slow", "", False, None)
        fault = self.refused(vim.fault.TaskInProgress, busy.ConsolidateVMDisks_Task)
        self.assertEqual(fault.task, task)
        self.refused(vim.fault.TaskInProgress, busy.CreateSnapshotEx_Task, "two", "", False, None)
        self.assertRefusedByControl(409, "wait for it", "POST", "/vms/busy/snapshots", {"name": "foreign"})
        self.remove(self.wait(task))

    def test_task_in_progress_in_the_task(self):
        sim, shared = Simulator(inventory([tracked("busy", disk(MIB))], settings={"busyFault": "task", "taskTime": "800ms"})), Judge.sim
        self.addCleanup(sim.stop)
        Judge.sim = sim
        try:
            self.si = self.connect()
            busy = self.vm("busy")
            first = busy.CreateSnapshotEx_Task("one", "", False, None)
            second = busy.CreateSnapshotEx_Task("two", "", False, None)
            self.refused(vim.fault.TaskInProgress, self.wait, second)
            self.wait(first)
        finally:
            Judge.sim = shared

    def test_cancelled_task(self):
        busy = self.vm("busy")
        self.sim.control("POST", "/faults", {"method": "CreateSnapshotEx_Task", "on": "task", "delayMs": 20000, "count": 1})
        task = busy.CreateSnapshotEx_Task("slow", "", False, None)
        self.assertTrue(task.info.cancelable)
        task.CancelTask()
        self.refused(vmodl.fault.RequestCanceled, self.wait, task)
        self.assertIsNone(busy.snapshot)

    def test_method_disabled(self):
        """As another backup product leaves it."""
        web = self.vm("web")
        self.sim.control("PUT", "/vms/web/disabledMethods", {"methods": ["CreateSnapshotEx_Task", "RelocateVM_Task"]})
        self.assertLessEqual({"CreateSnapshotEx_Task", "RelocateVM_Task"}, set(web.disabledMethod))
        self.refused(vim.fault.MethodDisabled, web.CreateSnapshotEx_Task, "x", "", False, None)
        self.refused(vim.fault.MethodDisabled, web.RelocateVM_Task, vim.vm.RelocateSpec())
        self.wait(web.ConsolidateVMDisks_Task())
        self.sim.control("PUT", "/vms/web/disabledMethods", {"methods": []})
        self.remove(self.snapshot(web))

    def test_power(self):
        off, guest = self.vm("off"), self.vm("guest")
        fault = self.refused(vim.fault.InvalidPowerState, off.PowerOffVM_Task)
        self.assertEqual(fault.existingState, "poweredOff")
        self.refused(vim.fault.InvalidPowerState, guest.PowerOnVM_Task)
        self.refused(vim.fault.InvalidPowerState, off.ShutdownGuest)
        self.assertRefusedByControl(409, "not powered on", "PUT", "/vms/off/disks/2000/bytes", raw=b"x", offset=0)
        self.sim.control("PUT", "/vms/guest/tools", {"state": "notInstalled"})
        self.refused(vim.fault.ToolsUnavailable, guest.ShutdownGuest)
        self.assertEqual(guest.guest.toolsRunningStatus, "guestToolsNotRunning")
        self.sim.control("PUT", "/vms/guest/tools", {"state": "running"})
        guest.ShutdownGuest()
        self.assertEqual(guest.runtime.powerState, "poweredOn", "the guest takes its time")
        self.until(lambda: guest.runtime.powerState == "poweredOff")
        self.wait(guest.PowerOnVM_Task())
        self.wait(guest.PowerOffVM_Task())
        self.wait(guest.PowerOnVM_Task())

    def test_hosts(self):
        lost = self.vm("lost")
        self.addCleanup(self.sim.control, "PATCH", "/hosts/esx-2", {"maintenance": False, "connection": "connected"})
        for state, kinds in {"disconnected": ("disconnected", vmodl.fault.HostNotConnected),
                             "notResponding": ("disconnected", vmodl.fault.HostNotConnected)}.items():
            self.sim.control("PATCH", "/hosts/esx-2", {"connection": state})
            self.assertEqual(self.host("esx-2").runtime.connectionState, state)
            self.assertEqual(lost.runtime.connectionState, kinds[0])
            with self.assertRaises((vmodl.fault.HostNotConnected, vmodl.fault.HostCommunication, vim.fault.InvalidState)):
                self.wait(lost.CreateSnapshotEx_Task("x", "", False, None))
            self.sim.control("PATCH", "/hosts/esx-2", {"connection": "connected"})
            self.assertEqual(lost.runtime.connectionState, "connected")
        self.sim.control("PATCH", "/hosts/esx-2", {"maintenance": True})
        self.assertTrue(self.host("esx-2").runtime.inMaintenanceMode)
        with self.assertRaises((vim.fault.InvalidState, vmodl.fault.HostNotConnected)):
            self.wait(self.vm("guest").RelocateVM_Task(vim.vm.RelocateSpec(host=self.host("esx-2"))))

    def test_machines_that_go_and_are_renamed(self):
        gone = self.vm("gone")
        self.sim.control("DELETE", "/vms/gone")
        self.refused(vmodl.fault.ManagedObjectNotFound, lambda: gone.name)
        self.refused(vmodl.fault.ManagedObjectNotFound, gone.CreateSnapshotEx_Task, "x", "", False, None)
        self.refused(vmodl.fault.ManagedObjectNotFound, gone.QueryChangedDiskAreas, None, 2000, 0, "*")
        renamed = self.vm("renamed")
        uuid = renamed.config.instanceUuid
        self.sim.control("PUT", "/vms/renamed/name", {"name": "new name"})
        self.assertEqual((renamed.name, renamed.config.instanceUuid), ("new name", uuid))
        self.assertEqual(self.vm("new name"), renamed)
        self.refused(vim.fault.DuplicateName, renamed.Rename_Task, "web")

    def test_what_is_not_simulated_is_refused(self):
        """Better than a machine of which nothing is true."""
        web = self.vm("web")
        spec = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=False, template=False)
        self.refused(vmodl.fault.NotSupported, web.CloneVM_Task, web.parent, "clone", spec)
        self.refused(vmodl.fault.NotSupported, web.ReconfigVM_Task, vim.vm.ConfigSpec(firmware="bios"))


class Consolidation(Judge):
    def test_left_behind_until_it_clears(self):
        """KB 2003638: the removal succeeds, the delta stays; consolidation fails so many times, then it is done."""
        web = self.vm("consolidated")
        snap = self.snapshot(web)
        since = self.change_id(snap)
        self.write(web, 0, b"in the delta")
        self.sim.control("PUT", "/vms/consolidated/consolidation", {"tries": 2})
        self.remove(snap)
        self.assertIsNone(web.snapshot, "the snapshot is gone")
        self.assertTrue(web.runtime.consolidationNeeded)
        self.assertIn("-000001.vmdk", self.disks(web)[2000].backing.fileName, "its delta is not")
        for _ in range(2):
            self.refused(vim.fault.FileLocked, web.ConsolidateVMDisks_Task)
            self.assertTrue(web.runtime.consolidationNeeded)
        self.wait(web.ConsolidateVMDisks_Task())
        self.assertFalse(web.runtime.consolidationNeeded)
        self.assertNotIn("-000001.vmdk", self.disks(web)[2000].backing.fileName)
        snap = self.snapshot(web)
        self.assertEqual(self.areas(web, snap, since), [(0, 65536)], "nothing that changed was lost over it")
        self.remove(snap)

    def test_without_consolidating(self):
        web = self.vm("consolidated")
        snap = self.snapshot(web)
        self.wait(snap.RemoveSnapshot_Task(removeChildren=False, consolidate=False))
        self.assertTrue(web.runtime.consolidationNeeded)
        self.wait(web.ConsolidateVMDisks_Task())
        self.assertFalse(web.runtime.consolidationNeeded)


if __name__ == "__main__":
    unittest.main()
