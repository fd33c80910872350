package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"pptpalg/cmd/pptpalg/internal/schema"
)

// ErrOtherVersion is that the daemon and this program do not understand each other.
var ErrOtherVersion = errors.New("the daemon is another version")

// read decodes an answer and closes it. An answer of another shape, or of another version of it,
// is another daemon's.
func (c Client) read(ctx context.Context, body io.ReadCloser, v any) error {
	var raw json.RawMessage
	err := errors.Join(json.NewDecoder(body).Decode(&raw), body.Close())
	if wrong := (*json.SyntaxError)(nil); errors.As(err, &wrong) {
		return c.otherVersion(ctx, "")
	}
	if err != nil {
		return err
	}
	return c.decode(ctx, raw, v)
}

func (c Client) decode(ctx context.Context, raw json.RawMessage, v any) error {
	if current(raw) && json.Unmarshal(raw, v) == nil {
		return nil
	}
	return c.otherVersion(ctx, "")
}

// current reports whether a document, or the first of an array, has this program's version. One
// that states none has it.
func current(raw json.RawMessage) bool {
	in := json.NewDecoder(bytes.NewReader(raw))
	if raw[0] == '[' {
		_, _ = in.Token() // the bracket
	}
	if !in.More() {
		return true
	}
	head := struct {
		Version *int `json:"schema_version"`
	}{}
	return in.Decode(&head) == nil && (head.Version == nil || *head.Version == schema.SchemaVersion)
}

// unserved reports whether a reply is that of a daemon that does not know the request.
func unserved(status int, why []byte) bool {
	return status == http.StatusMethodNotAllowed || status == http.StatusNotFound && string(why) == "404 page not found"
}

// statusPath has the daemon's version in its answer.
const statusPath = "/status"

// otherVersion says which version the daemon is, as far as it tells. what was not answered.
func (c Client) otherVersion(ctx context.Context, what string) error {
	name := ""
	if what != statusPath {
		name = c.version(ctx)
	}
	return fmt.Errorf("%w%s: restart it, or use its own program", ErrOtherVersion, name)
}

// version is the daemon's version in brackets, "" if it tells none.
func (c Client) version(ctx context.Context) string {
	body, err := c.get(ctx, statusPath)
	if err != nil {
		return ""
	}
	defer body.Close()
	var st struct{ Version string }
	if json.NewDecoder(body).Decode(&st) != nil || st.Version == "" {
		return ""
	}
	return " (" + strings.Trim(st.Version, "()") + ")"
}
