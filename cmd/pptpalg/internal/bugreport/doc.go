// Package bugreport owns the archive of pptpalg bugreport: what is in it, and addresses that
// stand for others.
package bugreport
