package culvert

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// option reads one option of a block. The dispenser stands on the option's
// name; read takes its arguments and its own block, if it has one.
type option struct {
	read       func(d *caddyfile.Dispenser) error
	repeatable bool // else a second one in the same block is an error
}

// readBlock reads the block that follows, if any. Unknown and duplicate options
// are errors with file and line.
func readBlock(d *caddyfile.Dispenser, where string, options map[string]option) error {
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		o, ok := options[name]
		switch {
		case name == "{":
			return d.Errf("unexpected block in %s", where)
		case !ok && len(options) == 0:
			return d.Errf("unrecognized option %q: %s has no options", name, where)
		case !ok:
			return d.Errf("unrecognized option %q in %s, known are: %s", name, where,
				strings.Join(slices.Sorted(maps.Keys(options)), ", "))
		case seen[name] && !o.repeatable:
			return d.Errf("duplicate option %q in %s", name, where)
		}
		seen[name] = true
		if err := o.read(d); err != nil {
			return err
		}
	}
	return nil
}

// one reads exactly one argument.
func one(to *string) option {
	return option{read: func(d *caddyfile.Dispenser) error {
		if !d.AllArgs(to) {
			return d.ArgErr()
		}
		if *to == "" {
			return d.Err("the value is empty")
		}
		return nil
	}}
}

// many reads one or more arguments.
func many(to *[]string) option {
	return option{read: func(d *caddyfile.Dispenser) error {
		args := d.RemainingArgs()
		if len(args) == 0 || slices.Contains(args, "") {
			return d.ArgErr()
		}
		for _, a := range args {
			if slices.Contains(*to, a) {
				return d.Errf("%q is there twice", a)
			}
			*to = append(*to, a)
		}
		return nil
	}}
}

// repeated is many that may stand on several lines.
func repeated(to *[]string) option {
	o := many(to)
	o.repeatable = true
	return o
}

// flag takes no argument: its presence switches something on.
func flag(to *bool) option {
	return option{read: func(d *caddyfile.Dispenser) error {
		if d.NextArg() {
			return d.ArgErr()
		}
		*to = true
		return nil
	}}
}

// number reads a whole number of at least 1.
func number(to *int) option {
	return option{read: func(d *caddyfile.Dispenser) error {
		var arg string
		if !d.AllArgs(&arg) {
			return d.ArgErr()
		}
		n, err := strconv.Atoi(arg)
		if err != nil || n < 1 {
			return d.Errf("%q is not a whole number of at least 1", arg)
		}
		*to = n
		return nil
	}}
}

// size reads bytes with a unit, such as 64MiB.
func size(to *int64) option {
	return option{read: func(d *caddyfile.Dispenser) error {
		var arg string
		if !d.AllArgs(&arg) {
			return d.ArgErr()
		}
		n, err := humanize.ParseBytes(arg)
		if err != nil || n == 0 || n > 1<<62 {
			return d.Errf("%q is not a size such as 64MiB", arg)
		}
		*to = int64(n)
		return nil
	}}
}

// duration reads a time such as 30s; zero says whether 0 is one.
func duration(to *caddy.Duration, zero bool) option {
	return option{read: func(d *caddyfile.Dispenser) error {
		var arg string
		if !d.AllArgs(&arg) {
			return d.ArgErr()
		}
		v, err := caddy.ParseDuration(arg)
		if err != nil || v < 0 || v == 0 && !zero {
			return d.Errf("%q is not a time such as 30s", arg)
		}
		*to = caddy.Duration(v)
		return nil
	}}
}

// block reads options of an inner block.
func block(where string, options map[string]option) option {
	return option{read: func(d *caddyfile.Dispenser) error {
		if d.NextArg() {
			return d.ArgErr()
		}
		return readBlock(d, where, options)
	}}
}
