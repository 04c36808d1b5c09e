package vsim

import (
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// ask makes a filter for some paths of an object in the client's default collector, and gives the first answer's version.
func (b *bed) ask(ref types.ManagedObjectReference, paths ...string) string {
	b.Helper()
	spec := types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: ref}},
		PropSet:   []types.PropertySpec{{Type: ref.Type, PathSet: paths}},
	}
	_, err := methods.CreateFilter(b.ctx, b.c.Client, &types.CreateFilter{This: b.c.ServiceContent.PropertyCollector, Spec: spec})
	b.must(err)
	return b.hear("", 1).Version
}

// hear waits for what is new since a version; none where there is nothing.
func (b *bed) hear(version string, seconds int32) *types.UpdateSet {
	b.Helper()
	res, err := methods.WaitForUpdatesEx(b.ctx, b.c.Client, &types.WaitForUpdatesEx{
		This: b.c.ServiceContent.PropertyCollector, Version: version, Options: &types.WaitOptions{MaxWaitSeconds: &seconds},
	})
	b.must(err)
	return res.Returnval
}

func TestChangesOfOneObjectThatComeTogetherAreToldAsOne(t *testing.T) {
	b := start(t)
	ref := b.vm("cold").Reference()
	version := b.ask(ref, "name", "config.annotation")
	if told := b.hear(version, 1); told != nil {
		t.Fatalf("told before anything changed: %+v", told)
	}
	vm := b.vc.reg.Get(ref)
	ctx := b.vc.ctx()
	change := func() time.Duration {
		began := time.Now()
		for _, change := range []types.PropertyChange{
			{Name: "name", Val: "one"}, {Name: "config.annotation", Val: "kept"}, {Name: "name", Val: "two"}, {Name: "name", Val: "three"},
		} {
			b.vc.reg.AtomicUpdate(ctx, vm, []types.PropertyChange{change})
		}
		return time.Since(began)
	}
	// A busy machine may take longer, and then they did not come together.
	for took := change(); took >= together; took = change() {
		t.Logf("this machine took %v", took)
		version = b.hear(version, 10).Version
	}
	told := b.hear(version, 10)
	if told == nil || len(told.FilterSet) != 1 || len(told.FilterSet[0].ObjectSet) != 1 {
		t.Fatalf("not one change of one object: %+v", told)
	}
	last := map[string]any{}
	for _, change := range told.FilterSet[0].ObjectSet[0].ChangeSet {
		if _, twice := last[change.Name]; twice {
			t.Fatalf("%s is told twice", change.Name)
		}
		last[change.Name] = change.Val
	}
	equal(b, last["name"], any("three"))
	equal(b, last["config.annotation"], any("kept"))
}

func TestWhoAsksForTasksIsToldOfThemAndNobodyElse(t *testing.T) {
	b := start(t)
	b.ask(b.vm("cold").Reference(), "name")
	session, err := b.c.SessionManager.UserSession(b.ctx)
	b.must(err)
	sieve := b.vc.sessions.sieve(session.Key, b.c.ServiceContent.PropertyCollector.Value)
	equal(b, sieve.asked("Task"), false)
	equal(b, sieve.asked("VirtualMachine"), true)
	b.ask(*b.c.ServiceContent.TaskManager, "recentTask")
	equal(b, sieve.asked("TaskManager"), true)
	equal(b, sieve.asked("Task"), false)
}
