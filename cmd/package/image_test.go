package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
)

// imageFile is what make image has made.
var imageFile = flag.String("image", "", "container image that TestImage runs")

// TestImage has skopeo tell the machines of an image, and runs it as a container on a
// gateway, with the one right that it needs, and with nothing that it could write but one
// directory.
func TestImage(t *testing.T) {
	if *imageFile == "" {
		return
	}
	for _, m := range []struct{ arch, variant string }{{"amd64", ""}, {"arm64", ""}, {"arm", "v7"}} {
		var about struct{ Os, Architecture string }
		out := command(t, "skopeo", "inspect", "--override-arch", m.arch, "--override-variant", m.variant, "oci-archive:"+*imageFile)
		must(t, json.Unmarshal([]byte(out), &about))
		if about.Os != "linux" || about.Architecture != m.arch {
			t.Errorf("the image for %s is %+v", m.arch, about)
		}
	}
	r := &root{t: t}
	var err error
	r.Network, err = lab.New(lab.Options{Inside: 1, Outside: 1, Masquerade: true, Firewall: true})
	must(t, err)
	t.Cleanup(func() { must(t, r.Network.Close()) })
	c := newContainer(t)
	c.start(r)
	if plain := strings.Fields(c.exec("version")); len(plain) < 2 || !strings.Contains(*imageFile, "_"+plain[1]+"_") {
		t.Errorf("the program in %s says %q", *imageFile, plain)
	}
	call := r.dial()
	carries(t, call)
	if out := c.exec("calls"); !strings.Contains(out, "10.77.0.10/7") {
		t.Errorf("calls:\n%s", out)
	}
	c.stop()
	carries(t, call)
}

// container is one of runc's.
type container struct {
	t      *testing.T
	bundle string
	name   string
	log    *lab.Log
	p      *lab.Process
}

// newContainer unpacks the image for this machine.
func newContainer(t *testing.T) *container {
	t.Helper()
	dir := t.TempDir()
	layout, c := filepath.Join(dir, "layout"), &container{t: t, bundle: filepath.Join(dir, "bundle"), name: "pptpalg-" + filepath.Base(filepath.Dir(dir)), log: new(lab.Log)}
	command(t, "skopeo", "copy", "--quiet", "oci-archive:"+*imageFile, "oci:"+layout+":here")
	command(t, "umoci", "unpack", "--image", layout+":here", c.bundle)
	return c
}

// start runs what the image says, in the gateway's network, and waits until it edits.
func (c *container) start(r *root) {
	c.t.Helper()
	c.confine()
	cmd, err := r.Gateway.Command(context.Background(), "runc", "run", "--bundle", c.bundle, c.name)
	must(c.t, err)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	c.p, err = r.Gateway.Start(cmd)
	must(c.t, err)
	c.t.Cleanup(func() { _, _ = output(exec.Command("runc", "delete", "--force", c.name)) }) // it may be gone
	if err := lab.Poll(lab.Patience, func() bool { return strings.Contains(c.log.String(), "msg=started") }); err != nil {
		c.t.Fatalf("%v: %s", err, c.log)
	}
}

// confine has the container share the network of whoever starts it, and gives it one right.
func (c *container) confine() {
	c.t.Helper()
	name := filepath.Join(c.bundle, "config.json")
	text, err := os.ReadFile(name)
	must(c.t, err)
	var config map[string]any
	must(c.t, json.Unmarshal(text, &config))
	process, linux := config["process"].(map[string]any), config["linux"].(map[string]any)
	if args, _ := json.Marshal(process["args"]); string(args) != `["/usr/sbin/pptpalg","run"]` {
		c.t.Errorf("the image runs %s", args)
	}
	process["terminal"] = false
	rights := []string{"CAP_NET_ADMIN"}
	process["capabilities"] = map[string]any{"bounding": rights, "effective": rights, "permitted": rights}
	process["noNewPrivileges"] = true
	config["root"] = map[string]any{"path": "rootfs", "readonly": true}
	linux["namespaces"] = slices.DeleteFunc(linux["namespaces"].([]any), func(n any) bool { return n.(map[string]any)["type"] == "network" })
	config["mounts"] = append(config["mounts"].([]any), map[string]any{"destination": "/run/pptpalg", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "nodev", "noexec"}})
	text, err = json.Marshal(config)
	must(c.t, err)
	must(c.t, os.WriteFile(name, text, 0o600))
}

func (c *container) exec(args ...string) string {
	c.t.Helper()
	return command(c.t, append([]string{"runc", "exec", c.name, "/usr/sbin/pptpalg"}, args...)...)
}

// stop does what "podman stop" does.
func (c *container) stop() {
	c.t.Helper()
	command(c.t, "runc", "kill", c.name, "TERM")
	if err := c.p.Wait(20 * time.Second); err != nil {
		c.t.Errorf("stop: %v: %s", err, c.log)
	}
}
