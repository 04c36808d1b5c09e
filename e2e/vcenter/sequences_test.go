package main

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// What lib/vsphere holds its requests against says itself that it was taken from govmomi's types, which VMware's definitions make: here it is held
// against them, name, order, type and number of every element.
func TestTheClientsSequencesAreVMwares(t *testing.T) {
	text, err := os.ReadFile("../../lib/vsphere/tests/golden/sequences.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := types.TypeFunc()
	compared := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		head, fields, _ := strings.Cut(line, " =")
		name, base, _ := strings.Cut(head, " < ")
		found, ok := known(name + "RequestType")
		if !ok {
			found, ok = known(name)
		}
		if !ok {
			t.Errorf("VMware has no type and no method %s", name)
			continue
		}
		wantBase, want := sequence(found)
		if base != wantBase || strings.Join(strings.Fields(fields), " ") != strings.Join(want, " ") {
			t.Errorf("%s\n  here:   < %s = %s\n  VMware: < %s = %s", name, base, fields, wantBase, strings.Join(want, " "))
		}
		compared++
	}
	if compared < 30 {
		t.Errorf("only %d sequences were compared", compared)
	}
}

// sequence is the type that a type extends, and its own elements, in the words of sequences.txt.
func sequence(of reflect.Type) (base string, elements []string) {
	for i := range of.NumField() {
		field := of.Field(i)
		if field.Anonymous {
			if name := field.Type.Name(); name != "DynamicData" {
				base = name
			}
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("xml"), ",")
		optional := strings.Contains(options, "omitempty") || field.Type.Kind() == reflect.Pointer
		elements = append(elements, name+":"+kind(field.Type)+number(field.Type, optional))
	}
	return base, elements
}

func number(of reflect.Type, optional bool) string {
	switch {
	case of.Kind() == reflect.Slice && optional:
		return "*"
	case of.Kind() == reflect.Slice:
		return "+"
	case optional:
		return "?"
	}
	return ""
}

func kind(of reflect.Type) string {
	switch {
	case of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer:
		return kind(of.Elem())
	case of == reflect.TypeFor[time.Time]():
		return "dateTime"
	case of.Kind() == reflect.String:
		return "string"
	case of.Kind() == reflect.Interface:
		return strings.TrimPrefix(of.Name(), "Base")
	}
	return of.Name()
}
