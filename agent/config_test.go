package agent_test

import (
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent"
)

const valid = `
site: hall-1
node: pump-03
class: pump
labels: {line: l1}
state_dir: /var/lib/swell-agent
hub: {url: "https://hub:7441", mqtt: "tls://hub:7883", ca_file: /etc/swell/ca.pem, token_file: /etc/swell/token}
trust: {key_files: [/etc/swell/cosign.pub]}
source: {kind: replay, replay: {path: /data/pump.csv, exclude: [anomaly], loop: true}}
`

func TestConfigurationFile(t *testing.T) {
	if _, err := agent.Parse([]byte(valid)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, from, to, says string }{
		{"unknown key", "class: pump", "class: pump\ncolor: blue", "field color not found"},
		{"unknown key below", "kind: replay", "kind: replay, speed: 3", "field speed not found"},
		{"bad site", "hall-1", "Hall 1", "site: name"},
		{"no class", "class: pump", "", "class is empty"},
		{"no state folder", "state_dir: /var/lib/swell-agent", "", "state_dir is empty"},
		{"plain MQTT", "tls://", "tcp://", "hub.mqtt"},
		{"plain HTTP", "https://", "http://", "hub.url"},
		{"unknown source", "kind: replay", "kind: magic", `source.kind "magic" is unknown`},
		{"no recording", "path: /data/pump.csv, ", "", "source.replay.path is empty"},
		{"negative time", "class: pump", "class: pump\nheartbeat_s: -1", "may not be negative"},
		{"huge blocks", "class: pump", "class: pump\ntelemetry: {block_rows: 100000}", "at most 16384"},
		{"bad status address", "class: pump", "class: pump\nstatus: nowhere", "want host:port or off"},
		{"bad log level", "class: pump", "class: pump\nlog_level: loud", "log_level"},
		{"relative action file", "class: pump", "class: pump\nactions: {file: x}", "absolute path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := agent.Parse([]byte(strings.Replace(valid, c.from, c.to, 1)))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
}
