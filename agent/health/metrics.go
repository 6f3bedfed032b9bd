package health

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Metrics are numbers about the machine that conditions do not cover, by the
// names under which they are reported. What the system does not say is absent.
func Metrics() map[string]float64 {
	m := map[string]float64{}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		if v, err := strconv.ParseFloat(first, 64); err == nil {
			m["load_1m"] = v
		}
	}
	if free, ok := MemoryAvailable(); ok {
		m["memory_available_mib"] = float64(free) / (1 << 20)
	}
	zones, err := filepath.Glob("/sys/class/thermal/thermal_zone*/temp")
	if err != nil {
		return m
	}
	for _, zone := range zones {
		b, err := os.ReadFile(zone)
		if err != nil {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64) // in thousandths
		if hottest, ok := m["temperature_celsius"]; err == nil && (!ok || v/1000 > hottest) {
			m["temperature_celsius"] = v / 1000
		}
	}
	return m
}
