package twonets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/internal/testkit"
)

// tcpTarget is the port that the client's entry for streams leads to.
const tcpTarget = echoPort

// What the worlds of the table have in common: time-outs that a test can wait for.
const (
	faultDial      = 3 * time.Second
	faultKeepalive = 4 * time.Second
	faultTimeouts  = "dial 3s\n\t\t\tkeepalive 4s\n\t\t\tconnect 5s\n"
)

const (
	plainWorld  faultWorld = "a clean cable of 5 ms"
	narrowWorld faultWorld = "an MTU of 1280"
	memoryWorld faultWorld = "little memory"
	diskWorld   faultWorld = "a full disk"
	brokenWorld faultWorld = "built with faults"
)

var clean = testkit.Path{Delay: 5 * time.Millisecond}

// faultWorlds are started in this order, each when the one before has ended.
var faultWorlds = []struct {
	name    faultWorld
	options options
	binary  func(*testing.T) string // nil: as it is shipped
	prepare func(*world)            // when it runs
}{
	{name: plainWorld, options: options{cable: testkit.CableConfig{Path: clean, Seed: 7}}},
	{name: narrowWorld, options: options{
		cable:     testkit.CableConfig{Path: testkit.Path{Delay: clean.Delay, MaxPacket: 1280}, Seed: 8},
		beforeRun: func(w *world) { clampSegments(w) },
	}},
	{name: memoryWorld, options: options{
		cable:      testkit.CableConfig{Path: clean, Seed: 9},
		gatewayApp: "limits {\n\t\t\tmemory 4MiB\n\t\t}", gatewayEnv: map[string]string{"GOMEMLIMIT": "96MiB"},
	}},
	{name: diskWorld, options: options{cable: testkit.CableConfig{Path: clean, Seed: 10}, beforeRun: fillDisk}},
	{name: brokenWorld, options: options{cable: testkit.CableConfig{Path: clean, Seed: 11}}, binary: faultyBinary},
	{name: clockWorld, options: options{cable: testkit.CableConfig{Path: clean, Seed: 12}}, binary: clockBinary},
}

