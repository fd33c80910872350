package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// FastPath is the fast path that a daemon wants.
type FastPath struct {
	Mode       string   `json:"mode"`       // as --fastpath; "off" also where the data path has none
	Interfaces []string `json:"interfaces"` // as --fastpath-interfaces
	Dir        string   `json:"dir"`        // as --fastpath-dir
}

func (s *Server) serveFastPath(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	// A reader that went away is the only way for this to fail.
	_ = json.NewEncoder(w).Encode(s.fastPath)
}

// FastPath asks which fast path the daemon wants. The error is ErrNotRunning if no daemon runs.
func (c Client) FastPath(ctx context.Context) (FastPath, error) {
	var f FastPath
	body, err := c.get(ctx, "/fastpath")
	if err != nil {
		return f, err
	}
	if err := c.read(ctx, body, &f); err != nil {
		return FastPath{}, fmt.Errorf("read which fast path the daemon wants: %w", err)
	}
	return f, nil
}
