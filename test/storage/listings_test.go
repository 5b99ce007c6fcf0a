package storage_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/test/faultproxy"
)

// page is what a store says to one request of a list.
type page struct {
	keys  string // separated by blanks
	next  string // the token of the page that follows, if more is told
	more  bool
	whole string // instead of all that
	code  int
}

func (p page) body() string {
	if p.whole != "" {
		return p.whole
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><IsTruncated>%t</IsTruncated>`, p.more)
	if p.next != "" {
		fmt.Fprintf(&b, "<NextContinuationToken>%s</NextContinuationToken>", p.next)
	}
	for key := range strings.FieldsSeq(p.keys) {
		fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>1</Size><LastModified>2026-11-21T02:00:00.000Z</LastModified></Contents>", key)
	}
	return b.String() + "</ListBucketResult>"
}

// A list that is cut short, or in error, in any way, ends with an error: whoever
// deletes by it, or takes what it lacks for absent, must not believe it.
func TestListingsFailClosed(t *testing.T) {
	p, b := proxied(t)
	many := func(p page) []page { return []page{p, p, p, p, p, p, p, p, p, p, p, p, p, p, p, p, p, p, p, p} }
	for name, c := range map[string]struct {
		pages []page
		ok    bool
	}{
		"two pages":                     {[]page{{keys: "a b", next: "t", more: true}, {keys: "c"}}, true},
		"an empty page in the middle":   {[]page{{keys: "a b", next: "t", more: true}, {next: "u", more: true}, {keys: "c"}}, true},
		"nothing":                       {[]page{{}}, true},
		"cut short without a token":     {[]page{{keys: "a b", more: true}}, false},
		"the same token again":          {many(page{next: "t", more: true}), false},
		"tokens in a ring":              {append([]page{{next: "t", more: true}, {next: "u", more: true}}, many(page{next: "t", more: true})...), false},
		"the same page again":           {many(page{keys: "a b", next: "t", more: true}), false},
		"out of order":                  {[]page{{keys: "b a"}}, false},
		"out of order across pages":     {[]page{{keys: "b c", next: "t", more: true}, {keys: "a"}}, false},
		"a key twice":                   {[]page{{keys: "a a"}}, false},
		"a key twice across pages":      {[]page{{keys: "a b", next: "t", more: true}, {keys: "b c"}}, false},
		"an error in the second page":   {[]page{{keys: "a b", next: "t", more: true}, {code: 500, whole: "<Error><Code>InternalError</Code></Error>"}}, false},
		"a refusal in the second page":  {[]page{{keys: "a b", next: "t", more: true}, {code: 403, whole: "<Error><Code>AccessDenied</Code></Error>"}}, false},
		"an error document":             {[]page{{whole: `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>no s3:ListBucket</Message></Error>`}}, false},
		"an error document at the next": {[]page{{keys: "a b", next: "t", more: true}, {whole: "<Error><Code>InternalError</Code></Error>"}}, false},
		"a list of something else":      {[]page{{whole: "<ListAllMyBucketsResult/>"}}, false},
		"nothing at all":                {[]page{{whole: " "}}, false},
		"not XML":                       {[]page{{whole: "pages of text"}}, false},
		"XML that ends early":           {[]page{{whole: strings.TrimSuffix(page{keys: "a b"}.body(), "</ListBucketResult>")}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			p.Set(faultproxy.Rule{Match: "list-type", Fault: faultproxy.Fault{Answer: func(resp *http.Response, body *[]byte) {
				said := c.pages[min(n, len(c.pages)-1)]
				n++
				resp.StatusCode = max(said.code, http.StatusOK)
				resp.Header.Set("Content-Type", "application/xml")
				*body = []byte(said.body())
			}}})
			keys, err := list(t, b)
			if (err == nil) != c.ok || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("%v, %v; want an end without an error: %t", keys, err, c.ok)
			}
			if c.ok && len(keys) != want(c.pages) {
				t.Errorf("listed %v", keys)
			}
			if n >= 20 {
				t.Errorf("asked for %d pages", n)
			}
			// A missing object whose 404 does not say so is looked for in the list.
			if _, err := b.Head(t.Context(), "z"); !c.ok && errors.Is(err, storage.ErrNotExist) && n < len(c.pages) {
				t.Errorf("trouble with the list reads as absence: %v", err)
			}
		})
	}
}

func list(t *testing.T, b storage.Bucket) (keys []storage.Key, err error) {
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			return keys, err
		}
		keys = append(keys, o.Key)
	}
	return keys, nil
}

func want(pages []page) (n int) {
	for _, p := range pages {
		n += len(strings.Fields(p.keys))
	}
	return n
}
