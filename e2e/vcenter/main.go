// Command vcenter is a simulated vCenter for tests: the vSphere API with changed block tracking at /sdk, datastores at /folder, the stand-in
// for VMware's disk library at /vddk, and a control port.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"hawser.dev/e2e/vcenter/internal/control"
	"hawser.dev/e2e/vcenter/internal/vsim"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "vcenter: "+err.Error())
		}
		os.Exit(2)
	}
}

// users is the flag --user, which can be given more than once.
type users map[string]string

func (u users) String() string { return "" }

// Set reads NAME=PASSWORD.
func (u users) Set(text string) error {
	name, password, ok := strings.Cut(text, "=")
	if !ok || name == "" || password == "" {
		return errors.New("write it as NAME=PASSWORD")
	}
	u[name] = password
	return nil
}

func run(args []string) error {
	flags := flag.NewFlagSet("vcenter", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8989", "`address` of /sdk, /folder and /vddk (https)")
	controlAt := flags.String("control", "127.0.0.1:8181", "`address` of the control port (http)")
	certFile := flags.String("cert", "", "server's certificate, PEM `file`; without it one for loopback is made")
	keyFile := flags.String("key", "", "its key, PEM `file`")
	inventory := flags.String("inventory", "", "inventory, YAML `file`")
	state := flags.String("state", "", "`folder` for the datastores; without it a temporary one, removed at the end")
	verbose := flags.Bool("verbose", false, "log what govmomi's simulator logs")
	more := users{}
	flags.Var(more, "user", "`NAME=PASSWORD` of an account: another administrator, or the password of one in the inventory")
	if err := flags.Parse(args); err != nil {
		return flag.ErrHelp // the flag package has said what is wrong
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: all settings are flags (see --help)", flags.Arg(0))
	}
	if *inventory == "" {
		return errors.New("--inventory is missing: give an inventory file, such as e2e/sandbox/inventory.yaml")
	}
	if (*certFile == "") != (*keyFile == "") {
		return errors.New("--cert and --key belong together: give both or none")
	}
	if !*verbose {
		log.SetOutput(io.Discard) // govmomi's simulator logs what clients are refused as if it were its own error
	}
	inv, err := vsim.LoadInventory(*inventory)
	if err != nil {
		return err
	}
	if *state == "" {
		dir, err := os.MkdirTemp("", "vcenter-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*state = dir
	}
	cert, err := certificate(*certFile, *keyFile)
	if err != nil {
		return err
	}
	sdk, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer sdk.Close()
	side, err := net.Listen("tcp", *controlAt)
	if err != nil {
		return fmt.Errorf("--control: %w", err)
	}
	defer side.Close()
	at := &url.URL{Scheme: "https", Host: sdk.Addr().String()}
	vc, err := vsim.New(inv, vsim.Options{State: *state, Users: more, URL: at})
	if err != nil {
		return err
	}
	defer vc.Close()
	return serve(vc, cert, sdk, side, at)
}

func serve(vc *vsim.VC, cert tls.Certificate, sdk, side net.Listener, at *url.URL) error {
	quiet := log.New(io.Discard, "", 0) // of clients that break off: that is what some are there to do
	main := &http.Server{
		Handler: vc.Handler(), ErrorLog: quiet, ReadHeaderTimeout: 30 * time.Second,
		// HTTP/1.1 only: the VDDK stand-in takes its connection over, which HTTP/2 has no form for.
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	port := &http.Server{Handler: control.New(vc.Control()), ErrorLog: quiet, ReadHeaderTimeout: 30 * time.Second}
	failed := make(chan error, 2)
	go func() { failed <- main.ServeTLS(sdk, "", "") }()
	go func() { failed <- port.Serve(side) }()
	fmt.Printf("control http://%s\n", side.Addr())
	fmt.Printf("ready %s\n", at)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		return err
	case <-stop:
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	// Clients wait for updates as long as they like; who is still there after that time is cut.
	for _, s := range []*http.Server{port, main} {
		if err := s.Shutdown(ctx); err != nil {
			_ = s.Close() // its connections are what could not end in time
		}
	}
	return nil
}

// certificate loads the server's certificate, or makes one for loopback.
func certificate(certFile, keyFile string) (tls.Certificate, error) {
	if certFile != "" {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return cert, fmt.Errorf("--cert, --key: %w", err)
		}
		return cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "vcenter.sandbox"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, DNSNames: []string{"localhost", "vcenter.sandbox"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
