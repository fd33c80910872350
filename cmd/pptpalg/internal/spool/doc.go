// Package spool owns lines on their way out of the process, to standard error, standard
// output or a file. Writing a line never waits for the reader or the disk: lines queue up
// to a limit, a goroutine writes them, and one line says how many were lost.
package spool
