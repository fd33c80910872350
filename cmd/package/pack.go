package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"pptpalg/cmd/internal/progress"
)

// packing is one build of the packages.
type packing struct {
	root    string // of the repository
	stage   string // a directory of its own for what is generated
	arch    string // of the machine: GOARCH, or a name in machines
	tags    string // what the program is built without (docs/SIZE.md), divided by commas
	version string
	// maintainer answers for the packages.
	maintainer string
	at         time.Time       // the time of every file in the packages
	steps      *progress.Steps // nil where nobody waits
}

// maintainer is who answers for packages if nobody else is named.
const maintainer = "pptpalg maintainers <maintainers@users.noreply.r-seed-3d05f21e.example>"

// The units are written for a binary that was put there by hand.
const (
	unitProgram      = "/usr/local/sbin/pptpalg"
	installedProgram = "/usr/sbin/pptpalg"
)

// generate puts into the stage what nfpm.yaml takes from there.
func (p *packing) generate(ctx context.Context) error {
	if err := p.build(ctx); err != nil {
		return err
	}
	begin(p.steps, "generate manual pages, completions and default configuration")
	for name, args := range map[string][]string{
		"pptpalg.yaml":    {"config", "--default"},
		"completion.bash": {"completion", "bash"},
		"completion.zsh":  {"completion", "zsh"},
		"completion.fish": {"completion", "fish"},
	} {
		text, err := p.ask(ctx, args...)
		if err == nil {
			err = os.WriteFile(p.staged(name), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(p.manual(ctx), p.unit(), p.share(), p.refusal(), p.changelog())
}

// begin says what begins, if anybody waits.
func begin(steps *progress.Steps, what string) {
	if steps != nil {
		steps.Next(what)
	}
}

func (p *packing) staged(name string) string { return filepath.Join(p.stage, name) }

// programs are the one to be packed, and one that runs here and is asked if that cannot be, with the machine that
// each is for.
func (p *packing) programs() map[string]string {
	return map[string]string{p.staged("pptpalg"): p.arch, p.here(): runtime.GOARCH}
}

// build builds them, and nfpm.
func (p *packing) build(ctx context.Context) error {
	for name, arch := range p.programs() {
		begin(p.steps, "build pptpalg for "+arch)
		if err := p.compile(ctx, name, machineOf(arch)); err != nil {
			return err
		}
	}
	begin(p.steps, "build nfpm")
	return goBuild(ctx, filepath.Join(p.root, "deploy/package"), p.staged("nfpm"), nil, "github.com/goreleaser/nfpm/v2/cmd/nfpm")
}

func (p *packing) compile(ctx context.Context, out string, m machine) error {
	return goBuild(ctx, p.root, out, m.environ(),
		"-trimpath", "-buildvcs=false", "-tags", p.tags, "-ldflags", "-s -w -X main.version="+p.version, "./cmd/pptpalg")
}

// here is the program that runs on this machine.
func (p *packing) here() string {
	if machineOf(p.arch).runs() {
		return p.staged("pptpalg")
	}
	return p.staged("here")
}

func goBuild(ctx context.Context, dir, out string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", out}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	_, err := output(cmd)
	return err
}

// ask runs the program. The defaults that it says are not to be this process's.
func (p *packing) ask(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.here(), args...)
	cmd.Env = []string{}
	return output(cmd)
}

// output runs a command; the error of one that fails has what it wrote. nfpm writes its
// errors to stdout.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()+stdout.String()))
	}
	return stdout.Bytes(), nil
}

// manual writes the pages, each compressed and in its section's directory.
func (p *packing) manual(ctx context.Context) error {
	plain := p.staged("man")
	for _, dir := range []string{plain, p.staged("man5"), p.staged("man8")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make stage: %w", err)
		}
	}
	if _, err := p.ask(ctx, "man", plain); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(plain, "*.[58]"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		dir := "man" + strings.TrimPrefix(filepath.Ext(page), ".")
		if err := compress(page, p.staged(filepath.Join(dir, filepath.Base(page)+".gz"))); err != nil {
			return err
		}
	}
	return nil
}

// compress writes a file without its name and time: the same text, the same bytes.
func compress(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return fmt.Errorf("compress %s: %w", from, err)
	}
	_, err = io.Copy(w, bytes.NewReader(text))
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("compress %s: %w", from, err)
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

