package series

// Coverage says which rows of one stream, of one installation of a device's
// spool, are held.
type Coverage struct {
	Stream string
	Boot   uint64
	Ranges []Range // rising, apart from each other
}

// Range is a run of numbers: First up to but not including End.
type Range struct{ First, End uint64 }
