//go:build linux && cgo

package runtime

/*
#include <stdlib.h>
#if defined(__GLIBC__)
#include <malloc.h>
static void trim(void) { malloc_trim(0); }
#else
static void trim(void) {}
#endif
*/
import "C"

// TrimMemory gives memory that closed sessions have freed back to the system. glibc keeps it otherwise: a
// process that swaps models grows by the size of each. It takes milliseconds; call it after Close, not
// between windows.
func TrimMemory() { C.trim() }
