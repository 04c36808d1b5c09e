package vsim

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
)

// sessions are the logins that are alive. govmomi's table beside it has their per-session objects, but neither limit nor expiry that a test
// could rely on.
type sessions struct {
	vc    *VC
	mu    sync.Mutex
	idle  time.Duration
	limit int
	live  map[string]*session
}

type session struct {
	user    string
	last    time.Time
	running int
	inner   *simulator.Session
	sieves  map[*simulator.PropertyCollector]*sieve
}

func newSessions(v *VC) *sessions {
	s := &sessions{vc: v, idle: time.Duration(v.inv.Settings.SessionIdle), limit: v.inv.Settings.MaxSessions, live: map[string]*session{}}
	v.reg.SessionManager().ValidLogin = func(req *types.Login) bool { return v.password(req.UserName, req.Password) }
	return s
}

// password checks a login. Names are compared without regard to case, as SSO does.
func (v *VC) password(name, password string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	u := v.users[account(name)]
	good := u != nil && u.password == password
	if !good {
		v.refused[account(name)]++
	}
	return good
}

// cookie is the registry's hook: which session a request belongs to. An expired one is none.
func (s *sessions) cookie(ctx *simulator.Context) string {
	key := simulator.HTTPCookie(ctx)
	if !s.alive(key) {
		return ""
	}
	return key
}

func (s *sessions) alive(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[key] != nil
}

// userOf is the user of a request outside /sdk, and keeps its session alive.
func (s *sessions) userOf(r *http.Request) (string, bool) {
	c, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	live := s.live[c.Value]
	if live == nil {
		return "", false
	}
	live.last = time.Now()
	return live.user, true
}

// begin and end bracket a call: a session with a call under way is not idle.
func (s *sessions) begin(key string) (alive, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live := s.live[key]; live != nil {
		live.running++
		live.last = time.Now()
		return true, false
	}
	return false, len(s.live) >= s.limit
}

func (s *sessions) end(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live := s.live[key]; live != nil {
		live.running--
		live.last = time.Now()
	}
}

// middleware does what vCenter does before SOAP: it turns away who has no session when there are too many, and quotes the cookie.
func (s *sessions) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, object, err := soapCall(r)
		if err != nil {
			http.Error(w, "400: the request cannot be read", http.StatusBadRequest)
			return
		}
		out := &quotingWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			if method != "" {
				s.vc.calls.add(method, out.status >= 400)
			}
		}()
		if rule := s.vc.inject.match(control.StageHTTP, method, object); rule != nil {
			rule.wait(s.vc)
			out.status = rule.Status
			http.Error(w, fmt.Sprintf("%d %s", rule.Status, http.StatusText(rule.Status)), rule.Status)
			return
		}
		key := ""
		if c, err := r.Cookie(soap.SessionCookieName); err == nil {
			key = c.Value
		}
		alive, full := s.begin(key)
		if alive {
			defer s.end(key)
		} else if full {
			// vpxd logs "Out of HTTP sessions: Limited to N" and its first call without a session, RetrieveServiceContent, gets 503
			// (vcdx200.com 2017/02; KB 375546).
			out.status = http.StatusServiceUnavailable
			http.Error(w, "503 Service Unavailable", http.StatusServiceUnavailable)
			return
		}
		if strings.HasPrefix(method, "WaitForUpdates") {
			if sieve := s.sieve(key, object); sieve != nil {
				// Again for each: the first wait makes the collector itself the one that is told.
				s.vc.reg.AddHandler(sieve)
			}
			done := make(chan struct{})
			defer close(done)
			go s.abandon(r, key, object, done)
		}
		next.ServeHTTP(out, r)
	})
}

// abandon ends a wait whose client has gone; else it would go on, and keep the session from being idle.
func (s *sessions) abandon(r *http.Request, key, object string, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-r.Context().Done():
	}
	select {
	case <-done:
		return // the context of a call that was answered ends, too
	default:
	}
	if pc, _ := s.collector(key, object); pc != nil {
		pc.CancelWaitForUpdates(&types.CancelWaitForUpdates{})
	}
}

