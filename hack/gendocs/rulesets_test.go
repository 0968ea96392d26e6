package main

import (
	"os"
	"testing"
)

// TestPageIsGenerated is the same as make verify does, for who changes a rule.
func TestPageIsGenerated(t *testing.T) {
	want, err := rulesets("../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/rulesets.md")
	if err != nil {
		t.Fatal(err)
	}
	if want != string(got) {
		t.Error("docs/rulesets.md is stale: run hack/generate.sh and commit the result")
	}
}
