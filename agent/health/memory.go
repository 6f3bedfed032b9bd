package health

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// MemoryAvailable is the memory that could be taken without swapping, in bytes.
// ok is false where the system does not say.
func MemoryAvailable() (bytes int64, ok bool) {
	return kilobytes("/proc/meminfo", "MemAvailable:")
}

// ResidentMemory is what this process holds, in bytes; 0 where the system does
// not say.
func ResidentMemory() int64 {
	n, _ := kilobytes("/proc/self/status", "VmRSS:")
	return n
}

func kilobytes(file, key string) (int64, bool) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), key); found {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err == nil
		}
	}
	return 0, false
}
