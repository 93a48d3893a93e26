package fastjson

import (
	"encoding/json"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// agrees decodes by this package and by encoding/json, which must come to the same.
func agrees(t *testing.T, text []byte) {
	t.Helper()
	var got, want specs.Spec
	err, wantErr := Unmarshal(text, &got), json.Unmarshal(text, &want)
	require.Equal(t, wantErr == nil, err == nil, "%q: %v, encoding/json: %v", text, err, wantErr)
	if wantErr == nil {
		require.Equal(t, want, got, "%q", text)
	}
}

func texts() []string {
	return []string{
		`{}`, `null`, ` { "ociVersion" : "1.0" } `, `{"OCIVERSION":"x","ociversion":"y"}`, `[]`, `"x"`, `1`, `true`, ``, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`,
		`{"a":[1,2,{"b":[]}],"hostname":"h"}`, `{"hostname":1}`, `{"hostname":null}`, `{"process":{"terminal":"x"}}`, `{"process":{"args":["a","b"],"args":["c"]}}`,
		`{"process":{"args":[]}}`, `{"process":{"args":null}}`, `{"process":{"args":{}}}`, `{"process":{"user":{"uid":4294967295}}}`,
		`{"process":{"user":{"uid":4294967296}}}`, `{"process":{"user":{"uid":-1}}}`, `{"process":{"user":{"uid":1.0}}}`, `{"process":{"user":{"uid":1e3}}}`,
		`{"process":{"user":{"uid":01}}}`, `{"process":{"user":{"uid":-}}}`, `{"process":{"user":{"uid":1.}}}`, `{"process":{"user":{"uid":1e}}}`,
		`{"process":{"oomScoreAdj":-5},"process":{"cwd":"/"}}`, `{"annotations":{"a":"b","a":"c","d":""}}`, `{"annotations":{"a":1}}`, `{"annotations":null}`,
		`{"hostname":"\u00e4\ud83d\ude00\ud83dx\ude00\"\\\/\b\f\n\r\t"}`, `{"hostname":"\ud83d\u0041"}`, `{"hostname":"\x"}`, `{"hostname":"\u00"}`, `{"hostname":"\u+123"}`,
		"{\"hostname\":\"\xff\xc3\"}", "{\"hostname\":\"\n\"}", `{"hostname":"`, `{"linux":{"resources":{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}],` +
			`"weightDevice":[{"major":1,"minor":2,"weight":3,"leafWeight":4}]}}}}`,
		`{"linux":{"devices":[{"path":"/dev/x","type":"c","major":1,"minor":3,"fileMode":438,"uid":0}]}}`, `{"linux":{"sysctl":{"a":"b"},"rootfsPropagation":"x"}}`,
		`{"hooks":{"prestart":[{"path":"/x","args":["x"],"env":[],"timeout":5}]}}`, `{"mounts":[{"destination":"/proc","options":["a"]},null,{}]}`, `{"x":nul}`, `{"x":truE}`, `{} {}`, `{"a":1 "b":2}`,
	}
}

func TestAgrees(t *testing.T) {
	for _, text := range texts() {
		agrees(t, []byte(text))
	}
}

func TestDepth(t *testing.T) {
	deep := func(n int) []byte {
		text := []byte(`{"x":`)
		for range n {
			text = append(text, '[')
		}
		for range n {
			text = append(text, ']')
		}
		return append(text, '}')
	}
	agrees(t, deep(maxDepth-1))
	agrees(t, deep(maxDepth))
	require.ErrorIs(t, Unmarshal(deep(1<<20), &specs.Spec{}), ErrSyntax)
}

func TestTargets(t *testing.T) {
	require.Error(t, Unmarshal([]byte(`{}`), specs.Spec{}))
	require.Error(t, Unmarshal([]byte(`{}`), nil))
	var strange struct{ C chan int }
	require.Error(t, Unmarshal([]byte(`{"C":1}`), &strange))
}

func FuzzAgrees(f *testing.F) {
	for _, text := range texts() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { agrees(t, text) })
}