// sieve is what stands before a session's property collector: one for all its waits, or what it has kept back would be told after the object had gone.
func (s *sessions) sieve(key, object string) *sieve {
	pc, live := s.collector(key, object)
	if pc == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if live.sieves[pc] == nil {
		live.sieves[pc] = &sieve{pc: pc, inner: live.inner}
	}
	return live.sieves[pc]
}

// collector is a session's property collector, and the session; none where there is no such session or collector.
func (s *sessions) collector(key, object string) (*simulator.PropertyCollector, *session) {
	s.mu.Lock()
	live := s.live[key]
	s.mu.Unlock()
	if live == nil {
		return nil, nil
	}
	pc, _ := live.inner.Get(types.ManagedObjectReference{Type: "PropertyCollector", Value: object}).(*simulator.PropertyCollector)
	return pc, live
}

// quotingWriter writes the session cookie as vCenter does: its value in quotes.
type quotingWriter struct {
	http.ResponseWriter
	wrote  bool
	status int
}

func (w *quotingWriter) quote() {
	if w.wrote {
		return
	}
	w.wrote = true
	h := w.Header()
	h.Set("Content-Type", "text/xml; charset=utf-8")
	for i, c := range h["Set-Cookie"] {
		name, rest, _ := strings.Cut(c, "=")
		if name != soap.SessionCookieName {
			continue
		}
		value, _, _ := strings.Cut(rest, ";")
		h["Set-Cookie"][i] = name + `="` + strings.Trim(value, `"`) + `"; Path=/; HttpOnly; Secure; `
	}
}

