package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/history"
)

// The causes of this file are about TCP connections that do not come about.

// dialling is for how long after a SYN the client's TCP may send it again: it doubles the pauses between them.
const dialling = 35 * time.Second

// dials reports whether a connection is a handshake that is going on now.
func (j *judge) dials(c *calls.Connection) bool {
	if !c.Opening {
		return false
	}
	asked := j.asked(c)
	if asked.IsZero() {
		return len(j.Calls) == 0 && !j.alive()
	}
	return j.Now.Sub(asked) < dialling
}

// unanswered looks for TCP handshakes that do not end.
func (j *judge) unanswered() {
	for _, c := range j.Connections {
		switch {
		case j.dials(&c):
			j.dialled(&c)
		case c.Closing && len(j.seen) == 0 && len(j.Calls) == 0 && !j.alive():
			j.rules() // without them nothing would have been seen of any message
			j.add("closed_early", fmt.Sprintf("TCP to %v was closed before any message", c.Original.Dst),
				"check what listens there, and whether it accepts the client")
		}
	}
}

// dialled tells of a handshake that is going on.
func (j *judge) dialled(c *calls.Connection) {
	if c.Answered {
		j.lostAnswer(c)
		return
	}
	if exposed(c) {
		j.add("untranslated", fmt.Sprintf("the SYN of %v left for %v with its inside address and got no answer: no NAT rule applies on that route", c.Original.Src, c.Original.Dst),
			"add masquerading or SNAT for the interface that \"ip route get "+c.Original.Dst.Addr().String()+"\" names")
	}
	j.strangeAddress(c)
	j.add("server_no_answer", fmt.Sprintf("%v does not answer: the SYN was forwarded to it, and nothing came back", c.Original.Dst),
		fmt.Sprintf("check that the server is up, that nothing between the gateway and it blocks TCP port %d, and that the route for its answers leads back through this gateway", c.Original.Dst.Port()))
}

// exposed reports whether a SYN left with the client's inside address.
func exposed(c *calls.Connection) bool {
	return !c.Translated() && c.Original.Src.Addr().IsPrivate() && !c.Original.Dst.Addr().IsPrivate()
}

// triedBefore looks for handshakes that did not end and that the client no longer tries. They explain nothing of what
// is now.
func (j *judge) triedBefore() {
	if len(j.Calls) > 0 {
		return
	}
	for _, c := range j.Connections {
		if !c.Opening || j.dials(&c) {
			continue
		}
		when := ""
		if asked := j.asked(&c); !asked.IsZero() {
			when = ", the last time at " + j.ago(asked)
		}
		switch {
		case c.Answered:
			j.add("answer_lost_before", fmt.Sprintf("%v answered %v, and TCP's handshake went no further%s", c.Original.Dst, c.Original.Src.Addr(), when),
				`if that happens again, ask again while the client dials`)
		case exposed(&c):
			j.add("untranslated_before", fmt.Sprintf("the SYN of %v left for %v with its inside address and got no answer%s: no NAT rule applied to it", c.Original.Src, c.Original.Dst, when),
				`"pptpalg check", as root, says whether a rule translates addresses now; then dial again`)
		default:
			j.add("no_answer_before", fmt.Sprintf("a SYN to %v was not answered%s", c.Original.Dst, when),
				"if the client still dials there, check that the server is up")
		}
	}
}

// refusedTCP looks for refusals after all that was seen of the client, by a server that it has dialled.
func (j *judge) refusedTCP() {
	for _, r := range j.Refusals {
		if len(j.seen) > 0 && r.Time.After(j.seen[len(j.seen)-1].Time) && (r.To.Addr() == j.Client || j.dialledBefore(r.Server)) {
			j.refusal(r)
		}
	}
}

func (j *judge) dialledBefore(server netip.AddrPort) bool {
	return slices.ContainsFunc(j.seen, func(e history.Event) bool { return e.Ends[calls.Responder].Public == server })
}

// refusal tells of a TCP connection that a server refused.
func (j *judge) refusal(r Refusal) {
	whose := ", perhaps this client's"
	if r.To.Addr() == j.Client {
		whose = ""
	}
	j.add("server_refused_tcp", fmt.Sprintf("%v refused a TCP connection at %s%s", r.Server, j.ago(r.Time), whose),
		"check that a PPTP server listens there, and that no firewall rejects the connection")
}
