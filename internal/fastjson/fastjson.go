// Package fastjson decodes JSON into structs, once.
//
// Package encoding/json builds, for all types that can be reached from the one it is given, what it would
// need to encode them: 0.5 ms and 230 KB for a runtime specification, of which there is one in the life of a
// program that decodes it. The results are the same; the tests compare them.
package fastjson

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep objects and arrays may lie in each other, as in encoding/json.
const maxDepth = 10000

// ErrSyntax is wrapped when the text is no JSON (RFC 8259).
var ErrSyntax = errors.New("no valid JSON")

// Unmarshal is [encoding/json.Unmarshal] for what runtime specifications are made of: structs (with fields of
// embedded ones, and tags), pointers, slices, maps by strings, strings, numbers and booleans. It fails for
// other types if the text has something for them. Its errors have no offsets.
func Unmarshal(text []byte, to any) error {
	v := reflect.ValueOf(to)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return errors.New("fastjson: the target is no pointer")
	}
	d := &decoder{text: text, fields: make(map[reflect.Type][]field)}
	d.value(v.Elem())
	d.space()
	if d.at < len(d.text) {
		d.fail()
	}
	if d.syntax != nil {
		return d.syntax
	}
	return d.mismatch
}

type decoder struct {
	text     []byte
	at       int
	depth    int
	fields   map[reflect.Type][]field
	syntax   error // ends the decoding
	mismatch error // the first value that does not fit its type: the others are decoded all the same
}

type field struct {
	name  string
	index []int
}

func (d *decoder) fail() {
	if d.syntax == nil {
		d.syntax = fmt.Errorf("%w: at byte %d", ErrSyntax, d.at+1)
	}
	d.at = len(d.text)
}

// unfit remembers that a value does not fit.
func (d *decoder) unfit(what string, to reflect.Value) {
	if d.mismatch == nil {
		d.mismatch = fmt.Errorf("a %s where a value of type %s should be", what, to.Type())
	}
}

func (d *decoder) space() {
	for d.at < len(d.text) {
		switch d.text[d.at] {
		case ' ', '\t', '\r', '\n':
			d.at++
		default:
			return
		}
	}
}

// next gives the next byte that is no space, 0 at the end.
func (d *decoder) next() byte {
	d.space()
	if d.at < len(d.text) {
		return d.text[d.at]
	}
	return 0
}

// take takes a byte that must be next.
func (d *decoder) take(c byte) bool {
	if d.next() != c {
		d.fail()
		return false
	}
	d.at++
	return true
}

// value decodes the next value; into nothing if to is not valid.
func (d *decoder) value(to reflect.Value) {
	c := d.next()
	if c == 'n' {
		if d.word("null") && to.IsValid() && slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface}, to.Kind()) {
			to.SetZero()
		}
		return
	}
	for to.IsValid() && to.Kind() == reflect.Pointer {
		if to.IsNil() {
			to.Set(reflect.New(to.Type().Elem()))
		}
		to = to.Elem()
	}
	switch {
	case c == '{':
		d.nested(to, d.object)
	case c == '[':
		d.nested(to, d.array)
	case c == '"':
		d.stringTo(to)
	case c == 't' && d.word("true"), c == 'f' && d.word("false"):
		d.boolean(to, c == 't')
	case c == '-' || '0' <= c && c <= '9':
		d.number(to)
	default:
		d.fail()
	}
}

func (d *decoder) nested(to reflect.Value, decode func(reflect.Value)) {
	d.at++
	if d.depth++; d.depth > maxDepth {
		d.fail()
	}
	decode(to)
	d.depth--
}

func (d *decoder) word(w string) bool {
	if !strings.HasPrefix(string(d.text[d.at:min(len(d.text), d.at+len(w))]), w) {
		d.fail()
		return false
	}
	d.at += len(w)
	return true
}

// members calls member for each, up to the end.
func (d *decoder) members(end byte, member func()) {
	if d.next() == end {
		d.at++
		return
	}
	for d.syntax == nil {
		member()
		switch d.next() {
		case ',':
			d.at++
		case end:
			d.at++
			return
		default:
			d.fail()
		}
	}
}

func (d *decoder) object(to reflect.Value) {
	var into func(name string) reflect.Value
	var done func(name string, v reflect.Value)
	switch {
	case !to.IsValid():
	case to.Kind() == reflect.Struct:
		into = func(name string) reflect.Value { return d.field(to, name) }
	case to.Kind() == reflect.Map && to.Type().Key().Kind() == reflect.String:
		if to.IsNil() {
			to.Set(reflect.MakeMap(to.Type()))
		}
		into = func(string) reflect.Value { return reflect.New(to.Type().Elem()).Elem() }
		done = func(name string, v reflect.Value) {
			to.SetMapIndex(reflect.ValueOf(name).Convert(to.Type().Key()), v)
		}
	default:
		d.unfit("object", to)
	}
	d.members('}', func() {
		if d.next() != '"' {
			d.fail()
			return
		}
		name := d.str()
		if !d.take(':') {
			return
		}
		var v reflect.Value
		if into != nil {
			v = into(name)
		}
		if d.value(v); done != nil && d.syntax == nil {
			done(name, v)
		}
	})
}

// field gives the field of a name: that of exactly this name, or else one that differs in case only.
func (d *decoder) field(to reflect.Value, name string) reflect.Value {
	all, ok := d.fields[to.Type()]
	if !ok {
		all = fieldsOf(to.Type(), nil)
		d.fields[to.Type()] = all
	}
	for _, f := range all {
		if f.name == name {
			return to.FieldByIndex(f.index)
		}
	}
	for _, f := range all {
		if strings.EqualFold(f.name, name) {
			return to.FieldByIndex(f.index)
		}
	}
	return reflect.Value{}
}

