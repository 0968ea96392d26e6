#!/bin/bash
# Fuzzes every parser for the given time each (default 30s).
set -euo pipefail
for file in $(grep -rl '^func Fuzz' --include=*_test.go .); do
	for name in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$file"); do
		echo "== $name"
		go test "$(dirname "$file")" -run '^$' -fuzz "^$name\$" -fuzztime "${1:-30s}" -fuzzminimizetime 20x
	done
done
