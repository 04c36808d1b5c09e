// Package vsim is a simulated vCenter: govmomi's simulator for the inventory, the property collector and the wire, and on top of it what
// that lacks and a replication must meet: logins, privileges, disks of real bytes, snapshots with changed block tracking, tasks that take
// time, datastores that fill up, hosts that fail.
//
// How it hooks in: the registry's Handler sees every call before it is dispatched. Calls that this package answers are given to one side
// object (front) by rewriting the method's receiver to a reference that is in no registry; the real objects stay
// *simulator.VirtualMachine, which govmomi asserts in dozens of places. The truth about a VM stands in machine; what the property
// collector shows is rendered from it.
package vsim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/vddk"
)

// Administrator is the account that exists in every inventory, with password "sandbox" unless the inventory declares it.
const Administrator = "administrator@vsphere.local"

// VC is one simulated vCenter.
type VC struct {
	inv     *Inventory
	model   *simulator.Model
	service *simulator.Service
	reg     *simulator.Registry
	front   *front
	dir     string
	root    types.ManagedObjectReference
	started time.Time

	sessions *sessions
	users    map[string]*user
	refused  map[string]int // logins, by account
	inject   *injector
	calls    *counters
	timing   *timing
	tasks    *tasks

	// mu guards the maps below; never held while a machine's lock is waited for.
	mu       sync.RWMutex
	hosts    map[string]*host
	stores   map[string]*store
	machines map[string]*machine
	snaps    map[string]*snapshot
	// left are machines taken out of the inventory whose files are still there, by the path of their .vmx.
	left    map[string]*machine
	nextKey atomic.Int64

	handles *handles
	faults  *vddk.Faults
	usage   *usage
	closing chan struct{}
	once    sync.Once
	timers  sync.WaitGroup
}

// Options of New.
type Options struct {
	// State is the folder in which the datastores are made.
	State string
	// Users adds accounts with the Admin role, or changes the passwords of declared ones.
	Users map[string]string
	// URL is where the service will be reached, such as https://127.0.0.1:8989.
	URL *url.URL
}

const marker = ".vcenter-simulator"

// New builds the inventory. Datastores of an earlier run in the same state folder are replaced.
func New(inv *Inventory, o Options) (*VC, error) {
	dir, err := filepath.Abs(filepath.Join(o.State, "datastores"))
	if err != nil {
		return nil, err
	}
	if err := freshDir(dir); err != nil {
		return nil, err
	}
	model := simulator.VPX()
	model.Datacenter, model.Portgroup, model.Host, model.Cluster, model.ClusterHost, model.Datastore, model.Machine = 0, 0, 0, 0, 0, 0, 0
	if err := model.Create(); err != nil {
		return nil, fmt.Errorf("simulator: %w", err)
	}
	v := &VC{
		inv: inv, model: model, service: model.Service, reg: model.Map(), dir: dir, started: time.Now(),
		users: map[string]*user{}, refused: map[string]int{}, inject: newInjector(), calls: newCounters(),
		hosts: map[string]*host{}, stores: map[string]*store{}, machines: map[string]*machine{}, snaps: map[string]*snapshot{},
		left:   map[string]*machine{},
		faults: new(vddk.Faults), usage: newUsage(), closing: make(chan struct{}),
	}
	v.front = &front{vc: v}
	v.timing = newTiming(inv.Settings)
	v.tasks = newTasks(v)
	v.handles = newHandles(v)
	v.sessions = newSessions(v)
	if err := v.build(o); err != nil {
		v.Close()
		return nil, err
	}
	v.service.RegisterSDK(v.reg, v.reg.Path+"/vimService")
	v.reg.Cookie = v.sessions.cookie
	v.reg.Handler = v.handle
	v.sessions.watch()
	v.watchSpace()
	return v, nil
}

// freshDir empties the folder of datastores, if it is one of ours.
func freshDir(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case os.IsNotExist(err):
	case err != nil:
		return err
	case len(entries) > 0:
		if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
			return fmt.Errorf("%s holds files, but none of this simulator (%s is missing): give another --state", dir, marker)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, marker), nil, 0o644)
}

// Close ends what runs in the background and removes govmomi's temporary folder. Datastores stay.
func (v *VC) Close() {
	v.once.Do(func() {
		close(v.closing)
		v.faults.ClearAll()
		v.timers.Wait()
		for _, m := range v.allMachines() {
			m.closeDisks()
		}
		v.model.Remove()
	})
}

// Faults is what tests do to the VDDK stand-in's data path.
func (v *VC) Faults() *vddk.Faults { return v.faults }

// Handler serves /sdk, /folder and /vddk.
func (v *VC) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/sdk", v.sessions.middleware(v.service.ServeMux))
	mux.Handle("/sdk/vimService", v.sessions.middleware(v.service.ServeMux))
	mux.HandleFunc("/sdk/vimServiceVersions.xml", v.serviceVersions)
	mux.HandleFunc("/folder", v.serveFolder)
	mux.HandleFunc("/folder/", v.serveFolder)
	mux.Handle("/vddk", vddk.Handler(&backend{vc: v}, v.faults))
	return mux
}

// serviceVersions lists the API versions, newest first: a client takes the newest it knows.
func (v *VC) serviceVersions(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8" ?>
<namespaces version="1.0">
 <namespace>
  <name>urn:vim25</name>
  <version>%s</version>
  <priorVersions>
   <version>8.0.2.0</version>
   <version>8.0.1.0</version>
   <version>8.0.0.1</version>
   <version>7.0.3.0</version>
   <version>7.0</version>
   <version>6.7</version>
   <version>6.5</version>
   <version>6.0</version>
   <version>5.5</version>
  </priorVersions>
 </namespace>
</namespaces>
`, v.apiVersion())
}

func (v *VC) apiVersion() string { return v.inv.Version + ".0" }

func (v *VC) content() types.ServiceContent {
	return v.reg.Get(vim25.ServiceInstance).(*simulator.ServiceInstance).Content
}

// ctx is a fresh context: govmomi's locks are held by contexts, so no two goroutines may share one.
func (v *VC) ctx() *simulator.Context {
	c := *v.service.Context
	c.Context = context.Background()
	return &c
}

// stableUUID derives a uuid from the installation's name and more, so that it is the same at each start.
func (v *VC) stableUUID(parts ...string) uuid.UUID {
	text := v.inv.Name
	for _, p := range parts {
		text += "\x00" + p
	}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("vcenter-simulator\x00"+text))
}

// sleep waits, and tells whether the simulator still runs afterwards.
func (v *VC) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-v.closing:
		return false
	}
}

// background runs f in a goroutine that Close waits for.
func (v *VC) background(f func()) {
	v.timers.Add(1)
	go func() {
		defer v.timers.Done()
		f()
	}()
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return hex.EncodeToString(b)
}