// faultRows is the table. Each has its expectation in faults_expected_linux_test.go.
var faultRows = []faultRow{
	{name: "the target refuses", world: plainWorld, do: func(f *trial) { f.answers(f.host.String(), 9, clean.Delay) }},
	{name: "the target hangs", world: plainWorld, do: targetHangs},
	{name: "the target resets in the middle", world: plainWorld, do: targetResets},
	{name: "the target ends its direction, the client goes on", world: plainWorld, do: func(f *trial) { f.halfClose(func(x *through) (first, second *net.TCPConn) { return x.far, x.near }) }},
	{name: "the client ends its direction, the target goes on", world: plainWorld, do: func(f *trial) { f.halfClose(func(x *through) (first, second *net.TCPConn) { return x.near, x.far }) }},
	{name: "the target trickles a byte a second", world: plainWorld, do: targetTrickles},
	{name: "the target never reads", world: plainWorld, do: func(f *trial) { f.neverReads(func(x *through) (from, to *net.TCPConn) { return x.near, x.far }) }},
	{name: "the client never reads", world: plainWorld, do: func(f *trial) { f.neverReads(func(x *through) (from, to *net.TCPConn) { return x.far, x.near }) }},
	{name: "the target's machine vanishes", world: plainWorld, slow: true, do: targetVanishes},
	{name: "DNS answers after 1 s", world: plainWorld, do: dnsSlow},
	{name: "DNS does not answer", world: plainWorld, do: func(f *trial) { f.answers("silent.lan.example", tcpTarget, faultDial/2) }},
	{name: "DNS answers another question", world: plainWorld, do: func(f *trial) { f.answers("wrong.lan.example", tcpTarget, faultDial/2) }},
	{name: "DNS knows no such name", world: plainWorld, do: func(f *trial) { f.answers("nobody.lan.example", tcpTarget, 0) }},
	{name: "DNS changes to an address of the gateway itself", world: plainWorld, do: dnsChanges},

	{name: "UDP is blocked for 5 s", world: plainWorld, do: func(f *trial) { f.blockUDP(5 * time.Second) }},
	{name: "UDP is blocked for 20 s", world: plainWorld, slow: true, do: func(f *trial) { f.blockUDP(20 * time.Second) }},
	{name: "UDP is blocked for 60 s", world: plainWorld, slow: true, do: blockUDPForLong},
	{name: "1 % of the packets are lost", world: plainWorld, do: func(f *trial) { f.badPath(testkit.Path{Delay: clean.Delay, Loss: .01}, 4<<20) }},
	{name: "5 % of the packets are lost", world: plainWorld, slow: true, do: func(f *trial) { f.badPath(testkit.Path{Delay: clean.Delay, Loss: .05}, 4<<20) }},
	{name: "20 % of the packets are lost", world: plainWorld, slow: true, do: func(f *trial) { f.badPath(testkit.Path{Delay: clean.Delay, Loss: .2}, 1<<19) }},
	{name: "20 % of the packets are overtaken", world: plainWorld, do: func(f *trial) { f.badPath(testkit.Path{Delay: clean.Delay, Reorder: .2}, 4<<20) }},
	{name: "20 % of the packets come twice", world: plainWorld, do: func(f *trial) { f.badPath(testkit.Path{Delay: clean.Delay, Duplicate: .2}, 4<<20) }},
	{name: "an MTU of 1280 without ICMP", world: narrowWorld, do: func(f *trial) { f.carries(4 << 20) }},
	{name: "the client's port changes (NAT rebinding)", world: plainWorld, do: func(f *trial) { f.rebind(1) }},
	{name: "the client's address changes (NAT rebinding)", world: plainWorld, slow: true, do: func(f *trial) { f.rebind(99) }},

	{name: "gateway SIGKILL", world: plainWorld, slow: true, do: gatewayKilled},
	{name: "gateway SIGSTOP for 20 s", world: plainWorld, slow: true, do: func(f *trial) { f.pause(f.gateway) }},
	{name: "gateway SIGTERM", world: plainWorld, do: gatewayStopped},
	{name: "client SIGKILL", world: plainWorld, slow: true, do: clientKilled},
	{name: "client SIGSTOP for 20 s", world: plainWorld, slow: true, do: func(f *trial) { f.pause(f.client) }},
	{name: "client SIGTERM", world: plainWorld, do: clientStopped},

	{name: "no descriptors at the gateway", world: plainWorld, do: gatewayWithoutDescriptors},
	{name: "no descriptors at the client", world: plainWorld, do: clientWithoutDescriptors},
	{name: "memory is short", world: memoryWorld, do: shortMemory},
	{name: "the disk of the logs is full", world: diskWorld, do: diskFull},
	{name: "5,000 offers at once", world: plainWorld, slow: true, do: manyOffers},
	{name: "10,000 streams opened and dropped", world: plainWorld, slow: true, do: manyDropped},

	{name: "garbage on the UDP port", world: plainWorld, do: garbageOnPort},
	{name: "garbage in STUN and DTLS", world: plainWorld, do: garbledPath},
	{name: "garbage in SCTP", world: plainWorld, do: garbageInSCTP},
	{name: "garbage in frames", world: plainWorld, do: garbageInFrames},
	{name: "a peer says no Hello", world: plainWorld, do: silentPeer},
	{name: "a peer claims a huge window and reads nothing", world: plainWorld, do: hugeWindow},
	{name: "a peer sends frames of one byte", world: plainWorld, do: tinyFrames},
}

// answers asks for a target that cannot be had, and times the refusal, which is
// due after a time.
func (f *trial) answers(host string, port int, due time.Duration) {
	f.t.Helper()
	x := f.running()
	began := time.Now()
	err := f.socks(host, port, due+patience)
	f.seen.recovery = time.Since(began) - due
	f.seen.application = fmt.Sprint(err)
	f.midway()
	f.unharmed(x)
}

// socks asks the client's SOCKS entry.
func (f *trial) socks(host string, port int, within time.Duration) error {
	f.t.Helper()
	c := f.dialNear(socksEntry)
	defer c.Close()
	err := testkit.SOCKSConnect(c, host, port, within)
	if err == nil {
		return errors.New("connected")
	}
	return err
}

