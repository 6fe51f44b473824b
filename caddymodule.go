package culvert

import (
	_ "github.com/caddyserver/caddy/v2"
	_ "github.com/mholt/caddy-l4/layer4"
	_ "github.com/pion/webrtc/v4"
	_ "go.uber.org/zap"
)
