package vsim

import (
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// guestName is a guest's name for people. vCenter has a table; here it is made from the identifier.
func guestName(id string) string {
	name := strings.TrimSuffix(id, "Guest")
	bits := " (32-bit)"
	if cut, ok := strings.CutSuffix(name, "64"); ok {
		name, bits = strings.TrimSuffix(cut, "_"), " (64-bit)"
	}
	switch {
	case strings.HasPrefix(id, "ubuntu"):
		name = "Ubuntu Linux"
	case strings.HasPrefix(id, "debian"):
		name = "Debian GNU/Linux " + strings.TrimPrefix(name, "debian")
	case strings.HasPrefix(id, "rhel"):
		name = "Red Hat Enterprise Linux " + strings.TrimPrefix(name, "rhel")
	case strings.HasPrefix(id, "windows2019srvNext"):
		name = "Microsoft Windows Server 2022"
	case strings.HasPrefix(id, "windows2019srv"):
		name = "Microsoft Windows Server 2019"
	case strings.HasPrefix(id, "windows9Server"):
		name = "Microsoft Windows Server 2016 or later"
	case strings.HasPrefix(id, "windows"):
		name = "Microsoft Windows " + strings.TrimPrefix(name, "windows")
	}
	return name + bits
}

func guestFamily(id string) string {
	if strings.HasPrefix(id, "win") {
		return string(types.VirtualMachineGuestOsFamilyWindowsGuest)
	}
	for _, other := range []string{"darwin", "freebsd", "solaris", "os2", "netware", "vmkernel", "dos", "other"} {
		if strings.HasPrefix(id, other) && !strings.Contains(strings.ToLower(id), "linux") {
			return string(types.VirtualMachineGuestOsFamilyOtherGuestFamily)
		}
	}
	return string(types.VirtualMachineGuestOsFamilyLinuxGuest)
}

func newOf(t reflect.Type) any { return reflect.New(t).Interface() }