func (f *trial) dialNear(port int) *net.TCPConn {
	f.t.Helper()
	c, err := f.near.DialContext(f.t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	f.check(err)
	return c.(*net.TCPConn)
}

// running is a stream with bytes under way both ways, besides what the fault is
// about: nothing must happen to it.
func (f *trial) running() *through {
	f.t.Helper()
	x := f.mustOpen()
	x.flow(0)
	f.flowing(x, 64<<10)
	return x
}

// unharmed ends a running stream in order; what it lost is the trial's.
func (f *trial) unharmed(x *through) {
	f.t.Helper()
	f.seen.lost += f.completes(x, patience)
	x.drop()
}

func targetHangs(f *trial) {
	rule, err := f.lan.Drop("tcp dport 10")
	f.check(err)
	f.answers(f.host.String(), 10, faultDial)
	f.check(rule.Remove())
}

func targetResets(f *trial) {
	other, x := f.running(), f.running()
	f.midway()
	began := time.Now()
	f.check(x.far.SetLinger(0), x.far.Close())
	waitForEnd(f, x.down)
	f.seen.recovery = time.Since(began)
	f.seen.application = x.nearSaw()
	f.exact(x)
	f.unharmed(other)
}

// waitForEnd waits until a reader sees one.
func waitForEnd(f *trial, c *course) {
	f.t.Helper()
	testkit.Eventually(f.t, 2*patience, func() error {
		if c.ended.Load() == nil {
			return errors.New("no end yet")
		}
		return nil
	})
}

// halfClose ends one direction after a megabyte, and then has the other carry one.
func (f *trial) halfClose(turn func(*through) (first, second *net.TCPConn)) {
	f.t.Helper()
	x := f.mustOpen()
	first, second := turn(x)
	const size = 1 << 20
	move := func(from, to *net.TCPConn, seed uint64) (end string) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.Copy(from, testkit.Payload(seed, size))
			_ = from.CloseWrite()
		})
		_ = to.SetReadDeadline(time.Now().Add(patience))
		sum, n, err := testkit.Hash(to)
		wg.Wait()
		f.seen.lost += size - n
		if sum != testkit.PayloadHash(seed, size) {
			f.t.Errorf("other bytes came, %d of them", n)
		}
		return endName(err)
	}
	began := time.Now()
	one := move(first, second, 3)
	f.midway()
	two := move(second, first, 4)
	f.seen.recovery = time.Since(began)
	f.seen.application = one + ", then " + two
}

func targetTrickles(f *trial) {
	x := f.mustOpen()
	worst := time.Duration(0)
	for i := range 5 {
		if i == 2 {
			f.midway()
		}
		time.Sleep(time.Second) // the trickle
		began := time.Now()
		f.check(pass(x.far, x.near, []byte{byte(i)}))
		worst = max(worst, time.Since(began))
	}
	f.seen.recovery = worst
	f.check(x.finish())
	f.seen.application = "goes on"
}

// neverReads has one end send without the other reading, then read everything
// after all. Another stream of the same tunnel must not wait for it.
func (f *trial) neverReads(turn func(*through) (from, to *net.TCPConn)) {
	f.t.Helper()
	x, other := f.mustOpen(), f.running()
	from, to := turn(x)
	before := f.memory()
	var sent int64
	stuck := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		payload := testkit.Payload(5, 1<<40)
		for {
			_, _ = io.ReadFull(payload, buf)
			_ = from.SetWriteDeadline(time.Now().Add(2 * time.Second))
			n, err := from.Write(buf)
			sent += int64(n)
			if err != nil {
				close(stuck)
				return
			}
		}
	})
	<-stuck
	wg.Wait()
	f.midway()
	f.note("%.1f MiB wait, both processes took %.0f MiB more", float64(sent)/(1<<20), float64(f.memory()-before)/(1<<20))
	f.check(from.SetWriteDeadline(time.Time{}), from.CloseWrite())
	began := time.Now()
	_ = to.SetReadDeadline(time.Now().Add(patience))
	sum, n, err := testkit.Hash(to)
	f.seen.recovery = max(other.longest(), time.Since(began)/100)
	f.seen.lost += sent - n
	if sum != testkit.PayloadHash(5, sent) {
		f.t.Errorf("other bytes came, %d of %d: %v", n, sent, err)
	}
	f.seen.application = "goes on"
	f.unharmed(other)
}

// memory is what both processes have resident, in bytes.
func (f *trial) memory() int64 {
	f.t.Helper()
	sum := int64(0)
	for _, c := range []*testkit.Caddy{f.gateway, f.client} {
		u, err := c.Usage()
		f.check(err)
		sum += u.Memory.RSS
	}
	return sum
}

func targetVanishes(f *trial) {
	x := f.running()
	f.lanCable.Cut(testkit.CutAll)
	began := time.Now()
	f.midway()
	waitForEnd(f, x.down)
	f.seen.recovery = time.Since(began)
	f.lanCable.Heal()
	f.seen.application = f.broken(x, patience)
}

