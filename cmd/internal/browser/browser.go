package browser

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// patience is how long an answer of the browser is awaited. Its first one takes seconds on a
// loaded machine.
const patience = 20 * time.Second

// Program is Debian's name of Chromium.
const Program = "chromium"

// Browser is a Chromium that runs. Its methods may be called from any goroutine.
type Browser struct {
	cmd   *exec.Cmd
	write *os.File
	done  chan struct{} // closed when the browser has ended

	mu      sync.Mutex // guards what follows, and what is written
	last    int        // number of the last request
	waiting map[int]chan message
	tabs    map[string]*Tab // by session
}

// message is a request, its answer, or an event.
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// Start starts a browser with a new profile in a directory that is empty. start starts the
// program: cmd.Start in the namespace that it is to run in. The caller must call Close.
func Start(profile string, start func(*exec.Cmd) error) (*Browser, error) {
	theirRead, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	read, theirWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make pipe: %w", err), theirRead.Close(), write.Close())
	}
	cmd := exec.Command(Program, "--headless", "--remote-debugging-pipe", "--user-data-dir="+profile,
		"--no-sandbox", // which root cannot have
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--hide-scrollbars", "--force-color-profile=srgb",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "about:blank")
	cmd.ExtraFiles = []*os.File{theirRead, theirWrite} // 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = errors.Join(start(cmd), theirRead.Close(), theirWrite.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", Program, err), read.Close(), write.Close())
	}
	b := &Browser{cmd: cmd, write: write, done: make(chan struct{}), waiting: make(map[int]chan message), tabs: make(map[string]*Tab)}
	go b.listen(read)
	return b, nil
}

// Close ends the browser.
func (b *Browser) Close() error {
	err := b.call("", "Browser.close", nil, nil)
	if err == nil {
		select {
		case <-b.done:
		case <-time.After(patience):
			err = fmt.Errorf("end %s: it does not", Program)
		}
	}
	// Children are left where it crashed; else the group is gone.
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
	<-b.done
	_ = b.cmd.Wait() // it was killed, or says how well it closed
	return errors.Join(err, b.write.Close())
}

// listen takes what the browser says until it ends. Messages end with a zero byte.
func (b *Browser) listen(read *os.File) {
	defer close(b.done)
	defer read.Close()
	for in := bufio.NewReader(read); ; {
		text, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		m.Params = new(json.RawMessage)
		if json.Unmarshal(text[:len(text)-1], &m) == nil {
			b.take(m)
		}
	}
}

func (b *Browser) take(m message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if answer, ok := b.waiting[m.ID]; ok && m.ID != 0 {
		answer <- m
		delete(b.waiting, m.ID)
		return
	}
	if tab, ok := b.tabs[m.Session]; ok {
		params, _ := m.Params.(*json.RawMessage)
		tab.note(m.Method, *params)
	}
}

// call asks the browser, or a tab by its session. result may be nil.
func (b *Browser) call(session, method string, params, result any) error {
	answer, err := b.send(message{Session: session, Method: method, Params: params})
	if err != nil {
		return fmt.Errorf("ask browser for %s: %w", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("ask browser for %s: %s", method, m.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-b.done:
		return fmt.Errorf("ask browser for %s: %w", method, io.ErrUnexpectedEOF)
	case <-time.After(patience):
		return fmt.Errorf("ask browser for %s: no answer within %v", method, patience)
	}
}

func (b *Browser) send(m message) (<-chan message, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	m.ID = b.last
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	answer := make(chan message, 1)
	b.waiting[m.ID] = answer
	_, err = b.write.Write(append(text, 0))
	return answer, err
}
