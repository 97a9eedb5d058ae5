package devpg

import "testing"

func TestMajorVersionIsRead(t *testing.T) {
	for output, want := range map[string]int{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": 15,
		"postgres (PostgreSQL) 18.4\n":                           18,
		"postgres (PostgreSQL) 19beta1\n":                        19,
		"postgres (PostgreSQL) 20devel\n":                        20,
		"postgres (PostgreSQL) 9.6.24\n":                         9,
		"postgres (PostgreSQL) \n":                               0,
		"postgres (PostgreSQL) devel\n":                          0,
		"postgres (PostgreSQL) 99999999999999999999.1\n":         0,
		"EnterpriseThing 15.1\n":                                 0,
		"":                                                       0,
	} {
		got, err := parseVersion(output)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %d, %v, want %d", output, got, err, want)
		}
	}
}
