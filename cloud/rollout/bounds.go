package rollout

import "math"

// bounds returns the one-sided Clopper–Pearson bounds at 1−alpha for k of n.
func bounds(k, n int, alpha float64) (lo, hi float64) {
	lo, hi = 0, 1
	if k > 0 {
		lo = level(k, n, alpha)
	}
	if k < n {
		hi = 1 - level(n-k, n, alpha)
	}
	return lo, hi
}

// level returns the p for which tail(k, n, p) is alpha, for k above 0: by
// Newton's method between bounds that close in, and by halves where it leaves
// them.
func level(k, n int, alpha float64) float64 {
	a, b := float64(k), float64(n-k+1)
	from, to := 0.0, 1.0
	p := a / (a + b)
	for range 200 {
		y := tail(k, n, p) - alpha
		if y >= 0 {
			to = p
		} else {
			from = p
		}
		if to-from <= 1e-13*to {
			break
		}
		slope := math.Exp((a-1)*math.Log(p) + (b-1)*math.Log1p(-p) - logBeta(a, b))
		next := p - y/slope
		if !(next > from && next < to) {
			next = (from + to) / 2
		}
		if math.Abs(next-p) <= 1e-13*p {
			return next
		}
		p = next
	}
	return p
}

// tail returns P(X ≥ k) for X binomial with n and p: the regularized incomplete
// beta function (DLMF 8.17.5).
func tail(k, n int, p float64) float64 {
	switch {
	case k <= 0 || p >= 1:
		return 1
	case k > n || p <= 0:
		return 0
	}
	return incompleteBeta(float64(k), float64(n-k+1), p)
}

// incompleteBeta returns I_x(a, b) for x inside (0, 1) by its continued
// fraction (DLMF 8.17.22), on the side on which that converges fast.
func incompleteBeta(a, b, x float64) float64 {
	if x > (a+1)/(a+b+2) {
		return 1 - incompleteBeta(b, a, 1-x)
	}
	front := math.Exp(a*math.Log(x)+b*math.Log1p(-x)-logBeta(a, b)) / a
	if front == 0 {
		return 0
	}
	// Lentz's method as modified by Thompson and Barnett.
	const least = 1e-300
	f, c, d := 1.0, 1.0, 0.0
	for i := range 100_000 {
		m := float64(i / 2)
		var term float64
		switch {
		case i == 0:
			term = 1
		case i%2 == 0:
			term = m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		default:
			term = -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		}
		if d = 1 + term*d; math.Abs(d) < least {
			d = least
		}
		d = 1 / d
		if c = 1 + term/c; math.Abs(c) < least {
			c = least
		}
		f *= c * d
		if math.Abs(1-c*d) < 1e-15 {
			break
		}
	}
	return min(max(front*(f-1), 0), 1)
}

// logBeta returns the logarithm of the beta function.
func logBeta(a, b float64) float64 {
	x, _ := math.Lgamma(a)
	y, _ := math.Lgamma(b)
	z, _ := math.Lgamma(a + b)
	return x + y - z
}
