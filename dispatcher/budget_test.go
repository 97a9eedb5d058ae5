package dispatcher

import (
	"slices"
	"testing"
)

// budgets lets the allowance grow and claim between, and returns the budgets until it grows no more.
func budgets(a *allowance) (all []int) {
	for a.grows {
		a.grant()
		a.grow()
		all = append(all, a.budget)
	}
	return all
}

func wantBudgets(t *testing.T, when string, got []int, want ...int) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got budgets of %v, want %v", when, got, want)
	}
}

func TestABudgetGrowsBackAfterTheTableWasFull(t *testing.T) {
	var a allowance
	a.entitle(100)
	if news := a.shrink(40); !news || a.budget != 20 {
		t.Fatalf("got %+v, %v; want a half of the locks, as news", a, news)
	}
	if news := a.shrink(3); news || a.budget != 1 { // no claim was granted meanwhile
		t.Fatalf("got %+v, %v; want one lock at least, and no news", a, news)
	}
	a.entitle(50) // a sweep, meanwhile
	wantBudgets(t, "with room again", budgets(&a), 2, 4, 8, 16, 32, 50)
	a.grant()
	a.entitle(60)
	if a.budget != 60 || a.full {
		t.Errorf("got %+v, want all of the share at once, and the rest forgotten", a)
	}
}

func TestABudgetThatMeetsAFullTableAgainStaysUntilASweep(t *testing.T) {
	var a allowance
	a.entitle(100)
	a.shrink(60)
	a.grant()
	a.grow()
	if news := a.shrink(60); news || a.budget != 30 {
		t.Fatalf("got %+v, %v; want half of the locks, and no news", a, news)
	}
	wantBudgets(t, "with room for 60", budgets(&a))
	a.grant()
	if news := a.shrink(30); news || a.budget != 15 || a.grows {
		t.Fatalf("got %+v, %v; want half of that", a, news)
	}
	a.entitle(100)
	if a.budget != 100 {
		t.Errorf("got %+v after a sweep, want all of the share", a)
	}
	a.shrink(7) // too few to work with
	wantBudgets(t, "when it was full for all", budgets(&a), 6, 12, 24, 48, 96, 100)
}

func TestABudgetNeverExceedsTheShare(t *testing.T) {
	var a allowance
	a.entitle(10)
	a.shrink(30) // held since the share was larger
	if a.budget != 10 {
		t.Errorf("got %+v, want no more than the share", a)
	}
	wantBudgets(t, "at the share", budgets(&a), 10)
	a.entitle(0)
	a.shrink(0)
	if a.budget != 0 {
		t.Errorf("got %+v, want none of no share", a)
	}
	a.entitle(5)
	wantBudgets(t, "of more", budgets(&a), 1, 2, 4, 5)
}
