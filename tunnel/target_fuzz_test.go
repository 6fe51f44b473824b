package tunnel

import "testing"

// FuzzParseTarget: what is accepted can be written, is read the same again, and
// is one of the kinds that users can name.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"ssh", "a.b_c-1", "socks5", "", "tcp/10.0.0.5:22", "udp/[2001:db8::1]:53", "tcp/[fe80::1%eth0]:1", "tcp/host:0", "tcp/host:65536",
		"tcp/:22", "unix//run/app.sock", "tcp/a/b:1", "tcp/host:+1", "tcp/[]:1", "tcp/host:01", "udp/\x00:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			if target != (Target{}) {
				t.Fatalf("%q: %v, and %+v", s, err, target)
			}
			return
		}
		switch target.Kind {
		case KindNamed:
			if !ValidTargetName(target.Host) || target.Port != 0 {
				t.Fatalf("%q is %+v", s, target)
			}
		case KindTCP, KindUDP:
			if target.Host == "" || target.Port == 0 {
				t.Fatalf("%q is %+v", s, target)
			}
		default:
			t.Fatalf("%q is %+v, which nobody can type", s, target)
		}
		if again, err := ParseTarget(target.String()); err != nil || again != target {
			t.Fatalf("%q is %+v, whose text %q is %+v, %v", s, target, target, again, err)
		}
	})
}
