package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// table prints as patronictl does, with the title in the upper border.
type table struct {
	title string
	head  []string // a leading '>' aligns the column to the right
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	rows := append([][]string{make([]string, len(t.head))}, t.rows...)
	widths := make([]int, len(t.head)) // for %*s: negative is to the left
	border := ""
	for i, h := range t.head {
		name, right := strings.CutPrefix(h, ">")
		rows[0][i] = name
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		border += "+" + strings.Repeat("-", widths[i]+2)
		if !right {
			widths[i] = -widths[i]
		}
	}
	border += "+\n"
	var out strings.Builder
	top := "+ " + printable(t.title) + " "
	out.WriteString(top + border[min(utf8.RuneCountInString(top), len(border)-2):])
	for i, row := range rows {
		for j, cell := range row {
			fmt.Fprintf(&out, "| %*s ", widths[j], printable(cell))
		}
		out.WriteString("|\n")
		if i == 0 {
			out.WriteString(border)
		}
	}
	out.WriteString(border)
	_, err := io.WriteString(w, out.String())
	return err
}

// printable keeps what came from elsewhere from writing to the terminal on its own.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// lines are names with their values, printed in two columns.
type lines [][2]string

func (l *lines) add(name, format string, args ...any) {
	*l = append(*l, [2]string{name, fmt.Sprintf(format, args...)})
}

func (l *lines) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	for _, line := range *l {
		fmt.Fprintf(w, " %s:\t%s\n", line[0], printable(line[1]))
	}
	return w.Flush()
}

// clock is a time as tables show it, UTC.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// upward is the first whole second not before t: what a table shows as the beginning
// of a span must lie in it when it is typed again.
func upward(t time.Time) time.Time { return t.Add(time.Second - 1).Truncate(time.Second) }

// age is how long ago, in one or two units.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
