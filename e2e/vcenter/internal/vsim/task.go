package vsim

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// timing is how long tasks take.
type timing struct {
	mu       sync.Mutex
	all      time.Duration
	shutdown time.Duration
	byMethod map[string]time.Duration
}

func newTiming(s Settings) *timing {
	t := &timing{all: time.Duration(s.TaskTime), shutdown: time.Duration(s.GuestShutdown), byMethod: map[string]time.Duration{}}
	for name, d := range s.TaskTimes {
		t.byMethod[name] = time.Duration(d)
	}
	return t
}

func (t *timing) of(method string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d, ok := t.byMethod[method]; ok {
		return d
	}
	return t.all
}

// guest is how long a guest takes to shut down.
func (t *timing) guest() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shutdown
}

// set changes the time of one method's tasks, or of all ("") others.
func (t *timing) set(method string, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if method == "" {
		t.all = d
		return
	}
	t.byMethod[method] = d
}

// tasks are those that run.
type tasks struct {
	vc      *VC
	mu      sync.Mutex
	next    int
	running map[types.ManagedObjectReference]*task
}

func newTasks(v *VC) *tasks {
	return &tasks{vc: v, running: map[types.ManagedObjectReference]*task{}}
}

// task is one running task. govmomi's Task holds the lock of its entity from start to end, so that nobody could read the VM meanwhile;
// here only the work's last step locks anything.
type task struct {
	inner      *simulator.Task
	vc         *VC
	method     string
	cancelable bool
	canceled   chan struct{}
	once       sync.Once
}

// job is what a task does.
type job struct {
	// method is the call's name, such as RemoveSnapshot_Task; id is its name in description IDs, VirtualMachine.removeSnapshot.
	method, id string
	entity     mo.Reference
	entityName string
	user       string
	// machine is held for the job alone: a second job on it gets TaskInProgress.
	machine    *machine
	cancelable bool
	// begin is done at once, work when the task's time has passed. Both run with the machine's lock held.
	begin func() types.BaseMethodFault
	work  func() (types.AnyType, types.BaseMethodFault)
}

// start runs a job as a task. A busy machine refuses, either the call or in the task (settings.busyFault).
func (v *VC) start(j job) (types.ManagedObjectReference, types.BaseMethodFault) {
	t := &task{vc: v, method: j.method, cancelable: j.cancelable, canceled: make(chan struct{})}
	name := j.id + "Task" // govmomi makes "CreateSnapshot_Task" and "createSnapshot" of it, as vCenter has them
	t.inner = simulator.CreateTask(j.entity, name, nil)
	v.tasks.mu.Lock()
	v.tasks.next++
	t.inner.Self = types.ManagedObjectReference{Type: "Task", Value: fmt.Sprintf("task-%d", v.tasks.next)}
	v.tasks.mu.Unlock()
	info := &t.inner.Info
	info.Key, info.Task = t.inner.Self.Value, t.inner.Self
	info.Name = j.method
	info.DescriptionId = j.entity.Reference().Type + "." + j.id
	info.EntityName = j.entityName
	info.Cancelable = j.cancelable
	info.Reason = &types.TaskReasonUser{UserName: j.user}
	info.QueueTime = time.Now().UTC()

	var busy types.BaseMethodFault
	if j.machine != nil {
		if holder := j.machine.hold(t); holder != nil {
			busy = say(&types.TaskInProgress{Task: holder.inner.Self}, "",
				"Another task is already in progress: "+holder.method+" ("+holder.inner.Self.Value+")")
			if v.inv.Settings.BusyFault == "call" {
				return types.ManagedObjectReference{}, busy
			}
		}
	}
	v.tasks.mu.Lock()
	v.tasks.running[t.inner.Self] = t
	v.tasks.mu.Unlock()
	ctx := v.ctx()
	// Listeners change the entity's recentTask within Put, without taking its lock.
	ctx.WithLock(j.entity, func() { v.reg.Put(t.inner) })
	v.update(t.inner, set("info.startTime", time.Now().UTC()), set("info.state", types.TaskInfoStateRunning), set("info.progress", int32(0)))
	v.background(func() {
		result, fault := t.run(j, busy)
		if j.machine != nil && busy == nil {
			j.machine.release(t)
		}
		t.finish(result, fault)
	})
	return t.inner.Self, nil
}

