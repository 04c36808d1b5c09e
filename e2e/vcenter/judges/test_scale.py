"""Many machines: they are there in time, and one call reads them all."""

import os
import time
import unittest

from harness import Judge, Simulator
from inventory import MIB, disk, inventory, vm
from pyVmomi import vim, vmodl

COUNT, SECONDS = 500, 30


class Scale(unittest.TestCase):
    def test_500_machines_in_30_seconds(self):
        pattern = vm("", disk(64 * MIB), disk(16 * MIB), cbt=True)
        pattern.pop("name")
        sim = Simulator(inventory([], generate=[{"prefix": "vm", "count": COUNT, "vm": pattern}]), patience=180)
        self.addCleanup(sim.stop)
        with open(f"/proc/{sim.process.pid}/status", encoding="utf-8") as f:
            memory = next(line.split()[1] for line in f if line.startswith("VmRSS"))
        print(f"\n{COUNT} machines of 2 disks: ready after {sim.seconds:.1f} s with {int(memory) // 1024} MiB, "
              f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        self.assertLess(sim.seconds, SECONDS)
        si = sim.login()
        view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [vim.VirtualMachine], True)
        pc = vmodl.query.PropertyCollector
        spec = pc.FilterSpec(
            objectSet=[pc.ObjectSpec(obj=view, skip=True, selectSet=[pc.TraversalSpec(type=vim.ContainerView, path="view", skip=False)])],
            propSet=[pc.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "config.instanceUuid", "config.hardware.device"])])
        started = time.monotonic()
        answer, names = si.content.propertyCollector.RetrievePropertiesEx([spec], pc.RetrieveOptions()), set()
        while answer:
            names |= {p.val for o in answer.objects for p in o.propSet if p.name == "config.instanceUuid"}
            answer = si.content.propertyCollector.ContinueRetrievePropertiesEx(answer.token) if answer.token else None
        print(f"all read by one collector in {time.monotonic() - started:.1f} s")
        self.assertEqual(len(names), COUNT)
        judge = Judge()
        machine = si.content.searchIndex.FindByInventoryPath("DC/vm/vm-250")
        snap = judge.wait(machine.CreateSnapshotEx_Task("x", "", False, None))
        self.assertTrue(judge.change_id(snap))
        self.assertTrue(sim.stop(), "it ends well on SIGTERM")


if __name__ == "__main__":
    unittest.main()
