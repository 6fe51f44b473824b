package testkit

import (
	"net"
	"runtime"
	"strconv"
	"testing"
)

func splitHostPort(t *testing.T, address string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

func TestFreePortsAreFree(t *testing.T) {
	l, err := net.Listen("tcp", FreeTCP(t))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := net.ListenPacket("udp", FreeUDP(t))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestFreePortsAreNotTheKernels(t *testing.T) {
	_, text := splitHostPort(t, FreeTCP(t))
	if port := must[int](t)(strconv.Atoi(text)); port < firstPort || port > lastPort {
		t.Errorf("port %d, want one from %d to %d", port, firstPort, lastPort)
	}
}

func TestPortsAreGivenOutOnce(t *testing.T) {
	port := firstPort
	for ; port <= lastPort; port++ { // the first that nobody has
		if must[bool](t)(ports.reserve(port)) {
			break
		}
	}
	if must[bool](t)(ports.reserve(port)) {
		t.Errorf("port %d twice in one process", port)
	}
	if runtime.GOOS != "linux" {
		return // other processes are kept off on Linux only
	}
	other := reservations{own: map[int]bool{}} // as another process has it
	if must[bool](t)(other.reserve(port)) {
		t.Errorf("port %d in two processes", port)
	}
	if err := other.file.Close(); err != nil {
		t.Error(err)
	}
	if must[bool](t)(ports.reserve(port)) {
		t.Errorf("port %d is free because somebody else has looked", port)
	}
}