func (t *task) run(j job, busy types.BaseMethodFault) (types.AnyType, types.BaseMethodFault) {
	if busy != nil {
		return nil, busy
	}
	delay, injected := t.vc.inject.task(t.vc, t.method, j.entity.Reference())
	if fault := t.wait(delay); fault != nil {
		return nil, fault
	}
	if injected != nil {
		return nil, injected
	}
	locked := func(f func() types.BaseMethodFault) types.BaseMethodFault {
		if j.machine != nil {
			j.machine.mu.Lock()
			defer j.machine.mu.Unlock()
		}
		return f()
	}
	if j.begin != nil {
		if fault := locked(j.begin); fault != nil {
			return nil, fault
		}
	}
	if fault := t.wait(t.vc.timing.of(t.method)); fault != nil {
		return nil, fault
	}
	var result types.AnyType
	fault := locked(func() (f types.BaseMethodFault) {
		result, f = j.work()
		return f
	})
	return result, fault
}

// wait lets the task's time pass, with progress, unless it is cancelled.
func (t *task) wait(d time.Duration) types.BaseMethodFault {
	canceled := say(&types.RequestCanceled{}, "", "The task was canceled by a user.")
	const steps = 20
	for i := range steps {
		if d <= 0 {
			break
		}
		timer := time.NewTimer(d / steps)
		select {
		case <-timer.C:
		case <-t.canceled:
			timer.Stop()
			return canceled
		case <-t.vc.closing:
			timer.Stop()
			return canceled
		}
		if d >= 200*time.Millisecond && i < steps-1 {
			t.vc.update(t.inner, set("info.progress", int32((i+1)*100/steps)))
		}
	}
	select {
	case <-t.canceled:
		return canceled
	default:
		return nil
	}
}

func (t *task) finish(result types.AnyType, fault types.BaseMethodFault) {
	v := t.vc
	v.tasks.mu.Lock()
	delete(v.tasks.running, t.inner.Self)
	v.tasks.mu.Unlock()
	changes := []types.PropertyChange{set("info.completeTime", time.Now().UTC())}
	if fault != nil {
		if _, ok := fault.(*types.RequestCanceled); ok {
			changes = append(changes, set("info.cancelled", true))
		}
		changes = append(changes,
			set("info.error", types.LocalizedMethodFault{Fault: fault, LocalizedMessage: message(fault)}),
			set("info.state", types.TaskInfoStateError))
	} else {
		if result != nil {
			changes = append(changes, set("info.result", result))
		}
		changes = append(changes, set("info.state", types.TaskInfoStateSuccess))
	}
	v.update(t.inner, changes...)
	// A finished task is to be read for ten minutes (API reference: recentTask).
	v.background(func() {
		if v.sleep(10 * time.Minute) {
			v.forget(t.inner)
		}
	})
}

// forget takes a finished task out of the lists and of the registry.
func (v *VC) forget(t *simulator.Task) {
	without := func(list []types.ManagedObjectReference) []types.ManagedObjectReference {
		return slices.DeleteFunc(slices.Clone(list), func(r types.ManagedObjectReference) bool { return r == t.Self })
	}
	ctx := v.ctx()
	if e, ok := v.reg.Get(*t.Info.Entity).(mo.Entity); ok {
		ctx.WithLock(e, func() { ctx.Update(e, []types.PropertyChange{set("recentTask", without(e.Entity().RecentTask))}) })
	}
	for _, o := range v.reg.AllReference("TaskManager") {
		if tm, ok := o.(*simulator.TaskManager); ok {
			ctx.WithLock(tm, func() { ctx.Update(tm, []types.PropertyChange{set("recentTask", without(tm.RecentTask))}) })
		}
	}
	v.reg.Remove(ctx, t.Self)
}

// CancelTask stops a task that can be stopped.
func (f *front) CancelTask(_ *simulator.Context, req *types.CancelTask) soap.HasFault {
	v := f.vc
	v.tasks.mu.Lock()
	t := v.tasks.running[req.This]
	v.tasks.mu.Unlock()
	switch {
	case t == nil && v.reg.Get(req.This) == nil:
		return refuse("", notFound(req.This))
	case t == nil:
		return refuse("", invalidState("the task has completed"))
	case !t.cancelable:
		return refuse("", notSupported(t.method+" cannot be cancelled"))
	}
	t.once.Do(func() { close(t.canceled) })
	return &methods.CancelTaskBody{Res: new(types.CancelTaskResponse)}
}