func dnsSlow(f *trial) {
	x := f.running()
	const late = time.Second
	f.names.slow.Store(int64(late))
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- f.socks("slow.lan.example", tcpTarget, patience) }()
	f.midway()
	for range 5 { // nobody else waits
		step := time.Now()
		f.check(f.works(patience))
		f.seen.recovery = max(f.seen.recovery, time.Since(step))
	}
	f.seen.application = fmt.Sprint(<-done)
	f.note("the name's own open took %v", time.Since(began).Round(100*time.Millisecond))
	if took := time.Since(began); took < late {
		f.t.Errorf("it was opened after %v", took)
	}
	f.unharmed(x)
}

func dnsChanges(f *trial) {
	c := f.dialNear(socksEntry)
	defer c.Close()
	f.check(testkit.SOCKSConnect(c, "moves.lan.example", tcpTarget, patience))
	x, err := f.target.join(c, patience)
	f.check(err)
	defer x.drop()
	f.names.moved.Store(true)
	f.midway()
	began := time.Now()
	f.seen.application = fmt.Sprint(f.socks("moves.lan.example", tcpTarget, patience))
	f.seen.recovery = time.Since(began)
	f.names.moved.Store(false)
	f.check(x.echo("the old one goes on"))
	f.check(x.finish())
}

func (f *trial) blockUDP(d time.Duration) {
	f.t.Helper()
	x := f.running()
	f.cable.Cut(testkit.CutUDP)
	f.wait(d)
	f.cable.Heal()
	f.seen.recovery = f.resumes(x, patience)
	f.seen.application = "goes on"
	f.unharmed(x)
}

// wait is the time that a fault lasts; half-way configurations are reloaded.
func (f *trial) wait(d time.Duration) {
	f.t.Helper()
	end := time.Now().Add(d)
	time.Sleep(d / 2)
	f.midway()
	time.Sleep(time.Until(end))
}

func blockUDPForLong(f *trial) {
	x := f.running()
	f.cable.Cut(testkit.CutUDP)
	began := time.Now()
	f.seen.application = f.broken(x, patience)
	f.note("streams were told after %v", time.Since(began).Round(100*time.Millisecond))
	f.wait(time.Minute - time.Since(began))
	f.cable.Heal()
	healed := time.Now()
	f.check(f.works(patience))
	f.seen.recovery = time.Since(healed)
}

// badPath has the path be bad for a transfer of size each way.
func (f *trial) badPath(p testkit.Path, size int64) {
	f.t.Helper()
	f.cable.Set(p)
	f.carries(size)
	f.cable.Set(f.options.cable.Path)
}

// carries moves size bytes each way.
func (f *trial) carries(size int64) {
	f.t.Helper()
	x := f.mustOpen()
	began := time.Now()
	x.flow(size)
	testkit.Eventually(f.t, 10*patience, func() error {
		if x.up.got.Load() < size/4 {
			return errors.New("not a quarter of it yet")
		}
		return nil
	})
	f.midway()
	f.over(x, 10*patience)
	took := time.Since(began)
	f.seen.recovery = x.longest()
	f.seen.lost = 2*size - x.up.got.Load() - x.down.got.Load()
	f.seen.application = *x.down.ended.Load() + ", " + *x.up.ended.Load()
	f.note("%.1f MiB each way in %v (%.1f Mbit/s)", float64(size)/(1<<20), took.Round(100*time.Millisecond), float64(2*size*8)/1e6/took.Seconds())
}

// clampSegments has TCP segments fit the path, as routers at such a place see to.
func clampSegments(w *world) {
	w.t.Helper()
	for n, to := range map[*testkit.Namespace]netip.Addr{w.near: w.cable.Far(), w.far: w.cable.Near()} {
		out, err := n.Command("sh", "-c", fmt.Sprintf("ip route add %s/32 dev $(ip -o route get %[1]s | sed 's/.* dev \\([^ ]*\\) .*/\\1/') advmss 1200", to)).CombinedOutput()
		if err != nil {
			w.t.Fatalf("clamping segments: %v: %s", err, out)
		}
	}
}

// rebind puts the client behind a NAT with a new tunnel, and then has the NAT
// forget it in the middle; host is the last byte of the address outside (1: its own).
func (f *trial) rebind(host byte) {
	f.t.Helper()
	x := f.running()
	f.cable.Rebind(host)
	began := time.Now()
	f.midway()
	f.seen.recovery = f.resumes(x, patience)
	f.note("bytes came again %v after the change", time.Since(began).Round(100*time.Millisecond))
	f.seen.application = "goes on"
	f.unharmed(x)
}

