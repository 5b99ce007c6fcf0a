// Package postgres is the vocabulary of the program: PostgreSQL's own words and
// file formats as Go values, with the standard library only.
//
// Every name that appears in a path has its parser beside its String method.
// Nothing here opens a connection or decides anything.
package postgres
