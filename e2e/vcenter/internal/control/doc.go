// Package control is the control port of the vCenter simulator: plain HTTP and JSON by which tests act as the guest, as an administrator
// and as fate, and read what only a simulator knows. curl can drive it. It has no authentication: it listens where tests are, only.
//
// Every path is below /v1. {vm} is a reference (vm-62), an instance UUID or a name; {disk} is the VirtualDisk's key (2000); {snapshot} is
// a reference (snapshot-74) or a name. Bodies are JSON objects; an unknown field is an error. An error is {"error": "a sentence"}, with
// 400 for a request that makes no sense, 404 for what does not exist, 409 for what the present state does not allow, 413 for too much,
// 507 for a full datastore. Success without an answer is 204.
//
// What there is:
//
//	GET    /v1/vms                                             VMs with their disks and snapshots
//	GET    /v1/vms/{vm}                                        one of them
//
// As the guest (the VM must be powered on to write):
//
//	PUT    /v1/vms/{vm}/disks/{disk}/bytes?offset=             writes the body (64 MiB at most)
//	PUT    /v1/vms/{vm}/disks/{disk}/bytes?offset=&length=&seed=   writes the seeded pattern (package disk, Pattern), on absolute offsets
//	PUT    /v1/vms/{vm}/disks/{disk}/bytes?offset=&length=&zero=true   unmaps
//	GET    /v1/vms/{vm}/disks/{disk}/bytes?offset=&length=     what the guest would read now
//	GET    /v1/vms/{vm}/disks/{disk}/sha256?offset=&length=    {"sha256", "offset", "length", "size"}; without a range, of all
//
// The oracle of a snapshot:
//
//	GET    /v1/snapshots/{snapshot}/disks/{disk}/bytes?offset=&length=
//	GET    /v1/snapshots/{snapshot}/disks/{disk}/sha256?offset=&length=
//	GET    /v1/snapshots/{snapshot}/disks/{disk}/allocated?offset=&length=   [{"start", "length"}]
//
// As an administrator, all of it done when the call returns:
//
//	POST   /v1/vms/{vm}/disks                     {"size", "datastore", "thick", "mode", "rdm", "multiWriter"}: adds a disk, answers it
//	DELETE /v1/vms/{vm}/disks/{disk}              removes it, with its files
//	POST   /v1/vms/{vm}/disks/{disk}/replace      {"size"}: another, empty disk under the same key
//	POST   /v1/vms/{vm}/disks/{disk}/grow         {"capacity"}
//	POST   /v1/vms/{vm}/cbt/reset                 {"disk"}: a new generation of change IDs; without disk, for all
//	PUT    /v1/vms/{vm}/cbt/quirks                {"disk", "mergeForgets", "forgetWrite"}: hosts that answer wrongly
//	PUT    /v1/vms/{vm}/cbt/pages                 {"disk", "span"}: bytes that one page of changed areas covers at most; 0 = no limit
//	POST   /v1/vms/{vm}/snapshots                 {"name", "description"}: a foreign snapshot, answered
//	DELETE /v1/snapshots/{snapshot}               and its removal
//	POST   /v1/snapshots/{snapshot}/revert        {"hidden"}: hidden = the host goes on with the same CBT generation
//	PUT    /v1/vms/{vm}/consolidation             {"tries"}: a delta is left behind, so many consolidations fail before one works
//	POST   /v1/vms/{vm}/migrate                   {"host"}: vMotion
//	POST   /v1/vms/{vm}/relocate                  {"datastore"}: storage vMotion
//	PUT    /v1/vms/{vm}/power                     {"state": "on", "off" or "suspended"}
//	PUT    /v1/vms/{vm}/tools                     {"state": "running", "notRunning" or "notInstalled"}
//	PUT    /v1/vms/{vm}/name                      {"name"}
//	PUT    /v1/vms/{vm}/disabledMethods           {"methods": [...]}: those answer MethodDisabled; an empty list enables all
//	DELETE /v1/vms/{vm}                           takes it out of the inventory
//	GET    /v1/datastores                         capacity, free space, what snapshots eat
//	PATCH  /v1/datastores/{name}                  {"capacity", "free"}
//	GET    /v1/hosts                              state and open disks
//	PATCH  /v1/hosts/{name}                       {"maintenance": true, "connection": "connected", "disconnected" or "notResponding"}
//	PATCH  /v1/users/{user}                       {"password", "grant": [...], "revoke": [...]}: privileges, wherever the user has any
//
// As fate:
//
//	GET    /v1/sessions                           who is logged in
//	GET    /v1/sessions/refused                   {"account": n}: logins that were refused, over SOAP and the data path
//	DELETE /v1/sessions?user=                     ends sessions (of one user, or all): {"ended": n}
//	PUT    /v1/sessions/limit                     {"max"}: 0 = as the inventory says
//	GET    /v1/faults                             what is injected, and how often each struck
//	POST   /v1/faults                             injects (type Fault): {"method", "object", "on": "call", "task" or "http", "fault",
//	                                              "message", "properties", "status", "delayMs", "skip", "count"}; answers {"id"}
//	DELETE /v1/faults/{id}                        takes one away
//	DELETE /v1/faults                             takes all away, those of VDDK not
//	GET    /v1/calls                              {"method": {"calls", "faults"}}
//	DELETE /v1/calls                              counts anew
//	GET    /v1/vddk                               open disks, connections, bytes and calls of the data path
//	DELETE /v1/vddk/counts                        counts anew
//	POST   /v1/vddk/faults                        injects into the data path (vddk.Fault): {"op", "vm", "path", "skip", "count", "delayMs",
//	                                              "stall", "error", "drop", "dropAfterBytes"}; answers {"id"}
//	DELETE /v1/vddk/faults/{id}                   takes one away; what it stalled goes on
//	DELETE /v1/vddk/faults                        takes all away
//	POST   /v1/vddk/drop                          cuts all connections: {"dropped": n}
//	POST   /v1/reset                              takes all of it away: faults, limits, disabled methods, counts. Contents stay
package control
