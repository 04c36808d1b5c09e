package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"hawser.dev/e2e/vcenter/internal/disk"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

func serve(t *testing.T) (*fake, *httptest.Server) {
	t.Helper()
	d, err := disk.Create(t.TempDir(), "disk", 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{disk: d, vddk: new(vddk.Faults)}
	s := httptest.NewServer(New(f))
	t.Cleanup(func() { s.Close(); _ = d.Remove() })
	return f, s
}

func ask(t *testing.T, s *httptest.Server, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(b))
}

// Each path, what it calls, and what it answers.
var good = []struct{ method, path, body, call, answer string }{
	{"GET", "/v1/vms", "", "vms", "[]"},
	{"GET", "/v1/vms/web%201", "", "vm web 1", ""},
	{"DELETE", "/v1/vms/vm-1", "", "unregister vm-1", ""},
	{"POST", "/v1/vms/vm-1/disks", `{"size": 1048576, "thick": true, "mode": "independent_persistent"}`,
		"add vm-1 {Size:1048576 Datastore: Thick:true Mode:independent_persistent RDM: MultiWriter:false}", ""},
	{"DELETE", "/v1/vms/vm-1/disks/2000", "", "remove disk vm-1 2000", ""},
	{"POST", "/v1/vms/vm-1/disks/2000/replace", "", "replace vm-1 2000 0", ""},
	{"POST", "/v1/vms/vm-1/disks/2000/replace", `{"size": 512}`, "replace vm-1 2000 512", ""},
	{"POST", "/v1/vms/vm-1/disks/2000/grow", `{"capacity": 8388608}`, "grow vm-1 2000 8388608", ""},
	{"POST", "/v1/vms/vm-1/cbt/reset", "", "reset cbt vm-1 0", ""},
	{"POST", "/v1/vms/vm-1/cbt/reset", `{"disk": 2001}`, "reset cbt vm-1 2001", ""},
	{"PUT", "/v1/vms/vm-1/cbt/quirks", `{"forgetWrite": 3}`, "quirks vm-1 0 {MergeForgets:false ForgetWrite:3}", ""},
	{"PUT", "/v1/vms/vm-1/cbt/pages", `{"span": 65536}`, "span vm-1 0 65536", ""},
	{"POST", "/v1/vms/vm-1/snapshots", `{"name": "by hand"}`, `snapshot vm-1 "by hand" ""`, ""},
	{"DELETE", "/v1/snapshots/snapshot-9", "", "remove snapshot snapshot-9", ""},
	{"POST", "/v1/snapshots/snapshot-9/revert", `{"hidden": true}`, "revert snapshot-9 true", ""},
	{"PUT", "/v1/vms/vm-1/consolidation", `{"tries": 2}`, "consolidation vm-1 2", ""},
	{"POST", "/v1/vms/vm-1/migrate", `{"host": "esx-2"}`, "migrate vm-1 esx-2", ""},
	{"POST", "/v1/vms/vm-1/relocate", `{"datastore": "ds-2"}`, "relocate vm-1 ds-2", ""},
	{"PUT", "/v1/vms/vm-1/power", `{"state": "off"}`, "power vm-1 off", ""},
	{"PUT", "/v1/vms/vm-1/tools", `{"state": "notRunning"}`, "tools vm-1 notRunning", ""},
	{"PUT", "/v1/vms/vm-1/name", `{"name": "web-2"}`, "rename vm-1 web-2", ""},
	{"PUT", "/v1/vms/vm-1/disabledMethods", `{"methods": ["RelocateVM_Task"]}`, "disable vm-1 [RelocateVM_Task]", ""},
	{"GET", "/v1/datastores", "", "datastores", "[]"},
	{"PATCH", "/v1/datastores/ds-1", `{"free": 0}`, "datastore ds-1 - 0", ""},
	{"GET", "/v1/hosts", "", "hosts", "[]"},
	{"PATCH", "/v1/hosts/esx-1", `{"connection": "notResponding"}`, "host esx-1 - notResponding", ""},
	{"GET", "/v1/sessions", "", "sessions", "[]"},
	{"DELETE", "/v1/sessions?user=bob", "", `expire "bob"`, `{"ended":3}`},
	{"DELETE", "/v1/sessions", "", `expire ""`, `{"ended":3}`},
	{"PUT", "/v1/sessions/limit", `{"max": 2}`, "limit 2", ""},
	{"GET", "/v1/sessions/refused", "", "refused", `{"bob":2}`},
	{"PATCH", "/v1/users/bob@vsphere.local", `{"password": "x", "revoke": ["System.View"]}`,
		"user bob@vsphere.local true [] [System.View]", ""},
	{"GET", "/v1/faults", "", "faults", "[]"},
	{"POST", "/v1/faults", `{"method": "*", "status": 503, "count": 2}`,
		"fault {ID:0 Method:* Object: On:http Fault: Message: Properties:map[] Status:503 DelayMs:0 Skip:0 Count:2 Hits:0}", `{"id":7}`},
	{"POST", "/v1/faults", `{"method": "CreateSnapshot_Task", "on": "task", "fault": "FileFault", "properties": {"file": "x"}}`,
		"fault {ID:0 Method:CreateSnapshot_Task Object: On:task Fault:FileFault Message: Properties:map[file:x] Status:0 DelayMs:0 Skip:0 " +
			"Count:0 Hits:0}", `{"id":7}`},
	{"DELETE", "/v1/faults/7", "", "remove fault 7", ""},
	{"DELETE", "/v1/faults", "", "clear faults", ""},
	{"GET", "/v1/calls", "", "calls", `{"Login":{"calls":2,"faults":1}}`},
	{"DELETE", "/v1/calls", "", "reset calls", ""},
	{"POST", "/v1/reset", "", "reset", ""},
	{"GET", "/v1/vddk", "", "", ""},
	{"DELETE", "/v1/vddk/counts", "", "", ""},
	{"POST", "/v1/vddk/faults", `{"op": "read", "delayMs": 5}`, "", `{"id":1}`},
	{"DELETE", "/v1/vddk/faults/1", "", "", ""},
	{"DELETE", "/v1/vddk/faults", "", "", ""},
	{"POST", "/v1/vddk/drop", "", "", `{"dropped":0}`},
	{"PUT", "/v1/vms/vm-1/disks/2000/bytes?offset=0", "x", "", ""},
	{"GET", "/v1/vms/vm-1/disks/2000/bytes?length=1", "", "", "x"},
	{"GET", "/v1/vms/vm-1/disks/2000/sha256", "", "", ""},
}

