// Package vddk is the vCenter's side of the stand-in for VMware's VDDK: it serves the frozen bytes of snapshots' disks to
// libvixDiskLib.so.8 of e2e/vddk, which nbdkit's vddk plugin loads in the place of VMware's library.
//
// VMware's own wire protocol (NFC) is not public; this one is ours, and as small as it can be. What it keeps of the real thing is what
// a client can see through the library: who is refused, with which code, and when.
//
// # The protocol
//
// A client opens TLS to the vCenter's port and sends
//
//	GET /vddk HTTP/1.1
//	Host: ...
//	Connection: Upgrade
//	Upgrade: hawser-vddk/1
//
// The server answers 101, and from then on both sides send frames. All numbers are big-endian; a string is a uint16 of its length in
// bytes, and the bytes.
//
//	request: uint32 length of the body | uint16 operation | uint16 zero | uint64 id | body
//	answer:  uint32 length of the body | uint16 operation | uint16 zero | uint64 id | uint64 error | body
//
// Ids are the client's choice. Answers come in any order. Where error is not zero it is a VixError, and the body is a line for the
// library's log. A frame that breaks these rules ends the connection.
//
//	1 connect    string user, password, VM, snapshot | uint8 read-only  ->  (empty)
//	2 open       uint32 flags | string path                            ->  uint32 disk | uint64 capacity in bytes
//	3 read       uint32 disk | uint64 sector | uint32 sectors          ->  the bytes
//	4 allocated  uint32 disk | uint64 sector, sectors, chunk           ->  uint32 n | n times (uint64 sector, sectors)
//	5 close      uint32 disk                                           ->  (empty)
//	6 prepare    string user, password, VM, identity                   ->  (empty)
//	7 end        string user, password, VM, identity                   ->  (empty)
//
// The first request is connect, prepare or end, and only one connect succeeds on a connection. When the connection ends, its disks and
// its login are closed.
//
// # What it refuses
//
// Limits of the login, of names and of budgets are the [Backend]'s. Here are those of the data path: a read beyond the end, of no
// sectors, or of more than [MaxRead] bytes; allocated blocks by chunks below [MinChunk] sectors, of sectors that no whole chunks make,
// or more than [MaxChunks] at once; a disk that is not open.
package vddk
