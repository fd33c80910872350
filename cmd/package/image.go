package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// platforms are what containers call machines; one that is not there goes by its own name.
var platforms = map[string]string{"armv7": "linux/arm/v7"}

func platformOf(machine string) string {
	if name, ok := platforms[machine]; ok {
		return name
	}
	return "linux/" + machine
}

// image writes one container image for some machines (deploy/image).
func (p packing) image(ctx context.Context, machines []string, out string) error {
	stage, err := os.MkdirTemp("", "pptpalg-image")
	if err != nil {
		return fmt.Errorf("make stage: %w", err)
	}
	defer os.RemoveAll(stage)
	p.stage = stage
	name := filepath.Join(out, fmt.Sprintf("pptpalg_%s_image.tar", p.version))
	args := []string{"-o", name, "-version", p.version, "-license", filepath.Join(p.root, "LICENSE"), fmt.Sprintf("-at=%d", p.at.Unix())}
	for _, machine := range machines {
		begin(p.steps, "build pptpalg for "+machine)
		program := p.staged(machine)
		if err := p.compile(ctx, program, machineOf(machine)); err != nil {
			return err
		}
		args = append(args, platformOf(machine)+"="+program)
	}
	begin(p.steps, "write the image")
	if err := errors.Join(os.MkdirAll(out, 0o755), goBuild(ctx, filepath.Join(p.root, "deploy/image"), p.staged("image"), nil, ".")); err != nil {
		return err
	}
	if _, err := output(exec.CommandContext(ctx, p.staged("image"), args...)); err != nil {
		return err
	}
	fmt.Println(name)
	return nil
}
