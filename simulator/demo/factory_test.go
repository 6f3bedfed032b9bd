package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryPumpHasANameOfItsOwn(t *testing.T) {
	for _, tc := range []struct{ devices, lines int }{{24, 3}, {8, 3}, {1, 1}, {7, 7}} {
		seen := map[string]bool{}
		lines := map[string]bool{}
		for _, d := range factory("", 0, tc.devices, tc.lines) {
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

func TestARecordingGoesRoundWithoutAJump(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from.csv"), filepath.Join(dir, "to.csv")
	text := "datetime;level\r\n"
	for i := range uneven + 9 {
		text += fmt.Sprintf("2026-01-01 00:00:00;%d\r\n", i)
	}
	if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rows, err := backAndForth(from, to)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(b))
	if rows != 8000 || len(got) != 8001 || got[0] != "level" {
		t.Fatalf("%d rows, %d lines, the first is %q; want 8000 below their names", rows, len(got), got[0])
	}
	if said, want := fmt.Sprint(got[1], got[4000], got[4001], got[8000]), fmt.Sprint("3000", "6999", "6999", "3000"); said != want {
		t.Errorf("begins, turns, goes on and ends with %s, want %s", said, want)
	}
}

func TestARecordingThatIsTooShortIsRefused(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from.csv")
	if err := os.WriteFile(from, []byte("datetime;level\n1;2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backAndForth(from, filepath.Join(dir, "to.csv")); err == nil || !strings.Contains(err.Error(), "want more than 7000") {
		t.Errorf("said %v", err)
	}
}
