package journal

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/record"
)

// promptly is far more than a call takes that does not wait for the disk, and less than a disk
// that does not answer.
const promptly = 5 * time.Second

// disk is a directory on a file system of its own.
type disk struct {
	t   *testing.T
	dir string
}

// newDisk returns an ext4 file system, which can be frozen.
func newDisk(t *testing.T) disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}
	d := disk{t, t.TempDir()}
	d.command("mkfs.ext4", "-q", image)
	d.command("mount", "-o", "loop", image, d.dir)
	t.Cleanup(func() { d.command("umount", "-l", d.dir) })
	return d
}

// newMemoryDisk returns a tmpfs.
func newMemoryDisk(t *testing.T) disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	d := disk{t, t.TempDir()}
	d.command("mount", "-t", "tmpfs", "-o", "size=256k", "none", d.dir)
	t.Cleanup(func() { d.command("umount", "-l", d.dir) })
	return d
}

func (d disk) command(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// freeze has all who write wait until thaw is called.
func (d disk) freeze() (thaw func()) {
	d.t.Helper()
	d.command("fsfreeze", "-f", d.dir)
	frozen := true
	thaw = func() {
		if frozen {
			d.command("fsfreeze", "-u", d.dir)
		}
		frozen = false
	}
	d.t.Cleanup(thaw)
	return thaw
}

// fill leaves no room.
func (d disk) fill() (free func()) {
	d.t.Helper()
	path := filepath.Join(d.dir, "fill")
	f, err := os.Create(path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{4096, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, n))
		}
		if !errors.Is(err, unix.ENOSPC) {
			d.t.Fatal(err)
		}
		err = nil
	}
	return func() {
		if err := os.Remove(path); err != nil {
			d.t.Fatal(err)
		}
	}
}

// appendAll appends calls one by one, none of which may wait for the disk, and returns the
// errors.
func appendAll(t *testing.T, j *Journal, numbers ...uint64) (errs []error) {
	t.Helper()
	for _, n := range numbers {
		began := time.Now()
		errs = append(errs, j.Append(keep(n), at))
		if took := time.Since(began); took > promptly {
			t.Fatalf("an append took %v", took)
		}
	}
	return errs
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func wantNumbers(t *testing.T, c store.Contents, want ...uint64) {
	t.Helper()
	var got []uint64
	for _, r := range c.Calls {
		got = append(got, r.Number)
	}
	if !slices.Equal(got, want) {
		t.Errorf("it remembers %v, want %v", got, want)
	}
}

// TestFrozenDisk: nobody waits for a disk that does not answer for longer than a moment, and
// all is written when it is back.
func TestFrozenDisk(t *testing.T) {
	d := newDisk(t)
	j, _ := open(t, d.dir, "a")
	if errs := appendAll(t, j, 1); errs[0] != nil || !j.Whole() {
		t.Fatal(errs, j.Whole())
	}
	thaw := d.freeze()
	errs := appendAll(t, j, 2, 3, 4)
	if !errors.Is(errs[0], ErrBehind) || errs[1] != nil || errs[2] != nil || j.Whole() || j.Overgrown() {
		t.Errorf("while the disk is frozen: %v, whole: %v, overgrown: %v", errs, j.Whole(), j.Overgrown())
	}
	if _, _, err := Open(d.dir, "a"); !errors.Is(err, store.ErrTaken) && !errors.Is(err, ErrBehind) {
		t.Errorf("another one opens it: %v", err)
	}
	thaw()
	poll(t, "it does not catch up", j.Whole)
	if errs := appendAll(t, j, 5); errs[0] != nil {
		t.Error(errs)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, d.dir, "a")
	wantNumbers(t, c, 1, 2, 3, 4, 5)
}

// TestFrozenForLong: what waits has a limit, and is written from the table when the disk is
// back.
func TestFrozenForLong(t *testing.T) {
	d := newDisk(t)
	j, _ := open(t, d.dir, "a")
	thaw := d.freeze()
	appendAll(t, j, 1)
	for range 3 * mostWaiting / record.KeptSize {
		if err := j.Append(keep(2), at); err != nil {
			t.Fatal(err)
		}
	}
	j.mu.Lock()
	if n := cap(j.waiting); n > 2*mostWaiting {
		t.Errorf("%d bytes wait", n)
	}
	j.mu.Unlock()
	thaw()
	poll(t, "it does not catch up", j.Overgrown)
	if err := j.Rewrite([]calls.Record{call(7)}, nil); err != nil {
		t.Error(err)
	}
	poll(t, "it is not whole", j.Whole)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, d.dir, "a")
	wantNumbers(t, c, 7)
}

// TestFrozenWhenRewritten: a rewrite does not wait either, and what comes behind it is written
// behind it.
func TestFrozenWhenRewritten(t *testing.T) {
	d := newDisk(t)
	j, _ := open(t, d.dir, "a")
	appendAll(t, j, 1)
	thaw := d.freeze()
	appendAll(t, j, 2)
	began := time.Now()
	if err := j.Rewrite([]calls.Record{call(3)}, nil); err != nil || time.Since(began) > promptly {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	appendAll(t, j, 4)
	thaw()
	poll(t, "it does not catch up", j.Whole)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, d.dir, "a")
	wantNumbers(t, c, 3, 4)
}

