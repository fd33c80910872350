package check

import (
	"slices"
	"strings"
	"unicode"
)

// block is a statement of a configuration in the manner of keepalived and conntrackd: words, and
// perhaps statements in braces.
type block struct {
	words []string
	inner []block
}

// readBlocks reads a configuration in which one of the marks begins a comment. What it cannot read,
// the program whose it is cannot either.
func readBlocks(text, marks string) []block {
	open := []block{{}}
	var words []string
	end := func() {
		if top := &open[len(open)-1]; words != nil {
			top.inner = append(top.inner, block{words: words})
			words = nil
		}
	}
	for line := range strings.Lines(text) {
		for _, word := range wordsOf(line, marks) {
			switch {
			case word == "{":
				open = append(open, block{words: words})
				words = nil
			case word == "}" && len(open) > 1:
				end()
				done := open[len(open)-1]
				open = open[:len(open)-1]
				open[len(open)-1].inner = append(open[len(open)-1].inner, done)
			case word != "}":
				words = append(words, word)
			}
		}
		end()
	}
	return open[0].inner
}

// wordsOf divides a line. Quotes join words.
func wordsOf(line, marks string) []string {
	var quote rune
	comment := false
	return strings.FieldsFunc(strings.Map(func(r rune) rune {
		switch {
		case comment:
			return ' '
		case quote != 0 && r == quote:
			quote = 0
			return ' '
		case quote != 0 && unicode.IsSpace(r):
			return '\u00a0' // not what words are divided by
		case quote != 0:
		case r == '"' || r == '\'':
			quote = r
			return ' '
		case strings.ContainsRune(marks, r):
			comment = true
			return ' '
		}
		return r
	}, line), func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}

// is reports whether a block begins with words.
func (b block) is(words ...string) bool {
	return len(b.words) >= len(words) && slices.EqualFunc(b.words[:len(words)], words, strings.EqualFold)
}

// within returns the blocks that begin with a word, wherever they are.
func within(all []block, word string) []block {
	var found []block
	for _, b := range all {
		if b.is(word) {
			found = append(found, b)
		}
		found = append(found, within(b.inner, word)...)
	}
	return found
}

// value returns the second word of the first block within that begins with a word, "" if there is none.
func value(all []block, word string) string {
	for _, b := range within(all, word) {
		if len(b.words) > 1 {
			return b.words[1]
		}
	}
	return ""
}
