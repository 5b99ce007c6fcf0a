// Package catalog is the repository: the only place that knows keys and stored
// documents. docs/FORMAT.md describes every object; the rules it keeps are
//
//  1. An object, once written, never changes.
//  2. A manifest is written last and names only what is durably stored.
//  3. A reader starts from manifests and refuses a newer format.
//  4. A remover deletes the manifest before a pack and a pack before WAL.
package catalog
