// Package e2e holds the tests on a real cluster, which test/e2e/cluster brings
// up. They are built only with the tag e2e: make test-e2e runs them.
package e2e