// WriteHeader quotes first.
func (w *quotingWriter) WriteHeader(status int) {
	w.quote()
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Write quotes first.
func (w *quotingWriter) Write(p []byte) (int, error) {
	w.quote()
	return w.ResponseWriter.Write(p)
}

// watch ends sessions that were idle for too long.
func (s *sessions) watch() {
	s.vc.background(func() {
		for s.vc.sleep(100 * time.Millisecond) {
			var old []*session
			s.mu.Lock()
			for key, live := range s.live {
				if live.running == 0 && time.Since(live.last) > s.idle {
					old = append(old, live)
					delete(s.live, key)
				}
			}
			s.mu.Unlock()
			for _, x := range old {
				s.release(x)
			}
		}
	})
}

// add records a session that govmomi's manager has just made.
func (s *sessions) add(ctx *simulator.Context) {
	inner := *ctx.Session
	// govmomi's session keeps its default property collector under a name that all sessions share, and so do the registry's listeners: the
	// second client that waits would take the first one's updates away.
	ref := s.vc.content().PropertyCollector
	if pc, ok := inner.Get(ref).(*simulator.PropertyCollector); ok {
		pc.Self.Value = "session[" + inner.Key + "]" + ref.Value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[inner.Key] = &session{
		user: inner.UserName, last: time.Now(), inner: &inner, sieves: map[*simulator.PropertyCollector]*sieve{},
	}
}

// drop ends a session and tells whether there was one.
func (s *sessions) drop(key string) bool {
	s.mu.Lock()
	live := s.live[key]
	delete(s.live, key)
	s.mu.Unlock()
	if live != nil {
		s.release(live)
	}
	return live != nil
}

// release frees what a session had: its collectors' waits are cancelled, its filters die.
func (s *sessions) release(live *session) {
	for _, o := range live.inner.Registry.AllReference("PropertyCollector") {
		if pc, ok := o.(*simulator.PropertyCollector); ok {
			pc.CancelWaitForUpdates(&types.CancelWaitForUpdates{})
			s.vc.reg.RemoveHandler(pc)
		}
	}
	ctx := s.vc.ctx()
	ctx.Session = live.inner
	s.vc.reg.SessionManager().Logout(ctx, nil)
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// dropAll ends all sessions, or those of one user.
func (s *sessions) dropAll(user string) int {
	s.mu.Lock()
	var keys []string
	for key, live := range s.live {
		if user == "" || strings.EqualFold(live.user, user) {
			keys = append(keys, key)
		}
	}
	s.mu.Unlock()
	for _, key := range keys {
		s.drop(key)
	}
	return len(keys)
}

// anonymousTypes are what may be read without a session (privilege System.Anonymous in the API reference).
var anonymousTypes = []string{"ServiceInstance", "SessionManager"}

// anonymous refuses what needs a login. Open are RetrieveServiceContent, the logins, and the properties of two objects.
func (v *VC) anonymous(m *simulator.Method) types.BaseMethodFault {
	refused := say(&types.NotAuthenticated{NoPermission: types.NoPermission{Object: &m.This, PrivilegeId: "System.View"}}, "",
		"The session is not authenticated.")
	open := func(sets []types.PropertyFilterSpec) bool {
		for _, set := range sets {
			for _, o := range set.ObjectSet {
				if !slices.Contains(anonymousTypes, o.Obj.Type) || len(o.SelectSet) > 0 {
					return false
				}
			}
		}
		return true
	}
	switch req := m.Body.(type) {
	case *types.Login, *types.LoginByToken, *types.LoginExtensionByCertificate, *types.CloneSession, *types.RetrieveServiceContent:
		return nil
	case *types.RetrieveProperties:
		if open(req.SpecSet) {
			return nil
		}
	case *types.RetrievePropertiesEx:
		if open(req.SpecSet) {
			return nil
		}
	default:
		if m.Name == "Fetch" {
			if ref, _ := fetched(m.Body); slices.Contains(anonymousTypes, ref.Type) {
				return nil
			}
		}
	}
	return refused
}

// Login opens a session.
func (f *front) Login(ctx *simulator.Context, req *types.Login) soap.HasFault {
	body := f.vc.reg.SessionManager().Login(ctx, req)
	if body.Fault() != nil {
		return refuse("Cannot complete login due to an incorrect user name or password.", new(types.InvalidLogin))
	}
	f.vc.sessions.add(ctx)
	if !f.vc.anyGrant(req.UserName) {
		// "NoPermission if the user and password are valid, but the user has no access granted" (API reference).
		f.vc.sessions.drop(ctx.Session.Key)
		fault := f.vc.noPermission(f.vc.root, "System.View")
		return refuse(message(fault), fault)
	}
	return body
}

// Logout ends the caller's session.
func (f *front) Logout(ctx *simulator.Context, _ *types.Logout) soap.HasFault {
	f.vc.sessions.drop(ctx.Session.Key)
	return &methods.LogoutBody{Res: new(types.LogoutResponse)}
}

// CloneSession opens a session by another one's ticket, which is good for one use.
func (f *front) CloneSession(ctx *simulator.Context, req *types.CloneSession) soap.HasFault {
	body := f.vc.reg.SessionManager().CloneSession(ctx, req)
	if body.Fault() == nil {
		f.vc.sessions.add(ctx)
	}
	return body
}

// TerminateSession ends sessions of others.
func (f *front) TerminateSession(ctx *simulator.Context, req *types.TerminateSession) soap.HasFault {
	for _, id := range req.SessionId {
		if id == ctx.Session.Key {
			return refuse("", invalidArgument("sessionId"))
		}
		if !f.vc.sessions.drop(id) {
			return refuse("", say(&types.NotFound{}, "", "there is no session "+id))
		}
	}
	return &methods.TerminateSessionBody{Res: new(types.TerminateSessionResponse)}
}

// SessionIsActive tells whether a session lives.
func (f *front) SessionIsActive(_ *simulator.Context, req *types.SessionIsActive) soap.HasFault {
	s := f.vc.sessions
	s.mu.Lock()
	defer s.mu.Unlock()
	live := s.live[req.SessionID]
	return &methods.SessionIsActiveBody{Res: &types.SessionIsActiveResponse{Returnval: live != nil && strings.EqualFold(live.user, req.UserName)}}
}
