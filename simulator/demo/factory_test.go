package demo

import "testing"

func TestEveryPumpHasANameOfItsOwn(t *testing.T) {
	for _, tc := range []struct{ devices, lines int }{{24, 3}, {8, 3}, {1, 1}, {7, 7}} {
		seen := map[string]bool{}
		lines := map[string]bool{}
		for _, d := range factory("", tc.devices, tc.lines) {
			if seen[d.ID.String()] {
				t.Errorf("%d devices in %d lines: %s twice", tc.devices, tc.lines, d.ID)
			}
			seen[d.ID.String()] = true
			lines[d.Labels["line"]] = true
			if err := d.ID.Validate(); err != nil {
				t.Error(err)
			}
		}
		if len(lines) != tc.lines {
			t.Errorf("%d devices stand in %d lines, want %d", tc.devices, len(lines), tc.lines)
		}
	}
}
