package store_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"github.com/pgha-backup/pgha-backup/test/torture"
)

// expiring takes a token for a number of requests, refuses it from then on, and writes
// the next one into the credentials file when it has been refused a few times, as a
// sidecar may. versitygw knows no temporary credentials: it gets the request without the
// token, signed anew.
func (w *world) expiring(uses int, renewed bool) {
	w.Helper()
	token, used, refused := 0, 0, 0
	give := func() {
		token, used, refused = token+1, 0, 0
		w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = token%d\n",
			w.s3.AccessKey, w.s3.SecretKey, token), "credentials")
	}
	give()
	w.proxy.Choose(func(r *http.Request) faultproxy.Fault {
		if used++; r.Header.Get("X-Amz-Security-Token") != fmt.Sprintf("token%d", token) || used > uses {
			if refused++; refused > 2 && renewed {
				give()
			}
			return faultproxy.Fault{Status: http.StatusBadRequest, Code: "ExpiredToken"}
		}
		return faultproxy.Fault{Request: func(r *http.Request) {
			r.Header.Del("X-Amz-Security-Token")
			*r = *signer.SignV4(*r, w.s3.AccessKey, w.s3.SecretKey, "", w.s3.Region)
		}}
	})
}

// credentials end in the middle of a backup, several times.
func (w *world) credentials() {
	w.Helper()
	w.withoutBackups()
	w.expiring(6, true)
	before := w.proxy.Count("", "")
	o := w.call("rotated", w.pg.DataDir, "backup")
	text, err := os.ReadFile(w.run.Path("credentials"))
	w.must(err)
	if faults := w.sound("living", torture.Ledger{}); o.code != 0 || len(faults) > 0 || !regexp.MustCompile("token([3-9]|[0-9]{2})").Match(text) {
		w.Errorf("backup with credentials that expire exits %d after %d requests, %v, %s\n%s", o.code, w.proxy.Count("", "")-before, faults, text, o.output())
	}
	w.proxy.Set()
}

// A document of an error in the place of a list is never the end of the archive.
func (w *world) lists() {
	w.Helper()
	w.reset()
	w.run.WriteFile(lab.User1, 0o600, "", "node/recovery.signal")
	for name, body := range map[string]string{
		"an error document": `<Error><Code>InternalError</Code></Error>`,
		"cut short":         `<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>`,
		"out of order":      `<ListBucketResult><Contents><Key>b</Key></Contents><Contents><Key>a</Key></Contents></ListBucketResult>`,
	} {
		w.proxy.Set(faultproxy.Rule{Match: "list-type", Fault: faultproxy.Fault{Answer: func(_ *http.Response, answer *[]byte) { *answer = []byte(body) }}})
		if o := w.call("hasty", w.node, "archive-get", w.fresh[0], "pg_wal/RECOVERYXLOG"); o.code != 200 {
			w.Errorf("archive-get with %s exits %d:\n%s", name, o.code, o.output())
		}
	}
	w.proxy.Set()
	w.must(os.Remove(filepath.Join(w.node, "recovery.signal")))
}

var modified = regexp.MustCompile(`<LastModified>([^<]*)</LastModified>`)

// clocks that differ, in both directions: nothing that is needed goes.
func (w *world) clocks() {
	w.Helper()
	_, final := w.expired()
	for _, off := range []time.Duration{-3 * time.Hour, -50 * time.Minute, 50 * time.Minute, 3 * time.Hour, 100 * 24 * time.Hour} {
		w.reset()
		before := w.objects("work")
		stays := before.Only(func(key string) bool { return final[key] != "" })
		w.proxy.Set(faultproxy.Rule{Fault: faultproxy.Fault{Answer: func(resp *http.Response, body *[]byte) { shift(resp, body, off) }}})
		o := w.call("work", w.node, "expire", "--yes")
		w.proxy.Set()
		if off.Abs() > time.Hour {
			stays = before
		}
		if want := map[bool]int{true: 4, false: 0}[off.Abs() > time.Hour]; o.code != want || len(stays.Lost(w.objects("work"))) > 0 {
			w.Errorf("with the store's clock %s off, expire exits %d, want %d: %q\n%s", off, o.code, want, stays.Lost(w.objects("work")), o.output())
		}
		if o.code == 4 && !strings.Contains(o.stderr, "clock") {
			w.Errorf("it does not speak of clocks: %s", o.stderr)
		}
	}
}

// shift has a store say times of a clock that is so much ahead.
func shift(resp *http.Response, body *[]byte, off time.Duration) {
	for _, name := range []string{"Date", "Last-Modified"} {
		if at, err := http.ParseTime(resp.Header.Get(name)); err == nil {
			resp.Header.Set(name, at.Add(off).UTC().Format(http.TimeFormat))
		}
	}
	if !bytes.Contains(*body, []byte("<ListBucketResult")) {
		return
	}
	*body = modified.ReplaceAllFunc(*body, func(tag []byte) []byte {
		at, err := time.Parse(time.RFC3339, string(modified.FindSubmatch(tag)[1]))
		if err != nil {
			panic(err)
		}
		return []byte("<LastModified>" + at.Add(off).UTC().Format("2006-01-02T15:04:05.000Z") + "</LastModified>")
	})
}

// pushes say 0 only for what is stored, whatever was answered to the first request.
func (w *world) pushes() {
	w.Helper()
	l := torture.Ledger{}
	l.Acknowledge(w.fresh[0], w.contents[w.fresh[0]])
	for _, f := range []faultproxy.Fault{
		{Status: 500, Code: "InternalError"}, {Status: 503, Code: "SlowDown"}, {Status: 502}, {Drop: true}, {LoseReply: true},
		{LateStatus: 500, Code: "InternalError"}, {Ghost: 300 * time.Millisecond}, {CorruptRequest: 5000},
	} {
		w.reset()
		w.proxy.Set(faultproxy.Rule{Method: http.MethodPut, Match: "/wal/", Times: 1, Fault: f})
		o := w.call("work", w.node, "archive-push", "pg_wal/"+w.fresh[0])
		w.proxy.Settle()
		if faults := w.sound("work", l); o.code != 0 || len(faults) > 0 {
			w.Errorf("push with %+v exits %d: %q\n%s", f, o.code, faults, o.output())
		}
	}
	w.proxy.Set()
}
