package format

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Duration puts a length of time in words as Docker does: "5 seconds", "About an hour".
func Duration(d time.Duration) string {
	seconds, minutes, hours := int(d.Seconds()), int(d.Minutes()), int(d.Hours()+0.5)
	switch {
	case seconds < 1:
		return "Less than a second"
	case seconds == 1:
		return "1 second"
	case seconds < 60:
		return fmt.Sprintf("%d seconds", seconds)
	case minutes == 1:
		return "About a minute"
	case minutes < 60:
		return fmt.Sprintf("%d minutes", minutes)
	case hours == 1:
		return "About an hour"
	case hours < 48:
		return fmt.Sprintf("%d hours", hours)
	case hours < 24*7*2:
		return fmt.Sprintf("%d days", hours/24)
	case hours < 24*30*2:
		return fmt.Sprintf("%d weeks", hours/24/7)
	case hours < 24*365*2:
		return fmt.Sprintf("%d months", hours/24/30)
	default:
		return fmt.Sprintf("%d years", int(d.Hours())/24/365)
	}
}

// Ago says how long ago something was, "" if the time is not known.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return Duration(now.Sub(t)) + " ago"
}

// Size puts a number of bytes in words as Docker does, with units of 1000: "4.21MB".
func Size(bytes int64) string {
	return sizeIn(bytes, 1000, "B", "kB", "MB", "GB", "TB", "PB")
}

// BinarySize is Size with units of 1024: "4.21MiB".
func BinarySize(bytes int64) string {
	return sizeIn(bytes, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB")
}

func sizeIn(bytes int64, factor float64, units ...string) string {
	size := float64(bytes)
	for size >= factor && len(units) > 1 {
		size /= factor
		units = units[1:]
	}
	return fmt.Sprintf("%.4g%s", size, units[0])
}

// Printable replaces what a terminal would obey in text that may come from anywhere.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r):
			return utf8.RuneError
		}
		return r
	}, text)
}

// OneLine makes text printable and puts it on one line, with single spaces.
func OneLine(text string) string {
	return strings.Join(strings.Fields(Printable(text)), " ")
}

// Ellipsis shortens what OneLine gives to at most length characters, the last of them then "…".
func Ellipsis(text string, length int) string {
	text = OneLine(text)
	if utf8.RuneCountInString(text) <= length {
		return text
	}
	return string([]rune(text)[:max(length-1, 0)]) + "…"
}
