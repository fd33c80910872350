package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	"pptpalg/alg"
	"pptpalg/alg/calls"
)

// EndedCall is what became of a call that was ended by a command.
type EndedCall struct {
	Number uint64  `json:"number"`
	Others int     `json:"others"` // calls that the control connection goes on with; with 0 it has ended too
	Resets []Reset `json:"resets"` // what tells the ends of the control connection that it has ended
}

// Reset is a RST in the name of one end of a control connection, before the kernel translates
// it.
type Reset struct {
	Src      netip.AddrPort `json:"src"`
	Dst      netip.AddrPort `json:"dst"`
	Sequence uint32         `json:"sequence"`
}

func newEndedCall(number uint64, done alg.Ended) EndedCall {
	e := EndedCall{Number: number, Others: done.Others, Resets: []Reset{}}
	if done.Others > 0 {
		return e
	}
	for side, t := range map[calls.Side]calls.Tuple{calls.Initiator: done.Connection.Original, calls.Responder: done.Connection.Reply} {
		if done.Placed[side] {
			e.Resets = append(e.Resets, Reset{t.Src, t.Dst, uint32(done.Next[side])})
		}
	}
	return e
}

func (s *Server) serveEnd(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.ParseUint(r.FormValue("call"), 10, 64)
	if err != nil {
		http.Error(w, "call: want the number of a call", http.StatusBadRequest)
		return
	}
	done, err := s.end(number)
	switch {
	case errors.Is(err, alg.ErrNoCall):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		w.Header().Set("Content-Type", "application/json")
		// A reader that went away is the only way for this to fail.
		_ = json.NewEncoder(w).Encode(newEndedCall(number, done))
	}
}

// EndCall has the daemon end a call by its number.
func (c Client) EndCall(ctx context.Context, number uint64) (e EndedCall, err error) {
	body, err := c.ask(ctx, http.MethodPost, "/calls/end?call="+url.QueryEscape(strconv.FormatUint(number, 10)))
	if err != nil {
		return e, err
	}
	if err := c.read(ctx, body, &e); err != nil {
		return EndedCall{}, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return e, nil
}
