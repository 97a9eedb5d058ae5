package retry_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/pq-dispatch/pq-dispatch/retry"
)

func ExampleDecide() {
	policy := retry.Exponential{Initial: time.Second, Max: time.Minute, Jitter: -1}
	show := func(attempt int, err error) {
		delay, ok := retry.Decide(policy, attempt, 10, err)
		fmt.Println(delay, ok)
	}
	failed := errors.New("no answer")
	show(1, failed)
	show(4, failed)
	show(5, retry.After(30*time.Second, failed))
	show(6, retry.Permanent(failed))
	show(10, failed)
	// Output:
	// 1s true
	// 8s true
	// 30s true
	// 0s false
	// 0s false
}
