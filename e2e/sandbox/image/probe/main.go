// Command probe is the one program of the sandbox's test image, and stands for what tests of a cluster need in a pod.
//
//	probe serve ADDRESS    answers each request with the pod's name and its client's address, and logs a line for it
//	probe get URL          prints what is answered
//	probe dial ADDRESS     connects, and prints how that went
//	probe cat FILE         prints a file
//	probe write FILE       tries to create a file
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Long enough for a busy machine; a test that has no answer after that has found something.
const patience = 5 * time.Second

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: probe serve|get|dial|cat|write ARGUMENT")
		os.Exit(2)
	}
	commands := map[string]func(string) error{"serve": serve, "get": get, "dial": dial, "cat": cat, "write": write}
	command, known := commands[os.Args[1]]
	if !known {
		fmt.Fprintf(os.Stderr, "probe: no command %q\n", os.Args[1])
		os.Exit(2)
	}
	if err := command(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func serve(address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	// As process 1 of its container it would not be ended by a signal it does not handle.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-end
		os.Exit(0)
	}()
	fmt.Println("probe: serving on", address)
	server := http.Server{
		Addr:              address,
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Printf("probe: %s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
			fmt.Fprintf(w, "%s for %s\n", name, r.RemoteAddr)
		}),
	}
	return server.ListenAndServe()
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func dial(address string) error {
	connection, err := net.DialTimeout("tcp", address, patience)
	switch {
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Errorf("unreachable: %w", err)
	case err != nil:
		return fmt.Errorf("refused or lost: %w", err)
	}
	fmt.Println("connected to", connection.RemoteAddr())
	return connection.Close()
}

func cat(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

func write(file string) error {
	return os.WriteFile(file, []byte("probe\n"), 0o600)
}
