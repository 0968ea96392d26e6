package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Error is one thing wrong with one document. Parts that are not known are
// empty.
type Error struct {
	File, Kind, Namespace, Name string
	// Field is a path such as spec.ports[0].hostPort.
	Field   string
	Message string
}

// Error is "<file>: <kind>/<name>: <field>: <message>" on one line; unknown parts are
// left out.
func (e *Error) Error() string {
	var parts []string
	for _, p := range []string{e.File, e.object(), e.Field, e.Message} {
		if p != "" {
			parts = append(parts, strings.Join(strings.Fields(p), " "))
		}
	}
	return strings.Join(parts, ": ")
}

func (e *Error) object() string {
	var parts []string
	for _, p := range []string{e.Kind, e.Name} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/")
}

func errorAt(file string, k key, path, message string) *Error {
	return &Error{File: file, Kind: k.kind, Namespace: k.namespace, Name: k.name, Field: path, Message: message}
}

// unreadable drops the path that file system errors repeat.
func unreadable(path string, err error) *Error {
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return &Error{File: path, Message: err.Error()}
}

// fieldErrors turns the words of an API server into lines without repetition.
func fieldErrors(file string, k key, list field.ErrorList) []*Error {
	var errs []*Error
	for _, e := range list {
		errs = append(errs, errorAt(file, k, fieldPath(e), fieldMessage(e)))
	}
	return errs
}

func fieldPath(e *field.Error) string {
	if e.Field == "<nil>" {
		return ""
	}
	return e.Field
}

// quantityPattern ends what the schema says of a value that is no resource.Quantity.
const quantityPattern = `(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$'`

var listIndex = regexp.MustCompile(`\[[0-9]+\]`)

// fieldMessage returns the message without the field's path: the messages of our
// rules and of OpenAPI both begin with it.
func fieldMessage(e *field.Error) string {
	switch e.Type {
	case field.ErrorTypeRequired:
		if e.Detail == "" {
			return "must be set"
		}
	case field.ErrorTypeNotSupported:
		return fmt.Sprintf("must not be %q: %s", fmt.Sprint(e.BadValue), e.Detail)
	case field.ErrorTypeTooLong, field.ErrorTypeTooMany:
		return e.ErrorBody()
	case field.ErrorTypeTypeInvalid:
		return typeMessage(bare(e))
	}
	return bare(e) + got(e.BadValue)
}

func bare(e *field.Error) string {
	msg := e.Detail
	if strings.HasSuffix(msg, quantityPattern) {
		return "must be a number, or one with a suffix such as 100M or 1Gi"
	}
	for _, prefix := range []string{e.Field, listIndex.ReplaceAllString(e.Field, "")} {
		msg = strings.TrimPrefix(msg, prefix+" in body ")
		msg = strings.TrimPrefix(msg, prefix+" ")
	}
	return msg
}

// typeMessage rewrites: must be of type string: "boolean".
func typeMessage(msg string) string {
	want, is, ok := strings.Cut(msg, `: "`)
	if !ok {
		return msg
	}
	msg = want + ", not " + strings.TrimSuffix(is, `"`)
	if strings.HasSuffix(want, " string") && !strings.HasSuffix(msg, " object") && !strings.HasSuffix(msg, " array") {
		msg += ": put it in quotes"
	}
	return msg
}

// got shows a wrong value where it is one that people can read.
func got(value any) string {
	switch v := value.(type) {
	case string:
		if v == "" || len(v) > 64 {
			return ""
		}
		return fmt.Sprintf(" (is %q)", v)
	case int, int32, int64, float64, bool:
		return fmt.Sprintf(" (is %v)", v)
	}
	return ""
}
