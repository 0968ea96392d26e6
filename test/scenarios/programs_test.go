//go:build nocli

package scenarios

var programs = map[string]func(){}
