package vsim

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/property"
	vsession "github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
)

func TestWrongPasswordIsInvalidLogin(t *testing.T) {
	b := start(t)
	for _, who := range [][2]string{{Administrator, "wrong"}, {"stranger@vsphere.local", "sandbox"}, {"", ""}} {
		_, err := b.dial(who[0], who[1])
		if who[0] == "" {
			if err == nil {
				// govmomi does not log in without a name: then nothing but the open calls works.
				continue
			}
		}
		refused[types.InvalidLogin](b, err)
	}
}

func TestWithoutSessionNothingIsAnswered(t *testing.T) {
	b := start(t)
	ref := b.vm("web").Reference()
	c := b.login(Administrator)
	b.must(c.Logout(b.ctx))
	_, err := methods.CreateSnapshot_Task(b.ctx, c.Client, &types.CreateSnapshot_Task{This: ref, Name: "x"})
	refused[types.NotAuthenticated](b, err)
	_, err = methods.GetCurrentTime(b.ctx, c.Client)
	refused[types.NotAuthenticated](b, err)
	var vm mo.VirtualMachine
	refused[types.NotAuthenticated](b, property.DefaultCollector(c.Client).RetrieveOne(b.ctx, ref, []string{"name"}, &vm))
	// What a real vCenter leaves open.
	_, err = methods.GetServiceContent(b.ctx, c.Client)
	b.must(err)
	var si mo.ServiceInstance
	b.must(property.DefaultCollector(c.Client).RetrieveOne(b.ctx, vim25.ServiceInstance, []string{"content"}, &si))
	s, err := vsession.NewManager(c.Client).UserSession(b.ctx)
	b.must(err)
	if s != nil {
		t.Fatalf("a session after logout: %+v", s)
	}
}

func TestTokensAndCertificatesDoNotLogIn(t *testing.T) {
	b := start(t)
	c := b.login(Administrator)
	b.must(c.Logout(b.ctx))
	_, err := methods.LoginByToken(b.ctx, c.Client, &types.LoginByToken{This: *c.ServiceContent.SessionManager})
	refused[types.InvalidLogin](b, err)
}

func TestCookieIsQuotedAndForgedOnesAreRefused(t *testing.T) {
	b := start(t)
	login := `<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><Login xmlns="urn:vim25">` +
		`<_this type="SessionManager">SessionManager</_this><userName>` + Administrator + `</userName><password>sandbox</password></Login></e:Body></e:Envelope>`
	res, err := b.c.Client.Client.Client.Transport.RoundTrip(post(b, login, ""))
	b.must(err)
	defer res.Body.Close()
	cookie := res.Header.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, soap.SessionCookieName+`="`) || !strings.Contains(cookie, "HttpOnly; Secure") {
		t.Fatalf("cookie %q", cookie)
	}
	value := strings.Split(cookie, `"`)[1]
	now := strings.Replace(strings.Split(login, "<Login")[0], "", "", 1) +
		`<CurrentTime xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></CurrentTime></e:Body></e:Envelope>`
	for sent, want := range map[string]int{`"` + value + `"`: 200, value: 200, "forged": 500} {
		res, err := b.c.Client.Client.Client.Transport.RoundTrip(post(b, now, soap.SessionCookieName+"="+sent))
		b.must(err)
		res.Body.Close()
		equal(b, res.StatusCode, want)
	}
}

func post(b *bed, body, cookie string) *http.Request {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.url.String(), strings.NewReader(body))
	b.must(err)
	req.Header.Set("Content-Type", "text/xml")
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	return req
}

func TestIdleSessionExpires(t *testing.T) {
	b := start(t, func(i *Inventory) { i.Settings.SessionIdle = Duration(400 * time.Millisecond) })
	for range 6 { // calls keep it alive
		_, err := methods.GetCurrentTime(b.ctx, b.c.Client)
		b.must(err)
		time.Sleep(150 * time.Millisecond)
	}
	time.Sleep(900 * time.Millisecond)
	_, err := methods.GetCurrentTime(b.ctx, b.c.Client)
	refused[types.NotAuthenticated](b, err)
	equal(b, b.vc.sessions.count(), 0)
}

func TestWaitingSessionIsNotIdle(t *testing.T) {
	b := start(t, func(i *Inventory) { i.Settings.SessionIdle = Duration(300 * time.Millisecond) })
	pc := property.DefaultCollector(b.c.Client)
	filter := types.CreateFilter{Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: b.vm("web").Reference()}},
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"runtime.powerState"}}},
	}}
	filter.This = pc.Reference()
	_, err := methods.CreateFilter(b.ctx, b.c.Client, &filter)
	b.must(err)
	_, err = methods.WaitForUpdatesEx(b.ctx, b.c.Client, &types.WaitForUpdatesEx{This: pc.Reference()})
	b.must(err)
	seconds := int32(1)
	_, err = methods.WaitForUpdatesEx(b.ctx, b.c.Client, &types.WaitForUpdatesEx{
		This: pc.Reference(), Version: "-", Options: &types.WaitOptions{MaxWaitSeconds: &seconds},
	})
	b.must(err)
	_, err = methods.GetCurrentTime(b.ctx, b.c.Client)
	b.must(err)
}

func TestSessionLimitAnswers503AndLogoutFrees(t *testing.T) {
	b := start(t, func(i *Inventory) { i.Settings.MaxSessions = 2 })
	second := b.login(Administrator)
	if _, err := b.dial(Administrator, "sandbox"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Fatalf("got %v, want 503", err)
	}
	_, err := methods.GetCurrentTime(b.ctx, second.Client) // who has a session goes on
	b.must(err)
	b.must(second.Logout(b.ctx))
	b.login(Administrator)
}

