package hub

import (
	"os"
	"strings"
	"testing"
)

func TestTheCommandThatPeopleAreGivenIsTheOneOfTheManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/verify.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := strings.Join(strings.Fields(strings.ReplaceAll(string(page), "\\\n", " ")), " ")
	if command := (releases{}).Command(""); !strings.Contains(commands, command) {
		t.Errorf("docs/verify.md does not have %q", command)
	}
}
