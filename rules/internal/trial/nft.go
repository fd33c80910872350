package trial

import "regexp"

var queueStatement = regexp.MustCompile(`queue num [0-9-]+( (bypass|fanout)(,fanout)?)?`)

// Counting returns nft rules that count what they would queue. Not every kernel has
// nftables' queue; make test-vm runs the rules as they are.
func Counting(text string) string { return queueStatement.ReplaceAllString(text, "counter") }
