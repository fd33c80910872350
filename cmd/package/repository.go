package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"pptpalg/cmd/internal/progress"
)

// repository is a directory of packages that others fetch: all that is in it is signed.
//
//	SHA256SUMS, SHA256SUMS.asc   of the packages beside them
//	pptpalg.gpg                  the public key, as apt takes it
//	apt/pool/main/p/pptpalg      the Debian packages of this and earlier releases
//	apt/dists/stable             what apt reads: InRelease, Release, Release.gpg, main/binary-…
type repository struct {
	dir   string
	key   string          // of GnuPG: a fingerprint or a name
	steps *progress.Steps // nil where nobody waits
}

const (
	keyring = "pptpalg.gpg"
	suite   = "stable"
	pool    = "pool/main/p/pptpalg"
)

// debArches are the machines that apt is told of.
var debArches = []string{"amd64", "arm64", "armhf"}

// releaseSteps is how many steps publish has.
const releaseSteps = 3

// publish signs the packages that are in the directory, and has apt find the Debian ones.
func (r repository) publish(ctx context.Context) error {
	packages, err := r.packages()
	if err != nil {
		return err
	}
	if r.key == "" {
		return errors.New(`no key to sign with: name one that "gpg --list-secret-keys" lists, or make one by "gpg --quick-gen-key 'pptpalg packages' ed25519 sign 2y"`)
	}
	begin(r.steps, "export the public key of "+r.key)
	if err := r.export(ctx); err != nil {
		return err
	}
	begin(r.steps, fmt.Sprintf("sign the check sums of %d packages", len(packages)))
	if err := r.sums(ctx, packages); err != nil {
		return err
	}
	begin(r.steps, "index the Debian packages")
	if err := r.fill(packages); err != nil {
		return err
	}
	return r.index(ctx)
}

func (r repository) path(name string) string { return filepath.Join(r.dir, name) }

// packages are the names of those that are there.
func (r repository) packages() ([]string, error) {
	var names []string
	for _, f := range formats {
		pattern := "*" + filepath.Ext(f.name)
		found, err := filepath.Glob(r.path(pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			names = append(names, filepath.Base(name))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no packages are in %s", r.dir)
	}
	slices.Sort(names)
	return names, nil
}

// gpg runs GnuPG, which may ask for a passphrase.
func (r repository) gpg(ctx context.Context, args ...string) ([]byte, error) {
	return output(exec.CommandContext(ctx, "gpg", append([]string{"--yes", "--quiet", "--local-user", r.key}, args...)...))
}

func (r repository) export(ctx context.Context) error {
	key, err := output(exec.CommandContext(ctx, "gpg", "--export", r.key))
	if err != nil {
		return err
	}
	if len(key) == 0 {
		return fmt.Errorf("gpg has no key %q", r.key)
	}
	return os.WriteFile(r.path(keyring), key, 0o644)
}

func (r repository) sums(ctx context.Context, packages []string) error {
	var all bytes.Buffer
	for _, name := range packages {
		text, err := os.ReadFile(r.path(name))
		if err != nil {
			return fmt.Errorf("sum up: %w", err)
		}
		fmt.Fprintf(&all, "%x  %s\n", sha256.Sum256(text), name)
	}
	const name = "SHA256SUMS"
	if err := os.WriteFile(r.path(name), all.Bytes(), 0o644); err != nil {
		return fmt.Errorf("sum up: %w", err)
	}
	_, err := r.gpg(ctx, "--armor", "--detach-sign", "--output", r.path(name+".asc"), r.path(name))
	return err
}

// fill puts the Debian packages into apt's pool, which keeps earlier releases.
func (r repository) fill(packages []string) error {
	into := r.path(filepath.Join("apt", pool))
	if err := os.MkdirAll(into, 0o755); err != nil {
		return fmt.Errorf("make pool: %w", err)
	}
	for _, name := range packages {
		if filepath.Ext(name) != ".deb" {
			continue
		}
		text, err := os.ReadFile(r.path(name))
		if err == nil {
			err = os.WriteFile(filepath.Join(into, name), text, 0o644)
		}
		if err != nil {
			return fmt.Errorf("fill pool: %w", err)
		}
	}
	return nil
}

// index writes what apt reads of the pool, beside what is there, and then puts it in its place.
func (r repository) index(ctx context.Context) error {
	dists := r.path("apt/dists")
	part, place := filepath.Join(dists, "."+suite+".part"), filepath.Join(dists, suite)
	if err := os.RemoveAll(part); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	for _, arch := range debArches {
		list, err := r.ftparchive(ctx, "--arch", arch, "packages", "pool")
		if err != nil {
			return err
		}
		if err := writeList(filepath.Join(part, "main", "binary-"+arch), list); err != nil {
			return err
		}
	}
	if err := r.sign(ctx, part); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(place), os.Rename(part, place))
}

// ftparchive runs apt-ftparchive in apt's part of the tree.
func (r repository) ftparchive(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-ftparchive", args...)
	cmd.Dir = r.path("apt")
	return output(cmd)
}

func writeList(dir string, list []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	name := filepath.Join(dir, "Packages")
	if err := os.WriteFile(name, list, 0o644); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return compress(name, name+".gz")
}

// sign writes the file that has the check sums of all others, and its signatures.
func (r repository) sign(ctx context.Context, dir string) error {
	args := []string{}
	for _, set := range []string{"Origin=pptpalg", "Label=pptpalg", "Suite=" + suite, "Codename=" + suite, "Components=main", "Architectures=" + strings.Join(debArches, " ")} {
		args = append(args, "-o", "APT::FTPArchive::Release::"+set)
	}
	text, err := r.ftparchive(ctx, append(args, "release", filepath.Join("dists", filepath.Base(dir)))...)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, "Release")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	_, err = r.gpg(ctx, "--clearsign", "--output", filepath.Join(dir, "InRelease"), name)
	if err != nil {
		return err
	}
	_, err = r.gpg(ctx, "--armor", "--detach-sign", "--output", name+".gpg", name)
	return err
}
