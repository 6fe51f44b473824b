package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	output := flag.String("o", "bin/caddy", "where to put the binary")
	flag.Parse()
	if err := build(*output, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "xcaddybuild:", err)
		os.Exit(1)
	}
}

func build(output string, files []string) error {
	if len(files) != 1 {
		return errors.New("give the manifest, xcaddy.json")
	}
	b, err := readManifest(files[0])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return b.Build(ctx, output)
}