func TestEndedSessionsAreNotAuthenticated(t *testing.T) {
	b := start(t)
	other := b.login("worker@vsphere.local")
	n, err := b.ctl.ExpireSessions("worker@vsphere.local")
	b.must(err)
	equal(b, n, 1)
	_, err = methods.GetCurrentTime(b.ctx, other.Client)
	refused[types.NotAuthenticated](b, err)
	_, err = methods.GetCurrentTime(b.ctx, b.c.Client)
	b.must(err)

	third := b.login("reader@vsphere.local")
	s, err := vsession.NewManager(third.Client).UserSession(b.ctx)
	b.must(err)
	b.must(vsession.NewManager(b.c.Client).TerminateSession(b.ctx, []string{s.Key}))
	_, err = methods.GetCurrentTime(b.ctx, third.Client)
	refused[types.NotAuthenticated](b, err)
	refused[types.NotFound](b, vsession.NewManager(b.c.Client).TerminateSession(b.ctx, []string{s.Key}))
}

func TestCloneTicketIsGoodForOneUse(t *testing.T) {
	b := start(t)
	ticket, err := vsession.NewManager(b.c.Client).AcquireCloneTicket(b.ctx)
	b.must(err)
	c := b.login(Administrator)
	b.must(c.Logout(b.ctx))
	b.must(vsession.NewManager(c.Client).CloneSession(b.ctx, ticket))
	_, err = methods.GetCurrentTime(b.ctx, c.Client)
	b.must(err)
	d := b.login(Administrator)
	b.must(d.Logout(b.ctx))
	refused[types.InvalidLogin](b, vsession.NewManager(d.Client).CloneSession(b.ctx, ticket))
}

// Two clients that wait by their default collectors both hear: govmomi's own simulator loses the first one's updates.
func TestTwoClientsWaitByTheirDefaultCollectors(t *testing.T) {
	b := start(t)
	other := b.as(Administrator)
	spec := types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: b.vm("cold").Reference()}},
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"runtime.powerState"}}},
	}
	seconds := int32(10)
	waitFor := func(x *bed) error {
		_, err := methods.WaitForUpdatesEx(x.ctx, x.c.Client, &types.WaitForUpdatesEx{
			This: x.c.ServiceContent.PropertyCollector, Version: "-", Options: &types.WaitOptions{MaxWaitSeconds: &seconds},
		})
		return err
	}
	for _, x := range []*bed{b, other} {
		_, err := methods.CreateFilter(x.ctx, x.c.Client, &types.CreateFilter{This: x.c.ServiceContent.PropertyCollector, Spec: spec})
		b.must(err)
		_, err = methods.WaitForUpdatesEx(x.ctx, x.c.Client, &types.WaitForUpdatesEx{This: x.c.ServiceContent.PropertyCollector})
		b.must(err)
	}
	began := time.Now()
	done := make(chan error, 2)
	go func() { done <- waitFor(b) }()
	go func() { done <- waitFor(other) }()
	b.must(b.ctl.SetPower("cold", control.PowerOn))
	b.must(<-done)
	b.must(<-done)
	if time.Since(began) > 5*time.Second {
		t.Fatal("one of them waited in vain")
	}
}

func TestPathsThatDoNotExistAreInvalidProperty(t *testing.T) {
	b := start(t)
	var vm mo.VirtualMachine
	err := property.DefaultCollector(b.c.Client).RetrieveOne(b.ctx, b.vm("web").Reference(), []string{"config.none"}, &vm)
	equal(b, refused[types.InvalidProperty](b, err).Name, "config.none")
	_, err = methods.CreateFilter(b.ctx, b.c.Client, &types.CreateFilter{This: b.c.ServiceContent.PropertyCollector, Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: b.vm("web").Reference()}},
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"nothing"}}},
	}})
	equal(b, refused[types.InvalidProperty](b, err).Name, "nothing")
}

// What an administrator does to an account counts at once; sessions that stand outlive their password.
func TestAccountsAreEdited(t *testing.T) {
	b := start(t)
	w := b.as("worker@vsphere.local")
	one, password := []string{"VirtualMachine.State.CreateSnapshot"}, "another"
	b.must(b.ctl.EditUser("Worker@vsphere.local", nil, nil, one))
	create := func() error { _, err := w.vm("web").CreateSnapshot(w.ctx, "x", "", false, false); return err }
	equal(b, refused[types.NoPermission](b, create()).PrivilegeId, one[0])
	b.must(b.ctl.EditUser("worker@vsphere.local", &password, one, nil))
	b.must(create())
	_, err := b.dial("worker@vsphere.local", "sandbox")
	refused[types.InvalidLogin](b, err)
	_, err = b.dial("worker@vsphere.local", password)
	b.must(err)
	refusals, err := b.ctl.RefusedLogins()
	b.must(err)
	equal(b, refusals["worker@vsphere.local"], 1)
	for i, wrong := range []error{
		b.ctl.EditUser("stranger@vsphere.local", &password, nil, nil),
		b.ctl.EditUser("worker@vsphere.local", nil, []string{"No.Such.Privilege"}, nil),
		b.ctl.EditUser(Administrator, nil, nil, one),
	} {
		if wrong == nil {
			t.Error(i, "was taken")
		}
	}
}
