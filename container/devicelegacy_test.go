package container

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestLegacyDeviceRules(t *testing.T) {
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	for name, test := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		allow bool
		want  []string
		fails bool
	}{
		"nothing is said": {},
		"all":             {rules: []specs.LinuxDeviceCgroup{{Allow: true}}, allow: true},
		"all, then none":  {rules: []specs.LinuxDeviceCgroup{{Allow: true}, {Allow: false, Access: "rwm"}}},
		"some": {
			rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rwm"), rule(true, "b", 8, -1, "r"), {Allow: true, Access: "m"}},
			want:  []string{"c 1:3 mrw", "b 8:* r", "c *:* m", "b *:* m"},
		},
		"taken back in part": {
			rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rwm"), rule(false, "c", 1, -1, "w"), rule(false, "b", 1, 3, "r")},
			want:  []string{"c 1:3 mr"},
		},
		"taken back": {rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "r"), rule(false, "c", 1, 3, "")}},
		"all but one": {
			rules: []specs.LinuxDeviceCgroup{{Allow: true}, rule(false, "b", 8, 0, "w"), rule(true, "c", -1, -1, "rwm")},
			allow: true, want: []string{"b 8:0 w"},
		},
		"an exception of an exception": {rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, -1, "rw"), rule(false, "c", 1, 3, "w")}, fails: true},
		"a wrong type":                 {rules: []specs.LinuxDeviceCgroup{rule(true, "x", 1, 3, "w")}, fails: true},
	} {
		d, err := newLegacyDevices(test.rules)
		if test.fails {
			if !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrSpec) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, e := range d.exceptions {
			got = append(got, fmt.Sprint(e))
		}
		if d.allow != test.allow || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v %q, want %v %q", name, d.allow, got, test.allow, test.want)
		}
	}
}
