package patroni

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPatchConfig(t *testing.T) {
	for name, c := range map[string]struct {
		answers []int // of one PATCH after the other
		want    string
		asked   int
	}{
		"at once":               {[]int{200}, "", 1},
		"another at the moment": {[]int{409, 409, 200}, "", 3},
		"again and again":       {[]int{409, 409, 409, 409, 200}, "409 Conflict", 4},
		"without a password":    {[]int{401}, "401 Unauthorized", 1},
		"no configuration yet":  {[]int{503}, "503 Service Unavailable", 1},
	} {
		asked, bodies := 0, ""
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, given := r.BasicAuth()
			if r.Method == http.MethodGet {
				if given {
					t.Errorf("%s: a question carries the password", name)
				}
				_, _ = io.WriteString(w, `{"ttl": 30}`)
				return
			}
			if r.Method != http.MethodPatch || r.URL.Path != "/config" || user != "admin" || password != "secret" {
				t.Errorf("%s: %s %s by %s:%s", name, r.Method, r.URL, user, password)
			}
			b, _ := io.ReadAll(r.Body)
			bodies += string(b)
			w.WriteHeader(c.answers[asked])
			asked++
		}))
		o, err := New(Options{Scope: "main", API: server.URL, APIUsername: "admin", APIPassword: "secret"})
		if err != nil {
			t.Fatal(err)
		}
		o.pause = 1
		if now, err := o.DynamicConfig(t.Context(), server.URL+"/patroni"); err != nil || now["ttl"] != 30. {
			t.Errorf("%s: %v %v", name, now, err)
		}
		err = o.PatchConfig(t.Context(), server.URL+"/patroni", map[string]any{"pause": nil})
		server.Close()
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret")) || asked != c.asked {
			t.Errorf("%s: asked %d times, %v", name, asked, err)
		}
		if bodies != strings.Repeat(`{"pause":null}`, asked) {
			t.Errorf("%s: sent %s", name, bodies)
		}
		hinted, _ := errors.AsType[*statusError](err)
		if (hinted != nil && hinted.Hint() != "") != strings.HasPrefix(c.want, "401") {
			t.Errorf("%s: hint of %v", name, err)
		}
	}
}
