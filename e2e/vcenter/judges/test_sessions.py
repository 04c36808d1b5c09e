"""A login is checked on every path; sessions expire and are limited."""

import time
import unittest

from harness import ADMIN, Judge, Simulator, share
from inventory import disk, inventory, tracked, vm
from pyVmomi import SoapAdapter, vim, vmodl

setUpModule, tearDownModule = share(inventory([tracked("on"), vm("off", disk(), power="off")]))


class Sessions(Judge):
    def test_wrong_logins(self):
        for user, password in [(ADMIN, "wrong"), (ADMIN, ""), ("none@vsphere.local", "sandbox"), ("", "")]:
            with self.subTest(user=user, password=password), self.assertRaises(vim.fault.InvalidLogin):
                self.sim.login(user, password)

    def anonymous(self):
        """A client with no session."""
        stub = SoapAdapter.SoapStubAdapter(host="127.0.0.1", port=self.sim.port, sslContext=self.sim.tls(), path="/sdk",
                                           version=self.si._stub.version)
        return stub

    def test_nothing_without_a_login(self):
        stub = self.anonymous()
        content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
        self.assertTrue(content.about.apiVersion, "the service content is open to all")
        bare = vim.VirtualMachine(self.vm("on")._moId, stub)
        pc = vmodl.query.PropertyCollector
        spec = pc.FilterSpec(objectSet=[pc.ObjectSpec(obj=bare)], propSet=[pc.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])])
        for name, call in {
            "a property": lambda: bare.name,
            "the collector": lambda: content.propertyCollector.RetrievePropertiesEx([spec], pc.RetrieveOptions()),
            "a view": lambda: content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True),
            "the search": lambda: content.searchIndex.FindByInventoryPath("DC/vm/on"),
            "a snapshot": lambda: bare.CreateSnapshotEx_Task(name="x", description="", memory=False, quiesceSpec=None),
            "changed areas": lambda: bare.QueryChangedDiskAreas(snapshot=None, deviceKey=2000, startOffset=0, changeId="*"),
            "power": bare.PowerOffVM_Task,
            "a clone ticket": content.sessionManager.AcquireCloneTicket,
        }.items():
            with self.subTest(name):
                self.refused(vim.fault.NotAuthenticated, call)
        self.assertEqual(self.vm("on").runtime.powerState, "poweredOn")

    def test_a_wrong_cookie_is_no_session(self):
        stub = self.anonymous()
        stub.cookie = 'vmware_soap_session="0123456789abcdef"; Path=/; HttpOnly; Secure;'
        self.refused(vim.fault.NotAuthenticated, lambda: vim.VirtualMachine(self.vm("on")._moId, stub).name)

    def test_logout_ends_the_session(self):
        on = self.vm("on")
        self.assertEqual(on.name, "on")
        self.si.content.sessionManager.Logout()
        self.refused(vim.fault.NotAuthenticated, lambda: on.name)

    def test_the_cookie_is_quoted(self):
        """vCenter writes the cookie's value in quotes."""
        self.assertRegex(self.si._stub.cookie, r'^vmware_soap_session="[^"]+"; Path=/; HttpOnly; Secure')

    def test_sessions_are_ended_by_fate(self):
        on = self.vm("on")
        other = self.connect("reader@vsphere.local", "reader")
        self.assertEqual(self.sim.control("DELETE", "/sessions", user=ADMIN), {"ended": 1})
        self.refused(vim.fault.NotAuthenticated, lambda: on.name)
        self.assertEqual(self.vm("on", other).name, "on", "only the named user's session ends")
        self.assertEqual(self.vm("on", self.connect()).name, "on", "a new login helps")

    def test_idle_sessions_expire(self):
        sim = Simulator(inventory([vm("on")], settings={"sessionIdle": "1500ms"}))
        self.addCleanup(sim.stop)
        si = sim.login()
        manager = si.content.sessionManager
        for _ in range(6):  # one that is used stays
            time.sleep(0.5)
            self.assertIsNotNone(manager.currentSession)
        time.sleep(2.5)
        self.assertIsNone(manager.currentSession)
        self.refused(vim.fault.NotAuthenticated, lambda: si.content.searchIndex.FindByInventoryPath("DC/vm/on"))

    def test_the_number_of_sessions_is_limited(self):
        self.sim.control("PUT", "/sessions/limit", {"max": 1})
        # pyvmomi makes this fault of its own of what is not SOAP.
        self.assertIn("503", self.refused(vim.fault.HostConnectFault, self.sim.login).msg)
        self.assertEqual(self.vm("on").name, "on", "who has a session goes on")
        self.si.content.sessionManager.Logout()
        self.assertEqual(self.vm("on", self.connect()).name, "on", "a place that was given back is free")

    def test_clone_ticket_is_good_once(self):
        ticket = self.si.content.sessionManager.AcquireCloneTicket()
        first = vim.ServiceInstance("ServiceInstance", self.anonymous())
        first.content.sessionManager.CloneSession(ticket)
        self.assertEqual(self.vm("on", first).name, "on")
        second = vim.ServiceInstance("ServiceInstance", self.anonymous())
        self.refused(vim.fault.InvalidLogin, second.content.sessionManager.CloneSession, ticket)

    def test_terminated_session(self):
        other = self.connect()
        key = other.content.sessionManager.currentSession.key
        self.refused(vim.fault.NoPermission, self.connect("reader@vsphere.local", "reader").content.sessionManager.TerminateSession, [key])
        self.si.content.sessionManager.TerminateSession([key])
        self.refused(vim.fault.NotAuthenticated, self.vm, "on", other)

    def test_filters_die_with_the_session(self):
        pc = vmodl.query.PropertyCollector
        collector = self.si.content.propertyCollector.CreatePropertyCollector()
        self.sim.control("DELETE", "/sessions")
        self.refused(vim.fault.NotAuthenticated, collector.CheckForUpdates, "")
        stub = self.connect()._stub
        again = vmodl.query.PropertyCollector(collector._moId, stub)
        self.refused(vmodl.fault.ManagedObjectNotFound, again.WaitForUpdatesEx, None, pc.WaitOptions(maxWaitSeconds=1))