// restartGateway starts it again, at the same place.
func (f *trial) restartGateway() {
	f.t.Helper()
	f.gateway = testkit.RestartCaddy(f.world.t, f.gateway, f.gatewayProcess())
	f.gatewayNew, f.gateway0 = true, counted{}
}

func (f *trial) restartClient() {
	f.t.Helper()
	f.client = testkit.RestartCaddy(f.world.t, f.client, f.clientProcess())
	f.clientNew, f.client0 = true, counted{}
}

func gatewayKilled(f *trial) {
	x := f.running()
	f.gateway.Kill()
	began := time.Now()
	f.midway()
	f.restartGateway()
	f.seen.application = f.broken(x, patience)
	f.note("the client's programs were told after %v", time.Since(began).Round(100*time.Millisecond))
	f.check(f.works(patience))
	f.seen.recovery = time.Since(began)
}

func clientKilled(f *trial) {
	x := f.running()
	f.client.Kill()
	began := time.Now()
	f.midway()
	f.restartClient()
	f.check(f.works(patience))
	f.seen.recovery = time.Since(began)
	f.seen.application = f.broken(x, patience)
	f.note("the target was told after %v", time.Since(began).Round(100*time.Millisecond))
}

func gatewayStopped(f *trial) {
	x := f.running()
	began := time.Now()
	f.check(f.gateway.Stop(patience))
	f.midway()
	f.seen.application = f.broken(x, patience)
	f.restartGateway()
	f.check(f.works(patience))
	f.seen.recovery = time.Since(began)
}

func clientStopped(f *trial) {
	x := f.running()
	began := time.Now()
	f.check(f.client.Stop(patience))
	f.midway()
	f.seen.application = f.broken(x, patience)
	f.restartClient()
	f.check(f.works(patience))
	f.seen.recovery = time.Since(began)
}

// pause stops a process for 20 seconds.
func (f *trial) pause(c *testkit.Caddy) {
	f.t.Helper()
	x := f.running()
	f.check(c.Signal(syscall.SIGSTOP))
	time.Sleep(20 * time.Second) // the fault
	f.check(c.Signal(syscall.SIGCONT))
	f.midway()
	f.seen.recovery = f.resumes(x, patience)
	f.seen.application = "goes on"
	f.unharmed(x)
}

// shortOf leaves a process room for a few descriptors more than it has, and
// returns what gives it back the others.
func (f *trial) shortOf(c *testkit.Caddy, room int) (restore func()) {
	f.t.Helper()
	has, err := testkit.Descriptors(c.PID())
	f.check(err)
	var old unix.Rlimit
	f.check(unix.Prlimit(c.PID(), unix.RLIMIT_NOFILE, nil, &old))
	less := unix.Rlimit{Cur: uint64(has + room), Max: old.Max}
	f.check(unix.Prlimit(c.PID(), unix.RLIMIT_NOFILE, &less, nil))
	return func() { f.check(unix.Prlimit(c.PID(), unix.RLIMIT_NOFILE, &old, nil)) }
}

func gatewayWithoutDescriptors(f *trial) {
	x := f.running()
	restore := f.shortOf(f.gateway, 4)
	var taken []*through
	var refused error
	for range 12 {
		y, err := f.openBySOCKS()
		if err != nil {
			refused = err
			break
		}
		taken = append(taken, y)
	}
	f.seen.application = fmt.Sprint(refused)
	f.roomAgain(restore, x, taken)
}

// roomAgain ends a shortage: those that were taken in it have gone on, as has x.
func (f *trial) roomAgain(restore func(), x *through, taken []*through) {
	f.t.Helper()
	for _, y := range taken {
		f.check(y.echo("those that are there go on"))
		y.drop()
	}
	restore()
	began := time.Now()
	f.midway()
	f.check(f.works(patience))
	f.seen.recovery = time.Since(began)
	f.unharmed(x)
}

// openBySOCKS opens a stream to the target, by its address.
func (f *trial) openBySOCKS() (*through, error) {
	f.t.Helper()
	c := f.dialNear(socksEntry)
	if err := testkit.SOCKSConnect(c, f.host.String(), tcpTarget, patience); err != nil {
		_ = c.Close()
		return nil, err
	}
	return f.target.join(c, patience)
}

func clientWithoutDescriptors(f *trial) {
	x := f.running()
	restore := f.shortOf(f.client, 24)
	var taken []*through
	for range 30 {
		y, err := f.open(patience)
		if err != nil {
			f.seen.application = endName(err)
			break
		}
		taken = append(taken, y)
	}
	if len(taken) == 0 {
		f.t.Error("there was room for none")
	}
	f.roomAgain(restore, x, taken)
}

