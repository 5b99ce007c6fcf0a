package restore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// finish writes what is ours to write, proves the copy, and then lets it live.
func (x *execution) finish(ctx context.Context) error {
	ours := []func(context.Context) error{x.configure, x.origin}
	if x.Member {
		ours = []func(context.Context) error{x.memberSettings, x.memberWAL}
	}
	for _, step := range slices.Concat([]func(context.Context) error{x.label, x.control}, ours, []func(context.Context) error{x.manifest, x.sync, x.verify}) {
		if err := cmp.Or(step(ctx), ctx.Err()); err != nil {
			return err
		}
	}
	if err := x.live(); err != nil {
		return err
	}
	// restore_command learns from pg_control whose WAL is wanted.
	if err := x.probe(ctx); err != nil {
		return errors.Join(err, discardControl(x.tree.base))
	}
	if err := x.tree.base.Remove(MarkerFile); err != nil {
		return err
	}
	return atomicfile.SyncDir(x.ground.PGDATA)
}

const recoverySignal = "recovery.signal"

// ours writes a file that was not in the backup, or not so, and counts it as written.
func (x *execution) ours(name string, data []byte) error {
	if err := x.tree.write(name, data); err != nil {
		return err
	}
	x.written[name] = catalog.Entry{Path: name, Size: int64(len(data)), Modified: x.Now.UTC().Truncate(time.Second),
		CRC32C: postgres.CRC32C(data)}
	return nil
}

// label checks that the backup_label is this backup's, and writes it.
func (x *execution) label(context.Context) error {
	text, ok := x.held[labelFile]
	if !ok {
		return &VerificationError{Problem: fmt.Sprintf("backup %s holds no backup_label", x.plan.Backup.ID)}
	}
	label, err := postgres.ParseBackupLabel(string(text))
	if err != nil {
		return err
	}
	m := x.plan.Backup
	if label.StartLSN != m.StartLSN || label.StartTimeline != m.Timeline {
		return &VerificationError{Problem: fmt.Sprintf("backup_label starts at %s on timeline %d, the manifest of %s says %s on %d",
			label.StartLSN, uint32(label.StartTimeline), m.ID, m.StartLSN, uint32(m.Timeline))}
	}
	if label.IncrementalTimeline != 0 {
		label = label.Full()
	}
	return x.ours(labelFile, []byte(label.Raw))
}

// control checks that pg_control is this cluster's; it is written by live.
func (x *execution) control(context.Context) error {
	data, ok := x.held[controlFile]
	if !ok {
		return &VerificationError{Problem: fmt.Sprintf("backup %s holds no pg_control", x.plan.Backup.ID)}
	}
	control, err := postgres.ParseControlData(data)
	if err != nil {
		return err
	}
	if control.System != x.plan.Backup.System {
		return &VerificationError{Problem: fmt.Sprintf("pg_control has system identifier %s, the manifest %s", control.System, x.plan.Backup.System)}
	}
	return nil
}

// configure writes the settings of the recovery, and what a server needs at least
// where the configuration of the source lies outside PGDATA.
func (x *execution) configure(context.Context) error {
	for _, f := range []struct{ name, text string }{
		{serverConfFile, "# The configuration of the source lies outside its PGDATA and is not in the backup.\n"},
		{"pg_hba.conf", "# The source's pg_hba.conf is not in the backup: only local users, by their own name.\nlocal all all peer\n"},
		{"pg_ident.conf", "# The source's pg_ident.conf is not in the backup.\n"},
	} {
		if _, ok := x.written[f.name]; ok {
			continue
		}
		if err := x.ours(f.name, []byte(f.text)); err != nil {
			return err
		}
		x.Log.Warn("the backup holds no "+f.name+": a minimal one was written", "source", x.plan.Backup.Settings.ConfigFile)
	}
	conf, err := x.tree.base.ReadFile(serverConfFile)
	if err != nil {
		return err
	}
	existing := x.held[autoConfFile]
	list := recoverySettings(x.plan, ShellCommand(x.RestoreCommand), x.ArchiveMode)
	list = append(list, minima(string(conf)+"\n"+string(existing), x.plan.Backup.Settings)...)
	if err := x.ours(autoConfFile, []byte(autoConf(string(existing), list))); err != nil {
		return err
	}
	x.loose = append(x.loose, recoverySignal)
	return x.tree.write(recoverySignal, nil)
}

// origin says where the copy comes from, so that it does not archive there (R8).
func (x *execution) origin(context.Context) error {
	data, err := json.MarshalIndent(catalog.Origin{Format: catalog.Format, Scope: x.plan.Backup.Scope, System: x.plan.Backup.System,
		Backup: x.plan.Backup.ID, Target: x.plan.Target.String(), Restored: x.Now.UTC().Truncate(time.Second)}, "", " ")
	if err != nil {
		return err
	}
	return x.ours(catalog.OriginFile, append(data, '\n'))
}

// manifest compares what was written with the backup's own backup_manifest, and
// writes one that says what stands here (R25).
func (x *execution) manifest(ctx context.Context) error {
	text, err := x.backup.BackupManifest(ctx)
	if err != nil {
		return err
	}
	stored, err := postgres.ParseBackupManifest(text)
	if err != nil {
		return err
	}
	for _, f := range stored.Files {
		e, ok := x.written[f.Path]
		switch {
		case leftOut(f.Path) || f.Path == autoConfFile || f.Path == labelFile:
		case !ok:
			return &VerificationError{Problem: fmt.Sprintf("backup_manifest of %s lists %s, which no pack holds", x.plan.Backup.ID, f.Path)}
		case e.Size != f.Size || e.CRC32C != f.CRC32C:
			return &VerificationError{Problem: fmt.Sprintf("%s has %d bytes with CRC-32C %08x, backup_manifest of %s says %d with %08x",
				f.Path, e.Size, e.CRC32C, x.plan.Backup.ID, f.Size, f.CRC32C)}
		}
	}
	var files []postgres.ManifestFile
	for _, name := range slices.Sorted(maps.Keys(x.written)) {
		e := x.written[name]
		files = append(files, postgres.ManifestFile{Path: name, Size: e.Size, Modified: e.Modified, CRC32C: e.CRC32C})
	}
	var out bytes.Buffer
	if err := postgres.WriteBackupManifest(&out, x.plan.Backup.Version, x.plan.Backup.System, slices.Values(files), stored.Ranges); err != nil {
		return err
	}
	return x.tree.write(manifestFile, out.Bytes())
}

// sync makes all that was written durable.
func (x *execution) sync(context.Context) error {
	files := slices.DeleteFunc(slices.Collect(maps.Keys(x.written)), func(name string) bool { return name == controlFile })
	return x.tree.sync(append(append(files, manifestFile), x.loose...))
}

// live puts pg_control in its place, whole and durably.
func (x *execution) live() error {
	if err := x.tree.write(controlTemporary, x.held[controlFile]); err != nil {
		return err
	}
	if err := x.tree.sync([]string{controlTemporary}); err != nil {
		return err
	}
	if err := x.tree.base.Rename(controlTemporary, controlFile); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Join(x.ground.PGDATA, filepath.Dir(controlFile)))
}
