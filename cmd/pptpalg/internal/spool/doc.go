// Package spool owns lines on their way out of the process, to standard error, standard
// output or a file. Whoever has a line to write never waits for the reader or the disk: lines
// queue up to a limit, a goroutine writes them, and a line stands for those that were lost.
package spool
