package culvert

import (
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// adminListeners returns where the admin endpoint of ctx's configuration
// listens: whatever the rules say, no stream may go there (security.md, "Where a
// stream may go" 5).
//
// Caddy tells plugins nowhere, so the unexported configuration is read (not
// changed) by reflection. Where that finds nothing, because the field has
// another name one day, the default addresses count; a test fails then.
func adminListeners(ctx caddy.Context) []string {
	admin := configField(ctx)
	if admin.Kind() == reflect.Pointer {
		admin = admin.Elem()
	}
	if admin.Kind() == reflect.Struct {
		admin = admin.FieldByName("Admin")
	}
	return listenersOf(admin)
}

// configField is the field with the configuration.
func configField(ctx caddy.Context) reflect.Value { return reflect.ValueOf(ctx).FieldByName("cfg") }

// listenersOf reads a *caddy.AdminConfig.
func listenersOf(admin reflect.Value) []string {
	if admin.Kind() != reflect.Pointer || admin.IsNil() {
		return []string{caddy.DefaultAdminListen}
	}
	admin = admin.Elem()
	if admin.FieldByName("Disabled").Bool() {
		return nil
	}
	listeners := []string{listenOr(admin.FieldByName("Listen"), caddy.DefaultAdminListen)}
	if remote := admin.FieldByName("Remote"); !remote.IsNil() {
		listeners = append(listeners, listenOr(remote.Elem().FieldByName("Listen"), caddy.DefaultRemoteAdminListen))
	}
	return listeners
}

func listenOr(listen reflect.Value, def string) string {
	if listen.String() == "" {
		return def
	}
	return caddy.NewReplacer().ReplaceAll(listen.String(), "")
}