// shortMemory has targets that do not read, and peers that come until the gateway's
// memory is given away.
func shortMemory(f *trial) {
	x := f.running()
	var wg sync.WaitGroup
	var taken []*through
	for range 16 {
		y, err := f.openBySOCKS()
		f.check(err)
		f.opened = append(f.opened, y)
		taken = append(taken, y)
		wg.Go(func() {
			_ = y.near.SetWriteDeadline(time.Now().Add(3 * time.Second))
			_, _ = io.Copy(y.near, testkit.Payload(1, 16<<20))
		})
	}
	wg.Wait()
	client, offers := f.offering(), 0
	for {
		status, answer, err := client.post(f.url(), anyOffer())
		f.check(err)
		if status == http.StatusCreated && offers < 64 {
			offers++
			continue
		}
		var problem struct{ Code string }
		f.check(json.Unmarshal([]byte(answer), &problem))
		f.seen.application = fmt.Sprintf("offer answered %d %s", status, problem.Code)
		break
	}
	client.CloseIdleConnections()
	f.midway()
	u, err := f.gateway.Usage()
	f.check(err)
	f.note("%d streams wait, %d peers are let in, the gateway has %.0f MiB resident", len(taken), offers, float64(u.Memory.RSS)/(1<<20))
	for _, y := range taken {
		f.check(y.near.SetLinger(0), y.near.Close())
		if end := endOf(y.far, patience); end != sawReset {
			f.t.Errorf("a target whose client has reset saw %s", end)
		}
		y.drop()
	}
	began := time.Now()
	f.check(f.works(patience))
	f.seen.recovery = max(time.Since(began), x.longest())
	f.unharmed(x)
}

// fillDisk has the gateway log to a file system without room.
func fillDisk(w *world) {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "full")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		testkit.Missing(w.t, "a file system that is full", "be root of a machine that permits mounts")
	}
	w.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 32<<10), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.options.global = fmt.Sprintf("debug\n\tlog {\n\t\toutput file %s/caddy.log {\n\t\t\troll_disabled\n\t\t}\n\t}\n", dir)
	w.full = dir
}

func diskFull(f *trial) {
	x := f.running()
	full := func() bool { // what can still be written
		err := os.WriteFile(filepath.Join(f.full, "try"), make([]byte, 4096), 0o600)
		_ = os.Remove(filepath.Join(f.full, "try"))
		return errors.Is(err, syscall.ENOSPC)
	}
	for i := 0; !full(); i++ {
		if i == 2000 {
			f.t.Fatal("the log does not fill the disk")
		}
		f.check(f.works(patience))
	}
	f.midway()
	began := time.Now()
	f.check(f.works(patience))
	f.seen.recovery = time.Since(began)
	f.seen.application = "goes on"
	f.unharmed(x)
}

// manyOffers has a client offer as fast as it can, without any peer behind it.
func manyOffers(f *trial) {
	x := f.running()
	const offers, workers = 5000, 32
	client := f.offering()
	statuses := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	began := time.Now()
	for i := range workers {
		wg.Go(func() {
			for range offers/workers + min(1, max(0, offers%workers-i)) {
				status, _, err := client.post(f.url(), anyOffer())
				if err != nil {
					status = -1
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
	f.note("%.0f offers a second were answered: %v", offers/time.Since(began).Seconds(), statuses)
	f.midway()
	ended := time.Now()
	f.check(f.works(patience))
	f.seen.recovery = max(time.Since(ended), x.longest())
	f.seen.application = "goes on"
	f.unharmed(x)
}

func manyDropped(f *trial) {
	x := f.running()
	const streams, workers = 10_000, 32
	var wg sync.WaitGroup
	began := time.Now()
	for range workers {
		wg.Go(func() {
			for range streams / workers {
				c, err := f.near.DialContext(f.world.t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", tcpEntry))
				if err != nil {
					f.t.Error(err)
					return
				}
				runtime.Gosched()
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	f.note("in %v", time.Since(began).Round(100*time.Millisecond))
	f.midway()
	ended := time.Now()
	f.check(f.works(patience))
	f.seen.recovery = max(time.Since(ended), x.longest())
	f.seen.application = "goes on"
	f.unharmed(x)
}

// faultyBinary is Caddy with places that panic when asked to, and a clock that
// can be set.
func faultyBinary(t *testing.T) string {
	t.Helper()
	path, err := testkit.FaultyCaddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
