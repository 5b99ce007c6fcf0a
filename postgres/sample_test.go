package postgres

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// sample is what testdata/generate.sh kept of a real server. Its judges are that
// version's own pg_waldump and pg_controldata; for 16, whose server was to be had
// without tools, pg_walinspect inside that server, and the pg_controldata of 17,
// which shares its pg_control format (1300).
type sample map[string][]byte

var sampleMajors = []string{"15", "16", "17", "18"}

func loadSample(t testing.TB, major string) sample {
	t.Helper()
	f, err := os.Open("testdata/pg" + major + ".tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	s := sample{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return s
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if s[path.Base(h.Name)], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// eachSample runs a test on what each version left.
func eachSample(t *testing.T, run func(t *testing.T, s sample)) {
	for _, major := range sampleMajors {
		t.Run(major, func(t *testing.T) { run(t, loadSample(t, major)) })
	}
}

// segments are the names of the WAL segments of one timeline, in order.
func (s sample) segments(tli TimelineID) []string {
	var names []string
	for name := range s {
		if f, err := ParseWALFile(name); err == nil && f.Kind == WALSegment && f.Segment.Timeline == tli {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func mustName(t testing.TB, name string) WALFile {
	t.Helper()
	f, err := ParseWALFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// source gives the named files to a RecordReader.
func (s sample) source(t testing.TB, names ...string) SegmentSource {
	return func() (Segment, *io.SectionReader, error) {
		if len(names) == 0 {
			return Segment{}, nil, io.EOF
		}
		name := names[0]
		names = names[1:]
		return mustName(t, name).Segment, section(s[name]), nil
	}
}

// lines of a text file of the sample.
func (s sample) lines(name string) []string {
	return strings.Split(strings.TrimSpace(string(s[name])), "\n")
}
