package vsim

import (
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/soap"
)

// serveFolder is https access to datastores: /folder/PATH?dcPath=DC&dsName=DS (vSphere Web Services SDK guide, "Datastore Access").
//
// It needs a session, or HTTP's basic authentication, and Datastore.Browse to read, Datastore.FileManagement to write. A disk's file that
// a running machine holds answers 500, as a file that NFC holds does (see docs/sandbox.md).
func (v *VC) serveFolder(w http.ResponseWriter, r *http.Request) {
	v.calls.add(r.Method+" /folder", false)
	user, ok := v.sessions.userOf(r)
	if name, password, basic := r.BasicAuth(); !ok && basic && v.password(name, password) {
		user, ok = name, true
	}
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "401 Unauthorized: log in by /sdk and send the cookie "+soap.SessionCookieName, http.StatusUnauthorized)
		return
	}
	query := r.URL.Query()
	s := v.storeByPath(query.Get("dcPath"), query.Get("dsName"))
	if s == nil {
		http.Error(w, "404: no datastore "+query.Get("dsName")+" in datacenter "+query.Get("dcPath"), http.StatusNotFound)
		return
	}
	privilege := "Datastore.Browse"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		privilege = "Datastore.FileManagement"
	}
	if !v.has(user, s.ref, privilege) {
		http.Error(w, "403: the user lacks "+privilege+" on datastore "+s.name, http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "405: this simulator's datastores are written by the control port", http.StatusMethodNotAllowed)
		return
	}
	name := path.Clean("/" + strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/folder"), "/"))
	local := filepath.Join(s.dir, filepath.FromSlash(name))
	info, err := os.Stat(local)
	if err != nil || filepath.Base(local) == marker {
		http.NotFound(w, r)
		return
	}
	if info.IsDir() {
		v.listFolder(w, local)
		return
	}
	if v.locked(s, name) {
		http.Error(w, "500: Failed to lock the file "+s.path(strings.TrimPrefix(path.Dir(name), "/"), path.Base(name)), http.StatusInternalServerError)
		return
	}
	f, err := os.Open(local)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	kind := "application/octet-stream"
	if strings.HasSuffix(name, ".vmdk") {
		kind = "application/x-vmdk-disk"
	}
	w.Header().Set("Content-Type", kind)
	http.ServeContent(w, r, "", info.ModTime().Truncate(time.Second), f)
}

func (v *VC) listFolder(w http.ResponseWriter, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		http.Error(w, "500: the folder cannot be read", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	var b strings.Builder
	b.WriteString("<html><body><ul>\n")
	for _, e := range entries {
		name := e.Name()
		if name == marker {
			continue
		}
		if e.IsDir() {
			name += "/"
		}
		b.WriteString(`<li><a href="` + (&url.URL{Path: name}).String() + `">` + strings.ReplaceAll(name, "<", "&lt;") + "</a></li>\n")
	}
	b.WriteString("</ul></body></html>\n")
	_, _ = w.Write([]byte(b.String())) // the client may have gone
}

// storeByPath finds a datastore by the datacenter's inventory path. libvirt encodes both names twice; so a name is taken decoded, too.
func (v *VC) storeByPath(dc, name string) *store {
	once := func(text string) string {
		if t, err := url.PathUnescape(text); err == nil {
			return t
		}
		return text
	}
	for _, s := range v.allStores() {
		if (s.name == name || s.name == once(name)) && (dc == "" || path.Base(dc) == s.dc.Name || path.Base(once(dc)) == s.dc.Name) {
			return s
		}
	}
	return nil
}

// locked tells whether a machine that is not off, or a reader of the data path, holds the file: a disk's extent or the .vmx.
func (v *VC) locked(s *store, name string) bool {
	folder, file := path.Split(strings.TrimPrefix(name, "/"))
	folder = strings.TrimSuffix(folder, "/")
	for _, m := range v.allMachines() {
		m.mu.Lock()
		mine := m.folder == folder && strings.HasSuffix(file, ".vmdk")
		held := false
		if mine {
			for _, d := range m.disks {
				if d.store == s && strings.HasPrefix(file, d.base) {
					held = held || m.power != off && (strings.HasSuffix(file, "-flat.vmdk") || strings.HasSuffix(file, "-delta.vmdk"))
					held = held || v.handles.anyOn(d)
				}
			}
		}
		m.mu.Unlock()
		if held {
			return true
		}
	}
	return false
}
