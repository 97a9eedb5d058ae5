// How sure a difference is.

package tune

import "math"

// interval is a mean and how far from it, with a confidence of 95 %, the true one is at most.
type interval struct{ mean, margin float64 }

func (i interval) low() float64  { return i.mean - i.margin }
func (i interval) high() float64 { return i.mean + i.margin }

// student holds the quantiles of Student's t distribution at 97.5 %, for 1, 2, 3 ... degrees of freedom.
var student = []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
	2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086}

// intervalOf is that of some differences. Of fewer than two nothing is known.
func intervalOf(differences []float64) interval {
	n := float64(len(differences))
	if n < 2 {
		return interval{margin: math.Inf(1)}
	}
	sum, squares := 0.0, 0.0
	for _, d := range differences {
		sum += d
	}
	mean := sum / n
	for _, d := range differences {
		squares += (d - mean) * (d - mean)
	}
	t := student[min(len(differences)-1, len(student))-1]
	return interval{mean, t * math.Sqrt(squares/(n-1)/n)}
}

// Ratio says how many times better one setting is than another, with its interval of 95 %.
type Ratio struct {
	Estimate float64 `json:"estimate"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
}

// ratio is that of an interval of logarithms.
func (i interval) ratio() Ratio {
	return Ratio{math.Exp(i.mean), math.Exp(i.low()), math.Exp(i.high())}
}