// unit writes the systemd units for the place where the package puts the program.
func (p *packing) unit() error {
	for _, name := range []string{"pptpalg.service", "fastpath/pptpalg-fastpath.service"} {
		text, err := os.ReadFile(filepath.Join(p.root, "deploy", name))
		if err != nil {
			return fmt.Errorf("read unit: %w", err)
		}
		unit := strings.ReplaceAll(string(text), unitProgram, installedProgram)
		if err := os.WriteFile(p.staged(filepath.Base(name)), []byte(unit), 0o644); err != nil {
			return fmt.Errorf("write unit: %w", err)
		}
	}
	return nil
}

// share copies what is for Grafana, Prometheus and firewalls that own the rule set.
func (p *packing) share() error {
	for _, dir := range []string{"grafana", "prometheus", "integrations/docker", "integrations/firewalld", "integrations/ha"} {
		var files []string
		for _, pattern := range []string{"*.json", "*.yml", "*.yaml", "*.conf", "*.xml", "*.sh", "*.default"} {
			names, err := filepath.Glob(filepath.Join(p.root, "deploy", dir, pattern))
			if err != nil {
				return err
			}
			files = append(files, names...)
		}
		if err := p.shareFiles(dir, files); err != nil {
			return err
		}
	}
	return nil
}

func (p *packing) shareFiles(dir string, files []string) error {
	to := p.staged(filepath.Join("share", dir))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("make stage: %w", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(name)), text, modeOf(name))
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return nil
}

// modeOf lets scripts be executed.
func modeOf(name string) os.FileMode {
	if filepath.Ext(name) == ".sh" {
		return 0o755
	}
	return 0o644
}

// targets are OpenWrt's names for the processors on which a machine's program runs.
var targets = map[string]string{
	"amd64": "x86_64", "arm64": "aarch64_*", "armv7": "arm_cortex-a*", "mipsle": "mipsel_*",
}

// refusal writes the script by which a router refuses a package for another processor.
func (p *packing) refusal() error {
	text, err := os.ReadFile(filepath.Join(p.root, "deploy/package/openwrt-preinst"))
	if err != nil {
		return fmt.Errorf("read script: %w", err)
	}
	target, ok := targets[p.arch]
	if !ok {
		target = p.arch
	}
	return os.WriteFile(p.staged("preinst"), bytes.ReplaceAll(text, []byte("TARGETS"), []byte(target)), 0o755)
}

// pack has nfpm write a package into a directory, and returns the package's name.
func (p *packing) pack(ctx context.Context, kind, out string) (string, error) {
	f, ok := formats[kind]
	if !ok {
		return "", fmt.Errorf("no format is called %q", kind)
	}
	name := filepath.Join(out, f.file(p.version, p.arch))
	target, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	begin(p.steps, "write "+filepath.Base(name))
	if err := errors.Join(os.MkdirAll(out, 0o755), p.config(f, kind), p.settle()); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, p.staged("nfpm"), "package", "--config", p.staged(f.config), "--packager", kind, "--target", target)
	cmd.Dir = p.root
	cmd.Env = append(os.Environ(), "STAGE="+p.stage, "NFPM_ARCH="+nfpmName(p.arch), "VERSION="+f.version(p.version), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", p.at.Unix()))
	_, err = output(cmd)
	return name, err
}

// config writes nfpm's file: nfpm itself does not look for variables everywhere. Its own
// changelog is for rpm alone; for a deb it would have the name of another kind of package.
func (p *packing) config(f format, kind string) error {
	changelog, license := "", "Apache-2.0"
	switch kind {
	case "rpm":
		changelog = p.staged("changelog.yaml")
	case "deb":
		license = "" // no field of Debian's
	}
	text, err := os.ReadFile(filepath.Join(p.root, "deploy/package", f.config))
	if err != nil {
		return fmt.Errorf("read configuration of nfpm: %w", err)
	}
	set := strings.NewReplacer("${STAGE}", p.stage, "${CHANGELOG}", changelog, "${MAINTAINER}", p.maintainer, "${LICENSE}", license)
	return os.WriteFile(p.staged(f.config), []byte(set.Replace(string(text))), 0o644)
}

// settle gives all that is staged the packages' time, and modes that this process's umask
// has no part in: for a tree, nfpm takes those of the files.
func (p *packing) settle() error {
	return filepath.WalkDir(p.stage, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return errors.Join(os.Chmod(name, mode), os.Chtimes(name, p.at, p.at))
	})
}
