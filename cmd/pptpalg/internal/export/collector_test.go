package export

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Real collectors: rsyslogd and nfcapd, as Debian has them.

// program finds a program. Where it is missing, the test says so.
func program(t *testing.T, name, of string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatalf("%s is missing: install %s", name, of)
	}
	t.Skipf("%s is missing: install %s", name, of)
	return ""
}

// start runs a collector until the test ends, or until it is told to end.
func start(t *testing.T, name string, args ...string) (end func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	must(cmd.Start())
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(unix.SIGTERM)
		killer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		killer.Stop()
		if t.Failed() {
			t.Log(said.String())
		}
	}
	t.Cleanup(end)
	return end
}

// freePort is one that nobody has.
func freePort(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		must(err)
		defer c.Close()
		_, port, err := net.SplitHostPort(c.LocalAddr().String())
		must(err)
		return port
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(err)
	return port
}

// certificate makes one for 127.0.0.1 that vouches for itself, in files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, DNSNames: []string{"collector"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	must(err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	return cert, key
}

// once returns lines in order, each once, with single spaces: a collector that was not there
// yet may get a datagram twice.
func once(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " ")+"\n")
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

// TestRsyslog has rsyslogd take apart what it gets, over each transport.
func TestRsyslog(t *testing.T) {
	rsyslogd := program(t, "rsyslogd", "rsyslog and rsyslog-gnutls")
	cert, key := certificate(t)
	secret := fmt.Sprintf("?ca=%s&cert=%s&key=%s&name=collector", cert, cert, key)
	for scheme, module := range map[string]string{
		"syslog+udp": `module(load="imudp") input(type="imudp" address="127.0.0.1" port="PORT")`,
		"syslog+tcp": `module(load="imtcp") input(type="imtcp" address="127.0.0.1" port="PORT")`,
		"syslog+tls": fmt.Sprintf(`global(DefaultNetstreamDriver="gtls" DefaultNetstreamDriverCAFile="%s" DefaultNetstreamDriverCertFile="%s" DefaultNetstreamDriverKeyFile="%s")
			module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid") input(type="imtcp" address="127.0.0.1" port="PORT")`, cert, cert, key),
	} {
		t.Run(scheme, func(t *testing.T) {
			dir, port := t.TempDir(), freePort(t, strings.TrimPrefix(scheme, "syslog+"))
			file, conf := filepath.Join(dir, "got"), filepath.Join(dir, "conf")
			must(os.WriteFile(conf, []byte(strings.ReplaceAll(module, "PORT", port)+`
				module(load="mmpstrucdata")
				template(name="got" type="string" string="%syslogfacility-text%.%syslogseverity-text% %timestamp:::date-rfc3339% %hostname% %app-name% %msgid% public=%$!rfc5424-sd!pptpalg@32473!client_public%/%$!rfc5424-sd!pptpalg@32473!client_public_call_id% client=%$!rfc5424-sd!pptpalg@32473!client% %msg:1:6%\n")
				action(type="mmpstrucdata")
				action(type="omfile" file="`+file+`" template="got")
			`), 0o600))
			target := scheme + "://127.0.0.1:" + port
			if scheme == "syslog+tls" {
				target += secret + "&hostname=gw"
			} else {
				target += "?hostname=gw"
			}
			x := export(t, target)
			x.add(opened(1))
			start(t, rsyslogd, "-n", "-f", conf, "-i", filepath.Join(dir, "pid"))
			x.add(closed(2, true))
			want := "daemon.info 2026-01-02T12:00:00.123Z gw pptpalg opened public=192.0.2.1:2000/255 client=10.0.0.1:1000 opened\n" +
				"daemon.info 2026-01-02T12:00:01.623Z gw pptpalg closed public=192.0.2.1:2000/255 client=10.0.0.1:1000 closed\n"
			until(t, func() error {
				got, _ := os.ReadFile(file)
				if diff := cmp.Diff(want, once(string(got))); diff != "" {
					return fmt.Errorf("rsyslogd writes (-want +got):\n%s", diff)
				}
				return nil
			})
		})
	}
}

// TestNfdump has nfcapd take a call's two records, and nfdump show them.
func TestNfdump(t *testing.T) {
	nfcapd, nfdump := program(t, "nfcapd", "nfdump"), program(t, "nfdump", "nfdump")
	dir, port := t.TempDir(), freePort(t, "udp")
	end := start(t, nfcapd, "-w", dir, "-p", port, "-b", "127.0.0.1", "-t", "3600")
	x := export(t, "ipfix+udp://127.0.0.1:"+port)
	x.add(opened(1), translated(1), closed(1, true))
	x.until("both to be taken", func(s State) bool { return s.Delivered == 2 && s.Waiting == 0 })
	end()
	// nfdump names the events of RFC 8158 by their numbers only.
	const format = "fmt:%ts %te %pr %sap %xsap %dap %xdap %ipkt %ibyt %opkt %obyt"
	cmd := exec.Command(nfdump, "-R", dir, "-q", "-o", format)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.CombinedOutput()
	must(err)
	const names = " GRE 10.0.0.1:7 192.0.2.1:255 203.0.113.1:900 203.0.113.1:900 "
	const want = "2026-01-02 12:00:00.123 1970-01-01 00:00:00.000" + names + "0 0 0 0\n" +
		"2026-01-02 12:00:00.123 2026-01-02 12:00:01.623" + names + "4 200 3 144\n"
	if diff := cmp.Diff(want, once(string(out))); diff != "" {
		t.Errorf("nfdump shows (-want +got):\n%s", diff)
	}
}
