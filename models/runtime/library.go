// Package runtime runs ONNX graphs in ONNX Runtime: device-side scoring, the hub's evaluation and its
// training steps all go through it. It is the only package that imports the native binding.
//
// Session is a model under the contract of models/contract: raw windows or images in, verdicts out. Loading one
// runs the guard of models/onnx first, so no unchecked bytes reach native code, and a warm-up run after,
// so a session that exists has computed at least once. Program and Binding run any graph our own trainer
// built; they check nothing.
//
// A run allocates nothing on the Go heap. What the package does not do: it sets no time limit on a run
// (native code cannot be interrupted) and does not decide what a verdict leads to.
package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// Version is the ONNX Runtime release this package is built against.
const Version = "1.24.1"

const libraryName = "libonnxruntime.so.1"

// ErrNoLibrary says that libonnxruntime was found in none of the places Library looks at.
var ErrNoLibrary = errors.New("ONNX Runtime library not found")

// Library finds the ONNX Runtime shared library. A path given by the caller or in SWELL_ONNXRUNTIME must
// exist; otherwise the first of these does: ../lib beside the executable, /usr/lib/swell, the cache that
// fetch-onnxruntime.sh fills (SWELL_CACHE, default ~/.cache/swell).
func Library(path string) (string, error) {
	for _, explicit := range []struct{ from, path string }{{"configuration", path}, {"SWELL_ONNXRUNTIME", os.Getenv("SWELL_ONNXRUNTIME")}} {
		if explicit.path == "" {
			continue
		}
		if _, err := os.Stat(explicit.path); err != nil {
			return "", fmt.Errorf("%w at the path from %s: %w", ErrNoLibrary, explicit.from, err)
		}
		return explicit.path, nil
	}
	var places []string
	if exe, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(exe), "..", "lib", libraryName))
	}
	places = append(places, filepath.Join("/usr/lib/swell", libraryName))
	cache := os.Getenv("SWELL_CACHE")
	if cache == "" {
		if home, err := os.UserHomeDir(); err == nil {
			cache = filepath.Join(home, ".cache", "swell")
		}
	}
	if cache != "" {
		dir := filepath.Join(cache, "onnxruntime", Version)
		if runtime.GOARCH == "arm64" {
			dir = filepath.Join(dir, "arm64")
		}
		places = append(places, filepath.Join(dir, libraryName))
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return filepath.Clean(p), nil
		}
	}
	return "", fmt.Errorf("%w in %v: run models/runtime/fetch-onnxruntime.sh or set SWELL_ONNXRUNTIME to its path", ErrNoLibrary, places)
}

var environment struct {
	sync.Mutex
	loaded string // path of the library in use; empty until Init succeeded
}

// Init loads the library into the process. Only the first success counts: the library stays loaded, since
// unloading native code under running threads is not safe. A later call with another explicit path fails.
func Init(path string) error {
	environment.Lock()
	defer environment.Unlock()
	if environment.loaded != "" {
		if path != "" && path != environment.loaded {
			return fmt.Errorf("load ONNX Runtime from %s: this process already runs %s", path, environment.loaded)
		}
		return nil
	}
	found, err := Library(path)
	if err != nil {
		return err
	}
	ort.SetSharedLibraryPath(found)
	// Failed calls come back as errors; the library's own lines on stderr would only repeat them.
	if err := ort.InitializeEnvironment(ort.WithLogLevelFatal()); err != nil {
		return fmt.Errorf("load ONNX Runtime from %s (want version %s): %w", found, Version, err)
	}
	environment.loaded = found
	return nil
}
