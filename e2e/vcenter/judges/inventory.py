"""The inventory that the judges meet: one VM for each purpose, so that no test meets another's snapshots."""

MIB = 1 << 20

# What replication needs (vSphere's names), and a user who lacks each.
CYCLE = [
    "VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot", "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Provisioning.DiskRandomRead", "VirtualMachine.Interact.PowerOff", "VirtualMachine.Interact.PowerOn",
]


def disk(size=64 * MIB, **more):
    return {"size": size, **more}


def vm(name, *disks, **more):
    return {"name": name, "datastore": "vmfs", "host": "esx-1", "disks": list(disks) or [disk()], **more}


def filled(seed, length=8 * MIB, offset=0):
    return {"seed": seed, "extents": [{"offset": offset, "length": length}]}


def tracked(name, *disks, **more):
    return vm(name, *disks, cbt=True, **more)


def inventory(vms, settings=None, users=(), **more):
    return {
        "name": "judges", "version": "8.0.3", "settings": {"guestShutdown": "300ms", **(settings or {})},
        "datacenters": [{
            "name": "DC", "networks": ["VM Network", "backup"],
            "clusters": [{"name": "cluster", "hosts": [{"name": "esx-1"}, {"name": "esx-2", "build": "22380479"}]}],
            "datastores": [
                {"name": "vmfs", "type": "VMFS", "capacity": "500GiB"}, {"name": "other", "type": "VMFS", "capacity": "500GiB"},
                {"name": "small", "type": "VMFS", "capacity": "64MiB"},
                {"name": "vsan", "type": "vsan", "capacity": "100GiB", "allocated": "whole"},
                {"name": "nfs", "type": "NFS", "capacity": "100GiB", "allocated": "fault"},
            ]}],
        "users": [
            {"name": "reader@vsphere.local", "password": "reader", "permissions": [{"entity": "/", "role": "ReadOnly"}]},
            {"name": "nobody@vsphere.local", "password": "nobody", "permissions": []},
            {"name": "backup@vsphere.local", "password": "backup", "permissions": [{"entity": "/", "privileges": CYCLE}]},
        ] + [
            {"name": f"without-{p}@vsphere.local", "password": "backup",
             "permissions": [{"entity": "/", "privileges": [q for q in CYCLE if q != p]}]} for p in CYCLE
        ] + list(users),
        "vms": vms, **more,
    }