func TestCloseWhileFrozen(t *testing.T) {
	d := newDisk(t)
	j, _ := open(t, d.dir, "a")
	thaw := d.freeze()
	appendAll(t, j, 1)
	if err := j.Close(); !errors.Is(err, ErrBehind) {
		t.Errorf("closed with %v", err)
	}
	thaw()
	<-j.done
	if err := j.file.close(); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, d.dir, "a")
	wantNumbers(t, c, 1)
}

// TestFrozenAtTheStart: it starts without what it remembers, and goes on when the disk is back.
func TestFrozenAtTheStart(t *testing.T) {
	d := newDisk(t)
	thaw := d.freeze()
	j, c, err := Open(d.dir, "a")
	if !errors.Is(err, ErrBehind) || len(c.Calls) != 0 {
		t.Fatalf("%v, %v", c, err)
	}
	appendAll(t, j, 1)
	thaw()
	poll(t, "it does not catch up", j.Overgrown)
	if err := j.Rewrite([]calls.Record{call(2)}, nil); err != nil {
		t.Error(err)
	}
	poll(t, "it is not whole", j.Whole)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, c = open(t, d.dir, "a")
	wantNumbers(t, c, 2)
}

// TestFullDisk: what finds no room leaves nothing behind, and the table is written when there
// is room.
func TestFullDisk(t *testing.T) {
	for name, d := range map[string]disk{"ext4": newDisk(t), "tmpfs": newMemoryDisk(t)} {
		t.Run(name, func(t *testing.T) {
			j, _ := open(t, d.dir, "a")
			if errs := appendAll(t, j, 1); errs[0] != nil {
				t.Fatal(errs)
			}
			free := d.fill()
			var err error
			numbers := []uint64{1} // that found room
			for n := uint64(2); n < 200 && err == nil; n++ {
				if err = appendAll(t, j, n)[0]; err == nil {
					numbers = append(numbers, n)
				}
			}
			if !errors.Is(err, unix.ENOSPC) || j.Whole() || !j.Overgrown() {
				t.Errorf("%v, whole: %v", err, j.Whole())
			}
			if err := j.Rewrite([]calls.Record{call(1)}, nil); !errors.Is(err, unix.ENOSPC) || j.Whole() {
				t.Errorf("rewritten: %v, whole: %v", err, j.Whole())
			}
			b, err := os.ReadFile(j.file.path())
			if err != nil {
				t.Fatal(err)
			}
			c, whole := read(j.file.head, b)
			if wantNumbers(t, c, numbers...); whole != len(b) {
				t.Errorf("%d of %d bytes are whole", whole, len(b))
			}
			free()
			if errs := appendAll(t, j, 201); errs[0] != nil || !j.Overgrown() {
				t.Error(errs, "it does not know what it lacks")
			}
			if err := j.Rewrite([]calls.Record{call(5)}, nil); err != nil || !j.Whole() || j.Overgrown() {
				t.Errorf("rewritten: %v, whole: %v", err, j.Whole())
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			_, c = open(t, d.dir, "a")
			wantNumbers(t, c, 5)
		})
	}
}

// TestUnusableDirectory: there is a journal all the same, and a file as soon as there can be.
func TestUnusableDirectory(t *testing.T) {
	inTheWay := filepath.Join(t.TempDir(), "in the way")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(inTheWay, "state")
	j, _, err := Open(dir, "a")
	if err == nil || j == nil || j.Whole() || !j.Overgrown() {
		t.Fatalf("%v", err)
	}
	if errs := appendAll(t, j, 1); !errors.Is(errs[0], errNoFile) {
		t.Error(errs)
	}
	if err := j.Rewrite(nil, nil); err == nil || j.Whole() {
		t.Error("it was written anew")
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := j.Rewrite([]calls.Record{call(1)}, nil); err != nil || !j.Whole() {
		t.Fatalf("%v, whole: %v", err, j.Whole())
	}
	if errs := appendAll(t, j, 2); errs[0] != nil {
		t.Error(errs)
	}
	if _, _, err := Open(dir, "a"); !errors.Is(err, store.ErrTaken) {
		t.Errorf("another one opens it: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, dir, "a")
	wantNumbers(t, c, 1, 2)
}

// TestReadOnlyDirectory: what the journal remembers counts, and nobody else may have it.
func TestReadOnlyDirectory(t *testing.T) {
	d := newMemoryDisk(t)
	j, _ := open(t, d.dir, "a")
	appendAll(t, j, 1)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	d.command("mount", "-o", "remount,ro", d.dir)
	j, c, err := Open(d.dir, "a")
	if !errors.Is(err, unix.EROFS) || j == nil || j.Whole() {
		t.Fatalf("%v", err)
	}
	wantNumbers(t, c, 1)
	d.command("mount", "-o", "remount,rw", d.dir)
	if err := j.Rewrite(c.Calls, nil); err != nil || !j.Whole() {
		t.Errorf("%v, whole: %v", err, j.Whole())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