// fieldsOf lists a struct's fields, and those of structs that are embedded in it.
func fieldsOf(t reflect.Type, above []int) []field {
	var own, embedded []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(slices.Clip(above), i)
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			embedded = append(embedded, fieldsOf(f.Type, index)...)
		case name == "":
			own = append(own, field{f.Name, index})
		default:
			own = append(own, field{name, index})
		}
	}
	return append(own, embedded...)
}

func (d *decoder) array(to reflect.Value) {
	fits := to.IsValid() && to.Kind() == reflect.Slice
	if to.IsValid() && !fits {
		d.unfit("list", to)
	}
	n := 0
	d.members(']', func() {
		if !fits {
			d.value(reflect.Value{})
			return
		}
		if n < to.Cap() {
			to.SetLen(n + 1)
			to.Index(n).SetZero()
		} else {
			to.Set(reflect.Append(to, reflect.Zero(to.Type().Elem())))
		}
		d.value(to.Index(n))
		n++
	})
	switch {
	case !fits:
	case n == 0:
		to.Set(reflect.MakeSlice(to.Type(), 0, 0))
	default:
		to.SetLen(n)
	}
}

func (d *decoder) stringTo(to reflect.Value) {
	s := d.str()
	switch {
	case !to.IsValid():
	case to.Kind() == reflect.String:
		to.SetString(s)
	default:
		d.unfit("string", to)
	}
}

func (d *decoder) boolean(to reflect.Value, b bool) {
	switch {
	case !to.IsValid():
	case to.Kind() == reflect.Bool:
		to.SetBool(b)
	default:
		d.unfit("boolean", to)
	}
}

// digits takes digits, and tells how many.
func (d *decoder) digits() int {
	from := d.at
	for d.at < len(d.text) && '0' <= d.text[d.at] && d.text[d.at] <= '9' {
		d.at++
	}
	return d.at - from
}

func (d *decoder) number(to reflect.Value) {
	from := d.at
	if d.text[d.at] == '-' {
		d.at++
	}
	zero := d.at < len(d.text) && d.text[d.at] == '0'
	if n := d.digits(); n == 0 || zero && n > 1 {
		d.fail()
		return
	}
	if d.at < len(d.text) && d.text[d.at] == '.' {
		d.at++
		if d.digits() == 0 {
			d.fail()
			return
		}
	}
	if d.at < len(d.text) && d.text[d.at]|0x20 == 'e' {
		d.at++
		if d.at < len(d.text) && (d.text[d.at] == '+' || d.text[d.at] == '-') {
			d.at++
		}
		if d.digits() == 0 {
			d.fail()
			return
		}
	}
	d.setNumber(to, string(d.text[from:d.at]))
}

func (d *decoder) setNumber(to reflect.Value, s string) {
	fits := false
	switch {
	case !to.IsValid():
		return
	case to.CanInt():
		n, err := strconv.ParseInt(s, 10, 64)
		if fits = err == nil && !to.OverflowInt(n); fits {
			to.SetInt(n)
		}
	case to.CanUint():
		n, err := strconv.ParseUint(s, 10, 64)
		if fits = err == nil && !to.OverflowUint(n); fits {
			to.SetUint(n)
		}
	case to.CanFloat():
		n, err := strconv.ParseFloat(s, to.Type().Bits())
		if fits = err == nil && !math.IsInf(n, 0); fits {
			to.SetFloat(n)
		}
	}
	if !fits {
		d.unfit("number "+s, to)
	}
}

// str takes a string. Bytes that are no UTF-8, and halves of surrogate pairs, become U+FFFD.
func (d *decoder) str() string {
	d.at++
	from := d.at
	for d.at < len(d.text) { // most have nothing in them that is not itself
		switch c := d.text[d.at]; {
		case c == '"':
			s := string(d.text[from:d.at])
			d.at++
			return s
		case c == '\\' || c < ' ' || c >= utf8.RuneSelf:
			return d.escaped(append([]byte(nil), d.text[from:d.at]...))
		}
		d.at++
	}
	d.fail()
	return ""
}

// escaped takes the rest of a string whose beginning is s.
func (d *decoder) escaped(s []byte) string {
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return string(s)
		case c == '\\':
			d.at++
			s = d.escape(s)
		case c < ' ':
			d.fail()
		default:
			r, size := utf8.DecodeRune(d.text[d.at:])
			s = utf8.AppendRune(s, r)
			d.at += size
		}
	}
	d.fail()
	return ""
}

func (d *decoder) escape(s []byte) []byte {
	if d.at >= len(d.text) {
		d.fail()
		return s
	}
	c := d.text[d.at]
	d.at++
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		return append(s, "\"\\/\b\f\n\r\t"[i])
	}
	if c != 'u' {
		d.fail()
		return s
	}
	r := d.hex()
	if utf16.IsSurrogate(r) {
		if rest := d.text[d.at:]; len(rest) > 1 && rest[0] == '\\' && rest[1] == 'u' {
			at := d.at
			d.at += 2
			if pair := utf16.DecodeRune(r, d.hex()); pair != utf8.RuneError {
				return utf8.AppendRune(s, pair)
			}
			if d.syntax == nil {
				d.at = at // the other one stands for itself
			}
		}
		r = utf8.RuneError
	}
	return utf8.AppendRune(s, r)
}

// hex takes four hexadecimal digits.
func (d *decoder) hex() rune {
	const size = 4
	if len(d.text)-d.at < size {
		d.fail()
		return 0
	}
	digits := string(d.text[d.at : d.at+size])
	n, err := strconv.ParseUint(digits, 16, 16)
	if err != nil || strings.ContainsAny(digits, "+-_") {
		d.fail()
		return 0
	}
	d.at += size
	return rune(n)
}
