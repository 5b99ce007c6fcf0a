package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// result is one contender's runs of one work.
type result struct {
	contender *contender
	samples   []sample
}

// median is the middle of one figure over the runs.
func (r result) median(figure func(sample) float64) float64 {
	values := make([]float64, 0, len(r.samples))
	for _, s := range r.samples {
		values = append(values, figure(s))
	}
	return middle(values)
}

func middle(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// column is one figure. A ratio is shown against the best peer of the same class.
type column struct {
	title  string
	format string
	figure func(sample) float64
	ratio  bool
	more   bool // more is better
}

func wall(s sample) float64   { return s.wall.Seconds() }
func cpu(s sample) float64    { return s.cpu.Seconds() }
func both(s sample) float64   { return (s.cpu + s.server).Seconds() }
func stored(s sample) float64 { return float64(s.stored) / 1e6 }
func memory(s sample) float64 { return float64(s.rss) / (1 << 20) }

func runColumns(p *place, stores bool) []column {
	columns := []column{
		{title: "wall s", format: "%.2f", figure: wall, ratio: true},
		{title: "CPU s", format: "%.2f", figure: cpu, ratio: true},
	}
	if stores {
		columns = append(columns, column{title: "with server", format: "%.2f", figure: both, ratio: true})
	}
	columns = append(columns, column{title: "RSS MiB", format: "%.0f", figure: memory})
	if stores {
		columns = append(columns, column{title: "stored MB", format: "%.1f", figure: stored, ratio: true})
	}
	if p.proxy != nil {
		columns = append(columns, column{title: "requests", format: "%.0f", figure: func(s sample) float64 { return float64(s.requests) }})
	}
	return columns
}

func walColumns(p *place, segments int, stores bool) []column {
	columns := []column{
		{title: "MiB/s", format: "%.0f", figure: func(s sample) float64 { return float64(16*segments) / s.wall.Seconds() }, ratio: true, more: true},
		{title: "p50 ms", format: "%.1f", figure: func(s sample) float64 { return quantile(s.each, 0.50) }},
		{title: "p99 ms", format: "%.1f", figure: func(s sample) float64 { return quantile(s.each, 0.99) }},
		{title: "CPU ms/segment", format: "%.1f", figure: func(s sample) float64 { return 1000 * cpu(s) / float64(segments) }, ratio: true},
		{title: "RSS MiB", format: "%.0f", figure: memory},
	}
	if stores {
		columns = append(columns, column{title: "stored MB", format: "%.1f", figure: stored, ratio: true})
	}
	if p.proxy != nil {
		columns = append(columns, column{title: "requests/segment", format: "%.2f", figure: func(s sample) float64 { return float64(s.requests) / float64(segments) }})
	}
	return columns
}

func quantile(each []time.Duration, q float64) float64 {
	if len(each) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(each))
	return 1000 * sorted[int(q*float64(len(sorted)-1)+0.5)].Seconds()
}

// best is the best peer's figure among the results of a class.
func best(results []result, c column, of class) float64 {
	var found float64
	for _, r := range results {
		if !r.contender.peer || r.contender.class != of {
			continue
		}
		if v := r.median(c.figure); found == 0 || (v < found) != c.more {
			found = v
		}
	}
	return found
}

// table prints medians, with ratios to the best peer of the same class in brackets.
func table(w io.Writer, title string, results []result, columns []column) {
	rows := [][]string{{""}, {"---"}}
	for _, c := range columns {
		rows[0], rows[1] = append(rows[0], c.title), append(rows[1], "---:")
	}
	for _, r := range results {
		row := []string{r.contender.name}
		for _, c := range columns {
			v := r.median(c.figure)
			cell := fmt.Sprintf(c.format, v)
			if v == 0 {
				cell = ""
			} else if peer := best(results, c, r.contender.class); c.ratio && peer > 0 && !r.contender.peer {
				cell += fmt.Sprintf(" (%.2f×)", v/peer)
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	fmt.Fprintf(w, "\n### %s\n\n", title)
	widths := make([]int, len(columns)+1)
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if cell == "---" || cell == "---:" {
				gap, cell = "", strings.Repeat("-", widths[i]-1)+cell[len(cell)-1:]
			}
			if i == 0 {
				fmt.Fprintf(w, "| %s%s |", cell, gap)
			} else {
				fmt.Fprintf(w, " %s%s |", gap, cell)
			}
		}
		fmt.Fprintln(w)
	}
}

// describe says what was measured, and on what.
func (b *bench) describe(w io.Writer) {
	b.Helper()
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.HasPrefix(name, "model name") {
			model = strings.TrimSpace(value)
			break
		}
	}
	fmt.Fprintf(w, "%d × %s, %s\n", runtime.NumCPU(), model, strings.TrimSpace(b.run.Must(lab.User1, "uname", "-sr")))
	for _, argv := range [][]string{{lab.BinDir(b, 15) + "/postgres", "--version"}, {b.peer, "version"}, {b.program, "version"}} {
		fmt.Fprint(w, b.run.Must(lab.User1, argv...))
	}
	fmt.Fprint(w, b.barmanVersion())
	fmt.Fprintf(w, "pgbench scale %d, documents and checksums, warm cache; %d WAL segments of 16 MiB; medians of %d interleaved runs\n", b.scale, b.segments, b.runs)
}
