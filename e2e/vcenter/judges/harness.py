"""Starts the simulator as a program, and speaks to it as pyvmomi, govc and curl do."""

import atexit
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

ADMIN, PASSWORD = "administrator@vsphere.local", "sandbox"
GRAIN = 64 << 10
CHANGE_ID = re.compile(r"^52( [0-9a-f]{2}){7}-[0-9a-f]{2}( [0-9a-f]{2}){7}/[0-9]+$")


def binary(name):
    """A program that run.sh has built."""
    path = os.path.join(os.environ.get("JUDGES_BIN", ""), name)
    if not os.access(path, os.X_OK):
        sys.exit(f"{path or name} is not there: run e2e/vcenter/judges/run.sh, which builds it")
    return path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Simulator:
    """One running simulator, on loopback, in a folder of its own."""

    def __init__(self, inventory, patience=60):
        self.state = tempfile.mkdtemp(prefix="judges-")
        self.cert = self._certificate()
        path = os.path.join(self.state, "inventory.yaml")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(inventory, f)  # JSON is YAML
        self.port, self.control_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.log = open(os.path.join(self.state, "log"), "w+", encoding="utf-8")
        started = time.monotonic()
        self.process = subprocess.Popen(
            [binary("vcenter"), "--listen", f"127.0.0.1:{self.port}", "--control", f"127.0.0.1:{self.control_port}",
             "--cert", self.cert, "--key", self.cert, "--inventory", path, "--state", os.path.join(self.state, "data")],
            stdout=subprocess.PIPE, stderr=self.log, text=True)
        atexit.register(self.stop)
        timer = threading.Timer(patience, self.process.kill)
        timer.start()
        for line in self.process.stdout:
            if line.startswith("ready "):
                break
        else:
            self.log.seek(0)
            raise RuntimeError(f"the simulator is not ready after {patience} s:\n{self.log.read()}")
        timer.cancel()
        self.seconds = time.monotonic() - started

    def _certificate(self):
        path = os.path.join(self.state, "server.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", "/CN=vcenter.sandbox", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", path + ".crt"],
                       check=True, capture_output=True)
        with open(path, "a", encoding="utf-8") as pem, open(path + ".crt", encoding="utf-8") as crt:
            pem.write(crt.read())
        return path

    def stop(self):
        """Ends it as systemd would; True when it ended well."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log.close()
        shutil.rmtree(self.state, ignore_errors=True)
        return self.process.returncode == 0

    def tls(self):
        return ssl.create_default_context(cafile=self.cert + ".crt")

    def login(self, user=ADMIN, password=PASSWORD):
        return SmartConnect(host="127.0.0.1", port=self.port, user=user, pwd=password, sslContext=self.tls())

    def control(self, method, path, body=None, raw=None, **query):
        """One call of the control port: JSON in, JSON (or bytes) out."""
        url = f"http://127.0.0.1:{self.control_port}/v1{urllib.parse.quote(path)}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method), timeout=120) as answer:
            content = answer.read()
            if answer.headers.get("Content-Type") == "application/json":
                return json.loads(content)
            return content

    def get(self, path, cookie=None, headers=None, method="GET"):
        """One request of the datastores' https access: status, bytes."""
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}), method=method)
        if cookie:
            request.add_header("Cookie", cookie)
        try:
            with urllib.request.urlopen(request, context=self.tls(), timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()


class Judge(unittest.TestCase):
    """A test with a simulator that its module shares, and a login of its own."""

    sim = None
    longMessage = True

    def setUp(self):
        self.sim.control("POST", "/reset")
        self.si = self.connect()

    def connect(self, user=ADMIN, password=PASSWORD):
        si = self.sim.login(user, password)
        self.addCleanup(self.forget, si)
        return si

    @staticmethod
    def forget(si):
        try:
            Disconnect(si)
        except Exception:  # pylint: disable=broad-except
            pass  # the session may be what the test has ended

    def vm(self, name, si=None):
        content = (si or self.si).content
        vm = content.searchIndex.FindByInventoryPath(f"DC/vm/{name}")
        self.assertIsNotNone(vm, f"the inventory has no {name}")
        return vm

    def all(self, kind, si=None):
        content = (si or self.si).content
        view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
        found = list(view.view)
        view.Destroy()
        return found

    def host(self, name):
        return next(h for h in self.all(vim.HostSystem) if h.name == name)

    def store(self, name):
        return next(d for d in self.all(vim.Datastore) if d.name == name)

    def wait(self, task, patience=60):
        """The result of a task; its error is raised."""
        end = time.monotonic() + patience
        while task.info.state not in (vim.TaskInfo.State.success, vim.TaskInfo.State.error):
            self.assertLess(time.monotonic(), end, f"{task} did not end in {patience} s")
            time.sleep(0.02)
        if task.info.state == vim.TaskInfo.State.error:
            raise task.info.error
        return task.info.result

    def until(self, what, seconds=10):
        end = time.monotonic() + seconds
        while not what():
            self.assertLess(time.monotonic(), end, "it did not come about in time")
            time.sleep(0.05)

    def snapshot(self, vm, name="cycle"):
        return self.wait(vm.CreateSnapshotEx_Task(name=name, description="", memory=False, quiesceSpec=None))

    def remove(self, snap, children=False):
        self.wait(snap.RemoveSnapshot_Task(removeChildren=children, consolidate=True))

    def track(self, vm):
        """Switches change tracking on and makes it active, as a replication does."""
        self.wait(vm.ReconfigVM_Task(spec=vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        self.remove(self.snapshot(vm, "stun"))

    @staticmethod
    def disks(owner):
        """The disks of a VM, or of a snapshot, by key."""
        return {d.key: d for d in owner.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)}

    def change_id(self, owner, key=2000):
        return self.disks(owner)[key].backing.changeId

    def write(self, vm, offset, data=None, length=None, key=2000, **query):
        """The guest writes: bytes, a seeded pattern (seed=) or zeroes (zero=True)."""
        if length is not None:
            query["length"] = length
        if "zero" in query:
            query["zero"] = "true"
        self.sim.control("PUT", f"/vms/{vm._moId}/disks/{key}/bytes", raw=data or b"", offset=offset, **query)

    def frozen(self, snap, offset=0, length=None, key=2000):
        query = {"offset": offset}
        if length is not None:
            query["length"] = length
        return self.sim.control("GET", f"/snapshots/{snap._moId}/disks/{key}/bytes", **query)

    def sha(self, snap, key=2000):
        return self.sim.control("GET", f"/snapshots/{snap._moId}/disks/{key}/sha256")["sha256"]

    def pages(self, vm, snap, change_id, key=2000, capacity=None):
        """Walks all pages; each is held to its form."""
        capacity = capacity or self.disks(snap or vm)[key].capacityInBytes
        pages, at = [], 0
        while at < capacity:
            page = vm.QueryChangedDiskAreas(snapshot=snap, deviceKey=key, startOffset=at, changeId=change_id)
            self.assertEqual(page.startOffset, at)
            self.assertGreater(page.length, 0)
            self.assertLessEqual(len(page.changedArea), 2000)
            last = at
            for area in page.changedArea:
                self.assertGreater(area.length, 0)
                self.assertGreaterEqual(area.start, last)
                last = area.start + area.length
            at = page.startOffset + page.length
            self.assertLessEqual(last, at)
            pages.append([(a.start, a.length) for a in page.changedArea])
        self.assertEqual(at, capacity)
        return pages

    def areas(self, vm, snap, change_id, key=2000):
        return [a for page in self.pages(vm, snap, change_id, key) for a in page]

    def refused(self, kind, call, *args, **kwargs):
        """The call must end in exactly this fault (a task's counts, too)."""
        try:
            result = call(*args, **kwargs)
            if isinstance(result, vim.Task):
                self.wait(result)
        except vmodl.MethodFault as fault:
            self.assertIs(type(fault), type(kind()), f"another fault: {fault.__class__.__name__} {fault.msg}")
            return fault
        self.fail(f"it was not refused; {kind().__class__.__name__} was due")

    def assertRefusedByControl(self, status, says, *args, **kwargs):
        with self.assertRaises(urllib.error.HTTPError) as raised:
            self.sim.control(*args, **kwargs)
        answer = raised.exception
        text = answer.read().decode()
        self.assertEqual(answer.code, status, text)
        self.assertIn(says, text)


def share(inventory):
    """setUpModule and tearDownModule of a module whose tests share one simulator."""
    def start():
        Judge.sim = Simulator(inventory)

    def stop():
        sim, Judge.sim = Judge.sim, None
        if not sim.stop():
            raise RuntimeError(f"the simulator ended with {sim.process.returncode} on SIGTERM")
    return start, stop