class Folder(Judge):
    """https access to datastores."""

    def setUp(self):
        super().setUp()
        self.cookie = self.si._stub.cookie.split(";")[0]

    def path(self, name, file=None):
        where = self.disks(self.vm(name))[2000].backing.fileName.split("] ")[1]
        return f"/folder/{file or where}?dcPath=DC&dsName=vmfs"

    def test_refuses_without_a_session(self):
        for cookie in (None, "vmware_soap_session=none", 'vmware_soap_session="none"'):
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                with self.subTest(cookie=cookie, method=method):
                    self.assertEqual(self.sim.get(self.path("off"), cookie, method=method)[0], 401)

    def test_answers_with_a_session_until_it_ends(self):
        status, body = self.sim.get(self.path("off"), self.cookie)
        self.assertEqual(status, 200)
        self.assertIn(b'VMFS "', body)
        flat = self.path("off").replace(".vmdk", "-flat.vmdk")
        status, body = self.sim.get(flat, self.cookie, {"Range": "bytes=512-1535"})
        self.assertEqual((status, len(body)), (206, 1024))
        self.sim.control("DELETE", "/sessions")
        self.assertEqual(self.sim.get(flat, self.cookie)[0], 401)

    def test_needs_datastore_browse(self):
        reader = self.connect("reader@vsphere.local", "reader")
        self.assertEqual(self.sim.get(self.path("off"), reader._stub.cookie.split(";")[0])[0], 403)

    def test_locked_while_the_machine_runs(self):
        self.assertEqual(self.sim.get(self.path("on").replace(".vmdk", "-flat.vmdk"), self.cookie)[0], 500)

    def test_not_found(self):
        self.assertEqual(self.sim.get("/folder/off/none.vmdk?dcPath=DC&dsName=vmfs", self.cookie)[0], 404)
        self.assertEqual(self.sim.get("/folder/off/off.vmdk?dcPath=DC&dsName=none", self.cookie)[0], 404)
        self.assertEqual(self.sim.get("/folder/../../inventory.yaml?dcPath=DC&dsName=vmfs", self.cookie)[0], 404)


if __name__ == "__main__":
    unittest.main()
