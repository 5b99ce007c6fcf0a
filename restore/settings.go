package restore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// ArchiveMode says what becomes of the copy's archive_mode.
type ArchiveMode string

// The choices. Off keeps a copy from writing into the archive it came from.
const (
	ArchiveOff      ArchiveMode = "off"
	ArchivePreserve ArchiveMode = "preserve"
)

// setting is one line of a configuration file, its value not quoted.
type setting struct{ name, value string }

// anotherLife are the settings that a former life may have left anywhere in the
// configuration and that would lead recovery astray: set anew, empty if not wanted
// (R26). Some have no empty value.
var anotherLife = []setting{
	{"restore_command", ""},
	{"recovery_target", ""},
	{"recovery_target_time", ""},
	{"recovery_target_lsn", ""},
	{"recovery_target_xid", ""},
	{"recovery_target_name", ""},
	{"recovery_target_inclusive", "on"},
	{"recovery_target_timeline", ""},
	{"recovery_target_action", "promote"},
	{"recovery_min_apply_delay", "0"},
	{"recovery_end_command", ""},
	{"archive_cleanup_command", ""},
	{"primary_conninfo", ""},
	{"primary_slot_name", ""},
}

// removedOnly cannot be set empty on every version: only its line goes.
const removedOnly = "promote_trigger_file"

// recoverySettings are what makes the copy recover along the plan.
func recoverySettings(plan Plan, restoreCommand string, archive ArchiveMode) []setting {
	list := slices.Clone(anotherLife)
	// The server takes them in this order and refuses even an empty target after one
	// that is set: what is wanted comes last.
	set := func(name, value string) {
		list = slices.DeleteFunc(list, func(s setting) bool { return s.name == name })
		list = append(list, setting{name, value})
	}
	target := plan.Effective
	set("restore_command", restoreCommand)
	set("recovery_target_timeline", fmt.Sprint(uint32(plan.Timeline)))
	switch target.Kind {
	case Time:
		set("recovery_target_time", target.Time.UTC().Format("2006-01-02 15:04:05.999999")+"+00")
	case LSN:
		set("recovery_target_lsn", target.LSN.String())
	case XID:
		set("recovery_target_xid", fmt.Sprint(target.XID))
	case Name:
		set("recovery_target_name", target.Name)
	case Immediate:
		set("recovery_target", "immediate")
	}
	if target.Exclusive {
		set("recovery_target_inclusive", "off")
	}
	if target.Action != "" {
		set("recovery_target_action", string(target.Action))
	}
	if target.Action == Pause {
		set("hot_standby", "on") // without it a pause is a shutdown
	}
	if plan.GapBehind {
		// PostgreSQL reads ahead of what it replays, into the next segment: one that is
		// known to be lost would hold up a recovery that does not need it.
		set("recovery_prefetch", "off")
	}
	if archive == ArchiveOff {
		set("archive_mode", "off")
		set("max_logical_replication_workers", "0") // or its subscriptions would take the living subscriber's slots
	}
	return list
}

// autoConf is the copy's postgresql.auto.conf: what ALTER SYSTEM had set, without
// the settings of another life, then ours.
func autoConf(existing string, list []setting) string {
	var b strings.Builder
	b.WriteString(withoutSettings(existing, list))
	b.WriteString(autoConfMark)
	for _, s := range list {
		fmt.Fprintf(&b, "%s = %s\n", s.name, quoteValue(s.value))
	}
	return b.String()
}

// autoConfMark is the line before our settings.
const autoConfMark = "# written by pgha-backup restore\n"

// withoutSettings is a configuration file without the lines that set one of a list.
func withoutSettings(conf string, list []setting) string {
	var kept strings.Builder
	for line := range strings.Lines(conf) {
		name, _, ok := parseLine(line)
		if ok && (name == removedOnly || slices.ContainsFunc(list, func(s setting) bool { return s.name == name })) {
			continue
		}
		kept.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	return kept.String()
}

// minima are the settings that must not be lower than they were on the primary, or
// recovery stops. conf is what the copy brings along, postgresql.auto.conf last;
// files that it includes are not read, so then every minimum is written.
func minima(conf string, s catalog.Settings) (list []setting) {
	for _, m := range []struct {
		name           string
		standard, want int
	}{
		{"max_connections", 100, s.MaxConnections}, {"max_worker_processes", 8, s.MaxWorkerProcesses}, {"max_wal_senders", 10, s.MaxWALSenders},
		{"max_prepared_transactions", 0, s.MaxPreparedXacts}, {"max_locks_per_transaction", 64, s.MaxLocksPerXact},
	} {
		have, unknown := m.standard, false
		for line := range strings.Lines(conf) {
			name, value, _ := parseLine(line)
			if name == m.name {
				n, err := strconv.ParseInt(value, 0, 32)
				have, unknown = int(n), unknown || err != nil
			}
			unknown = unknown || strings.HasPrefix(name, "include")
		}
		if m.want > 0 && (unknown || have < m.want) {
			list = append(list, setting{m.name, strconv.Itoa(m.want)})
		}
	}
	return list
}

// parseLine reads one line of a configuration file: name, an optional '=', and a
// value that may be quoted.
func parseLine(line string) (name, value string, ok bool) {
	line = strings.TrimSpace(line)
	end := strings.IndexFunc(line, func(r rune) bool { return r == '=' || r == ' ' || r == '\t' || r == '#' || r == '\'' })
	if end <= 0 {
		return "", "", false
	}
	name = strings.ToLower(line[:end])
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	if quoted, ok := strings.CutPrefix(rest, "'"); ok {
		return name, unquoteValue(quoted), true
	}
	if i := strings.IndexAny(rest, "# \t"); i >= 0 {
		rest = rest[:i]
	}
	return name, rest, true
}

// unquoteValue reads up to the closing quote.
func unquoteValue(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'', s[i] == '\\' && i+1 < len(s):
			i++
		case s[i] == '\'':
			return b.String()
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// quoteValue quotes a value as the configuration file's scanner reads it.
func quoteValue(s string) string {
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(s) + "'"
}

// ShellCommand makes a restore_command of a program and its arguments: each is
// quoted for the shell, and only the arguments %f and %p are PostgreSQL's.
func ShellCommand(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		if arg == "%f" || arg == "%p" {
			words[i] = `"` + arg + `"`
			continue
		}
		words[i] = strings.ReplaceAll(shellQuote(arg), "%", "%%")
	}
	return strings.Join(words, " ")
}

func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:,@%=", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
