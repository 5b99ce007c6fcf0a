package main

import (
	"fmt"
	"io"
	"strings"
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
	widths := make([]int, len(t.head))
	for i, h := range t.head {
		widths[i] = utf8.RuneCountInString(strings.TrimPrefix(h, ">"))
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	var border strings.Builder
	for _, width := range widths {
		border.WriteString("+" + strings.Repeat("-", width+2))
	}
	border.WriteString("+")
	var out strings.Builder
	top := border.String()
	if t.title != "" {
		title := "+ " + printable(t.title) + " "
		top = title + top[min(utf8.RuneCountInString(title), len(top)-1):]
	}
	out.WriteString(top + "\n")
	t.line(&out, t.head, widths, true)
	out.WriteString(border.String() + "\n")
	for _, row := range t.rows {
		t.line(&out, row, widths, false)
	}
	out.WriteString(border.String() + "\n")
	_, err := io.WriteString(w, out.String())
	return err
}

func (t *table) line(out *strings.Builder, cells []string, widths []int, head bool) {
	for i, cell := range cells {
		right := strings.HasPrefix(t.head[i], ">")
		if head {
			cell = strings.TrimPrefix(cell, ">")
		}
		cell = printable(cell)
		space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if right {
			cell = space + cell
		} else {
			cell += space
		}
		out.WriteString("| " + cell + " ")
	}
	out.WriteString("|\n")
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

// pairs prints names and values in two columns.
func pairs(w io.Writer, values ...[2]string) error {
	width := 0
	for _, v := range values {
		width = max(width, len(v[0]))
	}
	var out strings.Builder
	for _, v := range values {
		fmt.Fprintf(&out, " %-*s %s\n", width+1, v[0]+":", printable(v[1]))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// clock is a time as tables show it, UTC.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

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