func TestCalls(t *testing.T) {
	f, s := serve(t)
	for _, c := range good {
		code, answer := ask(t, s, c.method, c.path, c.body)
		if code != http.StatusOK && code != http.StatusNoContent {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, code, answer)
		}
		if got := strings.Join(f.take(), "; "); got != c.call {
			t.Errorf("%s %s called %q, not %q", c.method, c.path, got, c.call)
		}
		if c.answer != "" && answer != c.answer {
			t.Errorf("%s %s answered %q, not %q", c.method, c.path, answer, c.answer)
		}
	}
}

// What the simulator answers as an error reaches the client with its status and its sentence.
func TestErrorsOfTheVCenter(t *testing.T) {
	f, s := serve(t)
	for err, want := range map[error]int{
		NotFound("no such thing"): 404, Conflict("not now"): 409, Invalid("not so"): 400, errors.New("broken"): 500,
		fmt.Errorf("disk: %w", disk.ErrHasSnapshots): 409, disk.ErrNoSpace: 507, disk.ErrCapacity: 400, disk.ErrNoSuchPoint: 404,
	} {
		f.fails = err
		for _, c := range good {
			if c.call == "" {
				continue
			}
			code, answer := ask(t, s, c.method, c.path, c.body)
			var sentence struct{ Error string }
			if e := json.Unmarshal([]byte(answer), &sentence); code != want || e != nil || sentence.Error != err.Error() {
				t.Errorf("%s %s: %d %s, it should be %d %v", c.method, c.path, code, answer, want, err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	f, s := serve(t)
	if err := f.disk.Snapshot("snapshot-1"); err != nil {
		t.Fatal(err)
	}
	const d = "/v1/vms/vm-1/disks/2000"
	for _, c := range []struct {
		method, path, body string
		code               int
		says               string
	}{
		{"GET", "/v1/nothing", "", 404, "there is no GET /v1/nothing"},
		{"GET", "/v1/reset", "", 405, "takes POST, not GET"},
		{"POST", "/v1/vms", "", 405, "takes GET, HEAD, not POST"},
		{"POST", "/v1/vms/vm-1/disks", `{}`, 400, "size is 0"},
		{"POST", "/v1/vms/vm-1/disks", `{"size": 513}`, 400, "multiple of 512"},
		{"POST", "/v1/vms/vm-1/disks", `{"siez": 512}`, 400, "siez"},
		{"POST", "/v1/vms/vm-1/disks", `{"size": 512} {}`, 400, "more after"},
		{"POST", "/v1/vms/vm-1/disks", `{"size": `, 400, "the body is not what"},
		{"DELETE", "/v1/vms/vm-1/disks/first", "", 400, "no disk"},
		{"DELETE", "/v1/vms/vm-1/disks/-1", "", 400, "no disk"},
		{"POST", d + "/replace", `{"size": 1}`, 400, "multiple of 512"},
		{"POST", d + "/grow", "", 400, "capacity is missing"},
		{"PUT", "/v1/vms/vm-1/cbt/quirks", `{"forgetWrite": -1}`, 400, "forgetWrite"},
		{"PUT", "/v1/vms/vm-1/cbt/pages", `{"span": -1}`, 400, "span"},
		{"POST", "/v1/vms/vm-1/snapshots", "", 400, "name is missing"},
		{"PUT", "/v1/vms/vm-1/consolidation", "", 400, "tries is missing"},
		{"POST", "/v1/vms/vm-1/migrate", "", 400, `{"host": "..."}`},
		{"PUT", "/v1/vms/vm-1/power", `{"state": "up"}`, 400, "on, off or suspended"},
		{"PUT", "/v1/vms/vm-1/tools", `{"state": "up"}`, 400, "notInstalled"},
		{"PUT", "/v1/vms/vm-1/name", `{"name": "a", "more": "b"}`, 400, `{"name": "..."}`},
		{"PATCH", "/v1/datastores/ds-1", "", 400, "give capacity, free"},
		{"PATCH", "/v1/datastores/ds-1", `{"free": -1}`, 400, "not negative"},
		{"PATCH", "/v1/hosts/esx-1", "", 400, "give maintenance"},
		{"PATCH", "/v1/hosts/esx-1", `{"connection": "gone"}`, 400, "disconnected"},
		{"DELETE", "/v1/sessions?usr=bob", "", 400, "unknown parameter"},
		{"PUT", "/v1/sessions/limit", "", 400, "max is missing"},
		{"PATCH", "/v1/users/bob", "", 400, "give password, grant, revoke"},
		{"POST", "/v1/faults", "", 400, "method is missing"},
		{"POST", "/v1/faults", `{"method": "Login"}`, 400, "it does nothing"},
		{"POST", "/v1/faults", `{"method": "Login", "on": "later", "delayMs": 1}`, 400, "call, task or http"},
		{"POST", "/v1/faults", `{"method": "Login", "on": "http"}`, 400, "400 to 599"},
		{"POST", "/v1/faults", `{"method": "Login", "status": 503, "fault": "FileFault"}`, 400, "carries no fault"},
		{"POST", "/v1/faults", `{"method": "Login", "on": "task", "status": 503}`, 400, "on http only"},
		{"POST", "/v1/faults", `{"method": "Login", "delayMs": 1, "message": "x"}`, 400, "give its type"},
		{"POST", "/v1/faults", `{"method": "Login", "fault": "FileFault", "skip": -1}`, 400, "negative"},
		{"POST", "/v1/faults", `{"method": "Login", "fault": "FileFault", "id": 1}`, 400, "not given"},
		{"DELETE", "/v1/faults/x", "", 400, "no fault's id"},
		{"POST", "/v1/vddk/faults", `{"op": "reed", "drop": true}`, 400, "reed"},
		{"DELETE", "/v1/vddk/faults/9", "", 404, "no fault 9"},

		{"PUT", d + "/bytes", "x", 400, "offset is missing"},
		{"PUT", d + "/bytes?offset=0", "", 400, "nothing to write"},
		{"PUT", d + "/bytes?offset=-1", "x", 400, "not negative"},
		{"PUT", d + "/bytes?offset=4194304", "x", 400, "beyond the end"},
		{"PUT", d + "/bytes?offset=4194304&length=1&seed=1", "", 400, "beyond the end"},
		{"PUT", d + "/bytes?offset=4194304&length=1&zero=true", "", 400, "beyond the end"},
		{"PUT", d + "/bytes?offset=0&length=2", "x", 400, "the body has 1"},
		{"PUT", d + "/bytes?offset=0&seed=1", "", 400, "length is missing"},
		{"PUT", d + "/bytes?offset=0&length=1&seed=x", "", 400, "whole number"},
		{"PUT", d + "/bytes?offset=0&length=1&zero=yes", "", 400, "true or left out"},
		{"PUT", d + "/bytes?offset=0&length=1&seed=1&zero=true", "", 400, "exclude"},
		{"PUT", d + "/bytes?offset=0&length=1&seed=1", "x", 400, "exclude"},
		{"PUT", d + "/bytes?offset=0&lenght=1", "x", 400, "unknown parameter"},
		{"PUT", "/v1/vms/vm-2/disks/2000/bytes?offset=0", "x", 404, "no VM"},
		{"GET", d + "/bytes?lenght=1", "", 400, "unknown parameter"},
		{"GET", d + "/bytes?offset=4194305", "", 400, "beyond the disk's"},
		{"GET", d + "/bytes?offset=4194303&length=2", "", 400, "beyond the disk's"},
		{"GET", d + "/sha256?length=4194305", "", 400, "beyond the disk's"},
		{"GET", "/v1/vms/vm-1/disks/2001/bytes", "", 404, "no disk 2001"},
		{"GET", "/v1/snapshots/snapshot-2/disks/2000/bytes", "", 404, "no such snapshot"},
		{"GET", "/v1/snapshots/snapshot-2/disks/2000/sha256", "", 404, "no such snapshot"},
		{"GET", "/v1/snapshots/snapshot-1/disks/2000/allocated?length=4194305", "", 400, "beyond the disk's"},
	} {
		code, answer := ask(t, s, c.method, c.path, c.body)
		var sentence struct{ Error string }
		if err := json.Unmarshal([]byte(answer), &sentence); code != c.code || err != nil || !strings.Contains(sentence.Error, c.says) {
			t.Errorf("%s %s %s: %d %s; it should be %d and say %q", c.method, c.path, c.body, code, answer, c.code, c.says)
		}
	}
	if calls := f.take(); len(calls) > 0 {
		t.Errorf("what was refused was done: %v", calls)
	}
	if code, _ := ask(t, s, "PUT", d+"/bytes?offset=0", strings.Repeat("x", maxBody+1)); code != 413 {
		t.Errorf("a body that is too large: %d", code)
	}
}

func TestBytesAndOracle(t *testing.T) {
	f, s := serve(t)
	const d = "/v1/vms/vm-1/disks/2000"
	want := make([]byte, 4<<20)
	disk.Pattern(9, 1<<20, want[1<<20:3<<20])
	copy(want[100:], "hello")
	clear(want[2<<20 : 2<<20+70000])
	for _, c := range [][2]string{
		{"?offset=1048576&length=2097152&seed=9", ""}, {"?offset=100", "hello"}, {"?offset=2097152&length=70000&zero=true", ""},
	} {
		if code, answer := ask(t, s, "PUT", d+"/bytes"+c[0], c[1]); code != 204 {
			t.Fatal(code, answer)
		}
	}
	if err := f.disk.Snapshot("snapshot-1"); err != nil {
		t.Fatal(err)
	}
	if code, answer := ask(t, s, "PUT", d+"/bytes?offset=0", "after"); code != 204 {
		t.Fatal(code, answer)
	}
	check := func(path string, want []byte) {
		t.Helper()
		r, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		got, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength != int64(len(want)) || !bytes.Equal(got, want) {
			t.Errorf("%s answers other bytes (%v)", path, err)
		}
	}
	digest := func(path string, want []byte) {
		t.Helper()
		sum := sha256.Sum256(want)
		if _, answer := ask(t, s, "GET", path, ""); !strings.Contains(answer, hex.EncodeToString(sum[:])) {
			t.Errorf("%s: %s", path, answer)
		}
	}
	const o = "/v1/snapshots/snapshot-1/disks/2000"
	check(o+"/bytes", want)
	check(o+"/bytes?offset=4194304", nil)
	check(o+"/bytes?offset=99&length=2000000", want[99:2000099])
	digest(o+"/sha256", want)
	digest(o+"/sha256?offset=512&length=1000", want[512:1512])
	if _, answer := ask(t, s, "GET", o+"/allocated", ""); !strings.HasPrefix(answer, `[{"start":0,"length":65536},{"start":1048576,`) {
		t.Error(answer)
	}
	copy(want, "after")
	check(d+"/bytes", want)
	digest(d+"/sha256", want)
}

// Reset reaches the data path too.
func TestResetClearsTheDataPath(t *testing.T) {
	_, s := serve(t)
	if code, answer := ask(t, s, "POST", "/v1/vddk/faults", `{"drop": true}`); code != 200 {
		t.Fatal(answer)
	}
	ask(t, s, "POST", "/v1/reset", "")
	if code, _ := ask(t, s, "DELETE", "/v1/vddk/faults/1", ""); code != 404 {
		t.Error("the fault outlived the reset")
	}
}

// The paths that are served, those that the documentation lists, and those that TestCalls and TestBytesAndOracle go through are the same.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^//\t(GET|PUT|POST|PATCH|DELETE) +(/v1[^ ?]*)`).FindAllStringSubmatch(string(text), -1) {
		listed[m[1]+" "+m[2]] = true
	}
	served := map[string]bool{"GET /v1/vms/{vm}/disks/{disk}/bytes": true, "GET /v1/snapshots/{snapshot}/disks/{disk}/bytes": true}
	for p := range (&server{new(fake)}).calls() {
		served[p] = true
	}
	mux := http.NewServeMux()
	for p := range served {
		if !listed[p] {
			t.Errorf("%s is served and not documented", p)
		}
		mux.HandleFunc(p, func(http.ResponseWriter, *http.Request) {})
	}
	for p := range listed {
		if !served[p] {
			t.Errorf("%s is documented and not served", p)
		}
	}
	tested := map[string]bool{}
	for _, c := range good {
		_, p := mux.Handler(httptest.NewRequest(c.method, c.path, nil))
		tested[p] = true
	}
	for p := range served {
		if !tested[p] && !strings.HasPrefix(p, "GET /v1/snapshots/{snapshot}/disks/") {
			t.Errorf("no test calls %s", p)
		}
	}
}
