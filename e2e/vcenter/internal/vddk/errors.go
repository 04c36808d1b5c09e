package vddk

import (
	"errors"
	"fmt"
)

// Error is a VixError: the code that the library returns to its caller. Names and numbers are those of VMware's public list of errors.
type Error uint64

// The codes that the stand-in uses. Where the real library was seen to answer so, the comment says where.
const (
	// ErrFail is "Unknown error". VixDiskLib_Open answers it for a wrong thumbprint (nbdkit-vddk-plugin(1), "Error 1") and for a server
	// that can't be reached.
	ErrFail Error = 1
	// ErrOutOfMemory is the host's "NFC error 5": a read for which it has no buffer (nbdkit-vddk-plugin(1), "Out of memory errors").
	ErrOutOfMemory  Error = 2
	ErrInvalidArg   Error = 3
	ErrFileNotFound Error = 4
	ErrNotSupported Error = 6
	ErrReadOnly     Error = 11
	// ErrFileAccess is "You do not have access rights to this file": what a disk in use answers when no snapshot is named (CDI #3385).
	ErrFileAccess Error = 13
	// ErrAlreadyLocked is a disk that another handle holds.
	ErrAlreadyLocked Error = 15
	// ErrPermissions is a login that fails, or a privilege that lacks.
	ErrPermissions      Error = 3014
	ErrVMNotFound       Error = 4000
	ErrSnapshotNotFound Error = 13003
	// ErrRefused is "The server refused connection" (NBD_ERR_NETWORK_CONNECT): the host takes no more NFC connections.
	ErrRefused Error = 14009
	// ErrSocket is a connection on which nothing comes any more.
	ErrSocket Error = 14010
	// ErrConnectionLost is a connection that was cut.
	ErrConnectionLost Error = 14011
	ErrDiskOutOfRange Error = 16007
	// ErrNoLicense is what a missing global privilege answers (VDDK programming guide, "misleading").
	ErrNoLicense Error = 16064
	// ErrCannotConnect is a vCenter that takes no more sessions.
	ErrCannotConnect Error = 18000
)

var names = map[Error]string{
	ErrFail: "VIX_E_FAIL", ErrOutOfMemory: "VIX_E_OUT_OF_MEMORY", ErrInvalidArg: "VIX_E_INVALID_ARG",
	ErrFileNotFound: "VIX_E_FILE_NOT_FOUND", ErrNotSupported: "VIX_E_NOT_SUPPORTED", ErrReadOnly: "VIX_E_FILE_READ_ONLY",
	ErrFileAccess: "VIX_E_FILE_ACCESS_ERROR", ErrAlreadyLocked: "VIX_E_FILE_ALREADY_LOCKED",
	ErrPermissions: "VIX_E_HOST_USER_PERMISSIONS", ErrVMNotFound: "VIX_E_VM_NOT_FOUND",
	ErrSnapshotNotFound: "VIX_E_SNAPSHOT_NOTFOUND", ErrRefused: "VIX_E_HOST_NETWORK_CONN_REFUSED",
	ErrSocket: "VIX_E_HOST_TCP_SOCKET_ERROR", ErrConnectionLost: "VIX_E_HOST_TCP_CONN_LOST",
	ErrDiskOutOfRange: "VIX_E_DISK_OUTOFRANGE", ErrNoLicense: "VIX_E_DISK_NOLICENSE",
	ErrCannotConnect: "VIX_E_CANNOT_CONNECT_TO_HOST",
}

// Error names the code.
func (e Error) Error() string {
	if name, ok := names[e]; ok {
		return fmt.Sprintf("%s (%d)", name, uint64(e))
	}
	return fmt.Sprintf("VixError %d", uint64(e))
}

// code is what goes over the wire for an error: an Error found in its chain, else ErrFail.
func code(err error) Error {
	var e Error
	if errors.As(err, &e) && e != 0 {
		return e
	}
	return ErrFail
}
