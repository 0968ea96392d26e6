package cli

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthz(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		text string
	}{
		{nil, http.StatusOK, "ok"},
		{errors.New("the loop has not turned since 12:00:00"), http.StatusInternalServerError, "has not turned"},
	} {
		w := httptest.NewRecorder()
		healthz(func() error { return c.err })(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", nil))
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%v: %d %s", c.err, w.Code, w.Body)
		}
	}
}
