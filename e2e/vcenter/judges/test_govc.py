"""govc, the other client: the same inventory, snapshots and refusals by its own code."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest

from harness import ADMIN, CHANGE_ID, PASSWORD, Judge, binary, share
from inventory import MIB, disk, filled, inventory, tracked, vm

setUpModule, tearDownModule = share(inventory([
    vm("web", disk(8 * MIB, content=filled(1)), disk(4 * MIB), folder="prod", cbt=True), vm("off", disk(4 * MIB), power="off"),
    tracked("snaps", disk(4 * MIB)),
    tracked("moved", disk(4 * MIB)), tracked("grown", disk(4 * MIB)), vm("guest", disk(4 * MIB)), tracked("left", disk(4 * MIB)),
]))


class Govc(Judge):
    def setUp(self):
        super().setUp()
        self.home = tempfile.mkdtemp(prefix="govc-")
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)

    def run_govc(self, *args, user=ADMIN, password=PASSWORD, persist=False):
        env = {"PATH": os.environ["PATH"], "HOME": self.home, "GOVC_URL": f"{self.sim.url}/sdk", "GOVC_USERNAME": user,
               "GOVC_PASSWORD": password,
               "GOVC_TLS_CA_CERTS": self.sim.cert + ".crt", "GOVC_DATACENTER": "DC", "GOVC_DATASTORE": "vmfs",
               "GOVC_PERSIST_SESSION": str(persist).lower()}
        return subprocess.run([binary("govc"), *args], env=env, capture_output=True, text=True, timeout=120, check=False)

    def govc(self, *args, **how):
        """What it prints; it must succeed."""
        done = self.run_govc(*args, **how)
        self.assertEqual(done.returncode, 0, f"govc {args}: {done.stderr or done.stdout}")
        return done.stdout

    def json(self, command, *args, **how):
        return json.loads(self.govc(command, "-json", *args, **how))

    def refuses(self, says, *args, **how):
        done = self.run_govc(*args, **how)
        self.assertNotEqual(done.returncode, 0, f"govc {args} was not refused: {done.stdout}")
        self.assertIn(says, done.stderr + done.stdout)

    def test_inventory(self):
        self.assertIn('"apiType": "VirtualCenter"', self.govc("about", "-json").replace('":"', '": "'))
        self.assertEqual(set(self.govc("find", "/DC", "-type", "m").split()),
                         {"/DC/vm/prod/web"} | {f"/DC/vm/{n}" for n in ("off", "snaps", "moved", "grown", "guest", "left")})
        self.assertEqual(sorted(self.govc("find", "/DC/host", "-type", "h").split()), ["/DC/host/cluster/esx-1", "/DC/host/cluster/esx-2"])
        machine = self.json("vm.info", "/DC/vm/prod/web")["virtualMachines"][0]
        disks = [d for d in machine["config"]["hardware"]["device"] if d.get("capacityInBytes")]
        self.assertEqual([d["capacityInBytes"] for d in disks], [8 * MIB, 4 * MIB])
        self.assertTrue(machine["config"]["changeTrackingEnabled"])
        self.assertEqual(machine["runtime"]["powerState"], "poweredOn")
        self.assertIn("esx-1", self.govc("host.info", "-host", "esx-1"))
        self.assertIn("vmfs", self.govc("datastore.info", "vmfs"))
        self.assertIn("disk-", self.govc("device.ls", "-vm", "/DC/vm/prod/web"))
        self.assertEqual(self.govc("object.collect", "-s", "/DC/vm/off", "runtime.powerState").strip(), "poweredOff")

    def test_logins(self):
        self.refuses("incorrect user name or password", "about", "-json", password="wrong", persist=False)
        self.govc("session.login", persist=True)
        self.assertIn(ADMIN, self.govc("session.ls", persist=True))
        self.sim.control("DELETE", "/sessions")
        self.assertIn("vmfs", self.govc("datastore.info", "vmfs", persist=True), "it logs in anew")
        self.govc("session.logout", persist=True)
        self.sim.control("PUT", "/sessions/limit", {"max": 1})
        self.connect()
        self.refuses("503", "about")

    def test_snapshots(self):
        name = "/DC/vm/snaps"
        self.govc("snapshot.create", "-vm", name, "-m=false", "one")
        self.govc("snapshot.create", "-vm", name, "-m=false", "two")
        tree = self.govc("snapshot.tree", "-vm", name, "-i")
        self.assertIn("one", tree)
        self.assertIn("two", tree)
        node = self.json("snapshot.tree", "-vm", name)
        self.assertIn("one", json.dumps(node))
        machine = self.json("vm.info", name)["virtualMachines"][0]
        first = machine["snapshot"]["rootSnapshotList"][0]
        second = first["childSnapshotList"][0]
        ids = []
        for snap in (first, second):
            devices = self.json("object.collect", f"VirtualMachineSnapshot:{snap['snapshot']['value']}", "config.hardware.device")
            text = json.dumps(devices)
            ids += [d["backing"]["changeId"] for d in find(json.loads(text), "capacityInBytes")]
        self.assertEqual(len(ids), 2)
        for change_id in ids:
            self.assertRegex(change_id, CHANGE_ID)
        self.assertNotEqual(*ids)
        current = find(machine["config"]["hardware"]["device"], "capacityInBytes")[0]["backing"]
        self.assertIn("-000002.vmdk", current["fileName"])
        self.govc("snapshot.revert", "-vm", name, "one")
        self.govc("snapshot.remove", "-vm", name, "two")
        self.govc("snapshot.remove", "-vm", name, "one")
        self.refuses("no snapshots", "snapshot.remove", "-vm", name, "one")
        self.assertNotIn("one", self.govc("snapshot.tree", "-vm", name))

    def test_refusals(self):
        name = "/DC/vm/prod/web"
        reader = {"user": "reader@vsphere.local", "password": "reader"}
        self.refuses("Permission", "snapshot.create", "-vm", name, "-m=false", "x", **reader)
        self.refuses("Permission", "vm.power", "-off", name, **reader)
        self.refuses("Permission", "vm.change", "-vm", name, "-e", "a=b", **reader)
        self.refuses("current state", "vm.power", "-off", "/DC/vm/off")
        self.refuses("no such VM", "vm.info", "-r", "-vm.uuid", "00000000-0000-0000-0000-000000000000")
        self.sim.control("PUT", "/vms/web/disabledMethods", {"methods": ["CreateSnapshot_Task"]})
        self.refuses("disabled", "snapshot.create", "-vm", name, "-m=false", "x")
        self.sim.control("POST", "/faults", {"method": "CreateSnapshot_Task", "on": "task", "fault": "FileFault", "message": "as injected"})
        self.sim.control("PUT", "/vms/web/disabledMethods", {"methods": []})
        self.refuses("as injected", "snapshot.create", "-vm", name, "-m=false", "x")

    def test_a_full_datastore(self):
        self.sim.control("PATCH", "/datastores/vmfs", {"free": 0})
        self.refuses("space", "snapshot.create", "-vm", "/DC/vm/snaps", "-m=false", "x")
        self.sim.control("POST", "/reset")

    def test_growth(self):
        self.govc("vm.disk.change", "-vm", "/DC/vm/grown", "-size", "8M")
        self.assertEqual(self.sim.control("GET", "/vms/grown")["disks"][0]["capacity"], 8 * MIB)
        self.govc("snapshot.create", "-vm", "/DC/vm/grown", "-m=false", "x")
        self.refuses("snapshots", "vm.disk.change", "-vm", "/DC/vm/grown", "-size", "16M")
        self.govc("snapshot.remove", "-vm", "/DC/vm/grown", "x")

    def test_migration(self):
        self.govc("vm.migrate", "-host", "/DC/host/cluster/esx-2", "/DC/vm/moved")
        self.assertEqual(self.sim.control("GET", "/vms/moved")["host"], "esx-2")
        self.govc("vm.migrate", "-ds", "other", "/DC/vm/moved")
        self.assertTrue(self.sim.control("GET", "/vms/moved")["disks"][0]["file"].startswith("[other] "))
        self.refuses("not found", "vm.migrate", "-ds", "none", "/DC/vm/moved")

    def test_power(self):
        self.govc("vm.power", "-s", "/DC/vm/guest")
        self.until(lambda: self.sim.control("GET", "/vms/guest")["power"] == "off")
        self.govc("vm.power", "-on", "/DC/vm/guest")
        self.sim.control("PUT", "/vms/guest/tools", {"state": "notInstalled"})
        self.refuses("Tools", "vm.power", "-s", "/DC/vm/guest")
        self.govc("vm.power", "-off", "/DC/vm/guest")

    def test_datastore_files(self):
        listing = self.govc("datastore.ls", "-ds", "vmfs", "off")
        self.assertIn("-flat.vmdk", listing)
        target = os.path.join(self.home, "descriptor")
        descriptor = next(n for n in listing.split() if n.endswith(".vmdk") and "-flat" not in n)
        self.govc("datastore.download", "-ds", "vmfs", f"off/{descriptor}", target)
        with open(target, encoding="utf-8") as f:
            self.assertIn("Disk DescriptorFile", f.read())
        self.refuses("403", "datastore.download", "-ds", "vmfs", f"off/{descriptor}", target, user="reader@vsphere.local",
                     password="reader")

    def test_consolidation(self):
        name = "/DC/vm/left"
        self.govc("snapshot.create", "-vm", name, "-m=false", "x")
        self.sim.control("PUT", "/vms/left/consolidation", {"tries": 0})
        self.govc("snapshot.remove", "-vm", name, "x")
        self.assertEqual(self.govc("object.collect", "-s", name, "runtime.consolidationNeeded").strip(), "true")


def find(value, key):
    """All objects in a JSON value that have a key."""
    if isinstance(value, list):
        return [x for v in value for x in find(v, key)]
    if isinstance(value, dict):
        return ([value] if key in value else []) + [x for v in value.values() for x in find(v, key)]
    return []


if __name__ == "__main__":
    unittest.main()
