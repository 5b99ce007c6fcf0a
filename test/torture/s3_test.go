package torture

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// stores are archive-push and archive-get against an S3 server: the program dies, also in the middle of a request.
func (w *world) stores() (all []*scenario) {
	w.Helper()
	server := lab.StartS3(w.T, lab.S3Options{})
	bucket, err := s3.New(s3.Options{Endpoint: server.Endpoint, Bucket: server.Bucket, Region: server.Region, Style: s3.Path,
		AccessKey: server.AccessKey, SecretKey: server.SecretKey})
	w.must(err)
	configure := func(scope string) {
		w.run.WriteFile(lab.User1, 0o600, fmt.Sprintf(`cluster: {scope: %s, member: one, bin_dir: %s, state_dir: %s}
repositories:
  - {name: main, type: s3, level: fastest, s3: {endpoint: %q, bucket: %s, region: %s, access_key: %s, secret_key: %s, path_style: path, tls: "off"}}
archive: {spool: %s, get_batch: 3, get_recovery_timeout: 1s}
`, scope, w.pg.BinDir, w.at("state"), server.Endpoint, server.Bucket, server.Region, server.AccessKey, server.SecretKey, w.at("spool")), "s3.yaml")
	}
	copied := func(dir, scope string) { // a repository of the file driver, under another scope
		local := file.New(dir)
		for o, err := range local.List(w.Context(), storage.Key(w.root1()+"/"), "") {
			w.must(err)
			content, err := object(w.Context(), local, o.Key)
			w.must(err)
			key := storage.Key(scope + string(o.Key)[len("torture"):])
			w.must(bucket.Put(w.Context(), key, content, storage.PutOptions{}))
		}
	}
	first, n := w.fresh[0], 0
	other := bytes.Clone(w.contents[first])
	other[len(other)/8] ^= 1
	for _, c := range []struct {
		name     string
		had      bool
		content  []byte
		conflict bool
	}{
		{"segment", false, w.contents[first], false},
		{"duplicate", true, w.contents[first], false},
		{"conflict", true, other, true},
	} {
		var at, root string
		ledger := Ledger{}
		judge := func(acknowledged bool) []string {
			l := maps.Clone(ledger)
			if acknowledged && !c.conflict {
				l.Acknowledge(first, c.content)
			}
			lost, err := l.Judge(w.Context(), bucket, root)
			w.must(err)
			_, broken, err := JudgeRepository(w.Context(), w.catalogOf(bucket, at))
			w.must(err)
			return append(append(lost, broken...), Whole(w.at("node/pg_wal", first), c.content, false)...)
		}
		s := &scenario{
			name: "s3/push-" + c.name, config: "s3", dir: w.at("node"), args: []string{"archive-push", "pg_wal/" + first},
			prepare: func() { // objects stay; each run has a scope of its own
				n++
				at = fmt.Sprintf("torture-%d", n)
				root = fmt.Sprintf("%s/%s", at, w.system)
				configure(at)
				w.put("node", "node", "empty", "state")
				w.write(w.at("node/pg_wal", first), c.content)
				r := w.catalogOf(bucket, at)
				_, err := r.Create(w.Context(), 1<<20, "required", time.Now())
				w.must(err)
				if c.had {
					content, err := object(w.Context(), file.New(w.at("ready/pushed")), storage.Key(w.root1()+"/wal/"+first[:8]+"/"+first[8:16]+"/"+first))
					w.must(err)
					w.must(bucket.Put(w.Context(), storage.Key(root+"/wal/"+first[:8]+"/"+first[8:16]+"/"+first), content, storage.PutOptions{}))
					ledger.Acknowledge(first, w.contents[first])
				}
			},
			trouble: []int{1},
			after:   func(Outcome) []string { return judge(false) },
			whole:   func(Outcome) []string { return judge(true) },
			roots:   map[string]string{"state": w.at("state"), "pgdata": w.at("node")},
		}
		if c.conflict {
			s.want = 1
			s.whole = func(Outcome) []string {
				faults := judge(false)
				key := storage.Key(fmt.Sprintf("%s/conflict/%s/%x", root, first, sha256.Sum256(other)))
				if plain, err := decoded(w.Context(), bucket, key); err != nil || !bytes.Equal(plain, other) {
					faults = append(faults, fmt.Sprintf("%s is not kept: %v", key, err))
				}
				return faults
			}
		}
		all = append(all, s)
	}

	copied(w.at("ready/all"), "torture-get")
	contents := map[string][]byte{}
	for _, name := range w.fresh {
		contents[name] = w.contents[name]
	}
	for _, c := range []struct {
		name, file string
		want       int
	}{{"recovery", first, 0}, {"absent", "00000001000000000000FFFF", 1}} {
		target := w.at("node/pg_wal/RECOVERYXLOG")
		s := &scenario{
			name: "s3/get-" + c.name, config: "s3", dir: w.at("node"), args: []string{"archive-get", c.file, "pg_wal/RECOVERYXLOG"},
			prepare: func() {
				configure("torture-get")
				w.put("node", "node", "empty", "state", "empty", "spool")
				w.write(w.at("node/recovery.signal"), nil)
			},
			want: c.want, trouble: []int{200},
			after: func(Outcome) []string {
				return append(Whole(target, w.contents[c.file], true), JudgeSpool(w.at("spool"), contents)...)
			},
			roots: map[string]string{"spool": w.at("spool"), "pgdata": w.at("node"), "state": w.at("state")},
		}
		s.whole = func(Outcome) []string {
			faults := JudgeSpool(w.at("spool"), contents)
			if _, err := os.Stat(target); c.want != 0 && err == nil {
				return append(faults, "what is absent is there")
			}
			return append(faults, Whole(target, w.contents[c.file], c.want != 0)...)
		}
		s.sweep = func() {
			w.must(os.RemoveAll(w.at("spool")))
			w.mkdir("spool")
			w.call(s.config, s.dir, s.args...)
		}
		all = append(all, s)
	}
	return all
}
