package image

import (
	"errors"
	"fmt"
	"strings"
)

// lexer splits a line into words as a Dockerfile does: quotes, backslashes, and variables
// ($name, ${name}, ${name:-default}, ${name:+alternative}; Dockerfile reference, "Environment
// replacement").
type lexer struct {
	in     string
	lookup func(name string) (string, bool)
	word   strings.Builder
	inWord bool
	words  []string
}

func splitWords(s string, lookup func(string) (string, bool)) ([]string, error) {
	l := &lexer{in: s, lookup: lookup}
	for l.in != "" {
		if err := l.next(); err != nil {
			return nil, err
		}
	}
	l.endWord()
	return l.words, nil
}

func (l *lexer) endWord() {
	if l.inWord {
		l.words = append(l.words, l.word.String())
		l.word.Reset()
		l.inWord = false
	}
}

func (l *lexer) take() byte {
	c := l.in[0]
	l.in = l.in[1:]
	return c
}

func (l *lexer) next() error {
	c := l.take()
	if c == ' ' || c == '\t' || c == '\n' {
		l.endWord()
		return nil
	}
	l.inWord = true
	switch {
	case c == '\'':
		quoted, rest, closed := strings.Cut(l.in, "'")
		if !closed {
			return errors.New("a single quote is not closed")
		}
		l.word.WriteString(quoted)
		l.in = rest
	case c == '"':
		return l.doubleQuoted()
	case c == '\\' && l.in != "":
		l.word.WriteByte(l.take())
	case c == '$':
		return l.variable()
	default:
		l.word.WriteByte(c)
	}
	return nil
}

func (l *lexer) doubleQuoted() error {
	for l.in != "" {
		switch c := l.take(); {
		case c == '"':
			return nil
		case c == '\\' && l.in != "" && strings.IndexByte(`"$\`, l.in[0]) >= 0:
			l.word.WriteByte(l.take())
		case c == '$':
			if err := l.variable(); err != nil {
				return err
			}
		default:
			l.word.WriteByte(c)
		}
	}
	return errors.New("a double quote is not closed")
}

func isVariable(c byte) bool { return isAlnum(c) || c == '_' }

func (l *lexer) variable() error {
	if !strings.HasPrefix(l.in, "{") {
		n := span(l.in, isVariable)
		if n == 0 {
			l.word.WriteByte('$')
			return nil
		}
		value, _ := l.lookup(l.in[:n])
		l.word.WriteString(value)
		l.in = l.in[n:]
		return nil
	}
	inside, rest, closed := strings.Cut(l.in[1:], "}")
	if !closed {
		return errors.New("${ is not closed")
	}
	l.in = rest
	n := span(inside, isVariable)
	name, operator := inside[:n], inside[n:]
	value, set := l.lookup(name)
	switch {
	case n == 0:
		return fmt.Errorf("${%s} names no variable", clip(inside))
	case operator == "":
	case strings.HasPrefix(operator, ":-"):
		if !set || value == "" {
			value = operator[2:]
		}
	case strings.HasPrefix(operator, ":+"):
		if set && value != "" {
			value = operator[2:]
		}
	default:
		return fmt.Errorf("${%s}: use ${name}, ${name:-default} or ${name:+alternative}", clip(inside))
	}
	l.word.WriteString(value)
	return nil
}
