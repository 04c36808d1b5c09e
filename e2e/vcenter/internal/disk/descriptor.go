package disk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// describe writes the descriptors and tracking files that changed. The text is what ESXi writes for a VMFS disk; the bytes beside it are
// a raw sparse file for the base and for deltas alike, where ESXi has formats of its own for deltas.
func (d *Disk) describe() error {
	if d.closed {
		return nil
	}
	var err error
	for _, l := range d.layers {
		t := d.trackerOf(l)
		ctk := ""
		if t != nil {
			ctk = "# changed blocks of generation " + strings.TrimSuffix(t.id(0), "/0") + ", kept in memory\n"
		}
		err = errors.Join(err, d.put(l.name+"-ctk.vmdk", &l.ctk, ctk), d.put(l.name+".vmdk", &l.descriptor, d.text(l, t != nil)))
	}
	return err
}

func (d *Disk) put(name string, last *string, text string) error {
	if *last == text {
		return nil
	}
	*last = text
	if text == "" {
		return removeFile(d.dir, name)
	}
	return os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644)
}

// trackerOf is the generation that still answers for a layer; nil: none.
func (d *Disk) trackerOf(l *layer) *tracker {
	t := d.tracker
	if l != d.current {
		p := d.points[l.point]
		if p == nil {
			return nil
		}
		t = p.tracker
	}
	if t == nil || t.dead != nil {
		return nil
	}
	return t
}

func (d *Disk) cid(l *layer) string {
	if l == nil {
		return "ffffffff"
	}
	sum := sha256.Sum256([]byte("cid\x00" + d.opt.Seed + "\x00" + strings.TrimPrefix(l.name, d.name)))
	return fmt.Sprintf("%08x", binary.BigEndian.Uint32(sum[:])&0xfffffffe)
}

// UUID is the disk's own uuid as its backing shows it, "6000C29..." as all that VMware makes; it never changes.
func (d *Disk) UUID() string {
	sum := sha256.Sum256([]byte("uuid\x00" + d.opt.Seed))
	sum[0], sum[1], sum[2] = 0x60, 0x00, 0xc2
	sum[3] = 0x90 | sum[3]&0xf
	return fmt.Sprintf("%X-%X-%X-%X-%X", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func (d *Disk) text(l *layer, tracked bool) string {
	var b strings.Builder
	kind, extent := "vmfs", "VMFS"
	if l.parent != nil {
		kind, extent = "vmfsSparse", "VMFSSPARSE"
	}
	fmt.Fprintf(&b, "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%s\nparentCID=%s\nisNativeSnapshot=\"no\"\n"+
		"createType=\"%s\"\n", d.cid(l), d.cid(l.parent), kind)
	if l.parent != nil {
		fmt.Fprintf(&b, "parentFileNameHint=\"%s.vmdk\"\n", l.parent.name)
	}
	fmt.Fprintf(&b, "\n# Extent description\nRW %d %s \"%s\"\n", d.capacity/Sector, extent, l.extent())
	if tracked {
		fmt.Fprintf(&b, "\n# Change Tracking File\nchangeTrackPath=\"%s-ctk.vmdk\"\n", l.name)
	}
	if l.parent == nil {
		thin := 1
		if d.opt.Thick {
			thin = 0
		}
		fmt.Fprintf(&b, "\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\nddb.thinProvisioned = \"%d\"\nddb.uuid = \"%s\"\n"+
			"ddb.virtualHWVersion = \"19\"\n", thin, d.UUID())
	}
	return b.String()
}

// move renames what is there and lets describe write the rest anew.
func (d *Disk) move(dir, name string) error {
	name = strings.TrimSuffix(name, ".vmdk")
	if name == "" || strings.ContainsAny(name, "/\n\"") {
		return fmt.Errorf("a disk's file cannot be called %q: give a plain name such as \"disk1\"", name)
	}
	if dir == filepath.Clean(d.dir) && name == d.name {
		d.stun(len(d.layers) > 1)
		return nil
	}
	for _, l := range d.layers {
		target := *l
		target.name = name + strings.TrimPrefix(l.name, d.name)
		for _, f := range []string{target.extent(), target.name + ".vmdk"} {
			if _, err := os.Lstat(filepath.Join(dir, f)); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s exists already: move the disk to another name", filepath.Join(dir, f))
			}
		}
	}
	for _, l := range d.layers {
		from := filepath.Join(d.dir, l.extent())
		if err := errors.Join(removeFile(d.dir, l.name+".vmdk"), removeFile(d.dir, l.name+"-ctk.vmdk")); err != nil {
			return err
		}
		l.descriptor, l.ctk = "", ""
		l.name = name + strings.TrimPrefix(l.name, d.name)
		if err := os.Rename(from, filepath.Join(dir, l.extent())); err != nil {
			return err
		}
	}
	d.dir, d.name = dir, name
	d.stun(len(d.layers) > 1)
	return nil
}
