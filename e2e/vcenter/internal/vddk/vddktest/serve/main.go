// Command serve is a fake vCenter that knows nothing but the VDDK protocol: the stand-in library is tested against it without the
// simulator. It writes each disk's oracle to a folder, and prints how it is reached as lines of KEY=VALUE.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hawser.dev/e2e/vcenter/internal/vddk"
	"hawser.dev/e2e/vcenter/internal/vddk/vddktest"
)

func main() {
	dir := flag.String("dir", ".", "folder for the oracles")
	address := flag.String("address", "127.0.0.1", "address to listen on")
	budget := flag.Int("budget", 8, "how many disks the host lets be open")
	size := flag.Int("size", 24<<20, "bytes of the first disk")
	flag.Parse()
	if err := run(*dir, *address, *budget, *size); err != nil {
		log.Fatal(err)
	}
}

func run(dir, address string, budget, size int) error {
	b := vddktest.New(budget)
	faults := &vddk.Faults{}
	// The second ends in the middle of a chunk: QueryAllocatedBlocks can't ask for its tail.
	disks := []struct {
		path string
		size int
	}{{"[datastore1] web/web.vmdk", size}, {"[datastore1] web/web_1-000001.vmdk", 5<<20 + 3*vddk.Sector}}
	for i, disk := range disks {
		path := disk.path
		d := b.Add(path, disk.size, uint64(i))
		name := strings.TrimSuffix(path[strings.LastIndex(path, "/")+1:], ".vmdk") + ".oracle"
		if err := os.WriteFile(filepath.Join(dir, name), d.Frozen(), 0o600); err != nil {
			return err
		}
		go func() {
			r := rand.New(rand.NewPCG(7, 7))
			for {
				d.GuestWrite(r)
				time.Sleep(100 * time.Microsecond)
			}
		}()
	}

	cert, err := selfSigned(address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/vddk", vddk.Handler(b, faults))
	tlsListener, err := tls.Listen("tcp", net.JoinHostPort(address, "0"), &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	sum := sha1.Sum(cert.Certificate[0])
	print := strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
	_, port, _ := net.SplitHostPort(tlsListener.Addr().String())
	fmt.Printf("SERVER=%s\nPORT=%s\nTHUMBPRINT=%s\nCONTROL=http://%s\n", address, port, print, control.Addr())

	go func() { log.Print(http.Serve(control, controls(b, faults))) }()
	go func() { log.Print(http.Serve(tlsListener, mux)) }()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
	return nil
}

func controls(b *vddktest.Backend, faults *vddk.Faults) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		var f vddk.Fault
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		id, err := faults.Set(f)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, id)
	})
	mux.HandleFunc("DELETE /faults", func(http.ResponseWriter, *http.Request) { faults.ClearAll() })
	mux.HandleFunc("DELETE /connections", func(http.ResponseWriter, *http.Request) { faults.DropAll() })
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"counts": faults.Counts(), "open": faults.OpenDisks(), "connections": faults.Connections(),
			"logins": b.Logins(), "bytes": faults.BytesRead(),
		})
	})
	return mux
}

func selfSigned(address string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vcenter"}, IPAddresses: []net.IP{net.ParseIP(address)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(crand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
