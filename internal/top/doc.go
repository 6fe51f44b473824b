// Package top shows the tunnels and streams of a running Caddy in a terminal, live
// and sorted by what they carry, and ends those that a person picks.
//
// Model is the screen. It asks the admin API through a function that it is given,
// draws text, and has neither clock nor socket of its own: what happens reaches it
// as messages of package bubbletea, which calls Update and View from one goroutine
// and runs each request in another. Snapshot is the same table, once, for what is
// no terminal.
//
// Identities, names of targets and errors are what others chose. All of it passes
// framecodec.SafeText on its way into a cell of the screen; nothing else may put
// such text there.
package top
