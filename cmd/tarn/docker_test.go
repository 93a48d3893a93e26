package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// TestAsDocker compares what tarn and Docker say of the same image and of like containers of it.
func TestAsDocker(t *testing.T) {
	testenv.RequireErofsFile(t)
	docker := testenv.Docker(t)
	root, run := testenv.TarnRoot(t)
	tarn := testenv.NewTool(t, "tarn", nil, "--root", root, "--run", run)
	tarn("import", "--name", "box:1", "--message", "made for a test", "--author", "Ada",
		"--change", `ENTRYPOINT ["echo"]`, "--change", `CMD ["a", "b"]`, "--change", "ENV A=<b> C=d", "--change", "USER 1000:2000",
		"--change", "WORKDIR /srv", "--change", "LABEL tier=web", "--change", "EXPOSE 80", "--change", "VOLUME /data",
		"--change", "STOPSIGNAL SIGUSR1", testenv.BusyboxTar(t))
	archive := filepath.Join(testenv.TempDir(t), "box.tar")
	tarn("save", "-o", archive, "box:1")
	docker("load", "-i", archive)
	create := []string{
		"--name", "one", "--hostname", "lake", "--network", "none", "-e", "E=f", "-l", "x=y", "-w", "/tmp", "-u", "user",
		"-v", "named:/named:ro", "--tmpfs", "/scratch:size=1m", "--read-only", "box:1", "c",
	}
	tarn(append([]string{"run"}, create...)...)
	docker(append([]string{"create"}, create...)...)

	for _, format := range []string{
		"{{.Id}}",
		"{{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{.Config.User}} {{.Config.WorkingDir}}",
		"{{json .Config.Labels}} {{json .Config.Volumes}} {{json .Config.ExposedPorts}} {{.Config.StopSignal}}",
		"{{json .RootFS}} {{json .RepoTags}} {{.Architecture}} {{.Os}} {{.Created}} {{.Author}} {{.Comment}}",
	} {
		expectSame(t, docker, tarn, "inspect", "--type", "image", "--format", format, "box:1")
	}
	expectSame(t, docker, tarn, "history", "--no-trunc", "--format", "{{.ID}} {{.CreatedBy}} {{.Comment}}", "box:1")
	expectSame(t, docker, tarn, "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}} {{.Tag}}")
	expectSame(t, docker, tarn, "images", "--format", "table {{.ID}}\t{{.Repository}}\t{{.Tag}}\t{{.Digest}}", "nope")
	expectSame(t, docker, tarn, "ps", "-a", "--format", `table {{.Names}}	{{.Image}}	{{.Command}}	{{.Label "tier"}}	{{.Networks}}`)

	for _, object := range []string{"image", "container"} {
		name := map[string]string{"image": "box:1", "container": "one"}[object]
		theirs, ours := inspected(t, docker, object, name), inspected(t, tarn, object, name)
		expectShape(t, object, theirs, ours)
	}
	for _, format := range []string{
		"{{.Name}} {{.Path}} {{json .Args}} {{.Image}}",
		"{{.Config.Hostname}} {{.Config.User}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{.Config.WorkingDir}}",
		"{{json .Config.Labels}} {{json .Config.Volumes}} {{json .Config.ExposedPorts}} {{.Config.StopSignal}} {{.Config.Image}}",
		"{{.HostConfig.NetworkMode}} {{.HostConfig.ReadonlyRootfs}} {{json .HostConfig.Binds}} {{json .HostConfig.Tmpfs}}",
	} {
		expectSame(t, docker, tarn, "inspect", "--type", "container", "--format", format, "one")
	}
}

func expectSame(t *testing.T, docker, tarn testenv.Tool, args ...string) {
	t.Helper()
	assert.Equal(t, docker(args...), tarn(args...), args)
}

func inspected(t *testing.T, tool testenv.Tool, kind, name string) any {
	t.Helper()
	var objects []any
	require.NoError(t, json.Unmarshal([]byte(tool("inspect", "--type", kind, name)), &objects))
	require.Len(t, objects, 1)
	return objects[0]
}

// expectShape checks that all fields in ours are in theirs, and are of the same kind where both have
// something to say.
func expectShape(t *testing.T, path string, theirs, ours any) {
	t.Helper()
	if theirs == nil || ours == nil {
		return
	}
	if !assert.IsType(t, theirs, ours, path) {
		return
	}
	switch ours := ours.(type) {
	case map[string]any:
		theirs, ok := theirs.(map[string]any)
		require.True(t, ok)
		for key, value := range ours {
			assert.Contains(t, theirs, key, path)
			expectShape(t, path+"."+key, theirs[key], value)
		}
	case []any:
		theirs, ok := theirs.([]any)
		require.True(t, ok)
		for i, value := range ours {
			expectShape(t, fmt.Sprintf("%s[%d]", path, i), union(theirs), value)
		}
	}
}

// union gives an object with the fields of all elements, whose order is Docker's own; or one element.
func union(list []any) any {
	if len(list) == 0 {
		return nil
	}
	all := make(map[string]any)
	for _, element := range list {
		fields, ok := element.(map[string]any)
		if !ok {
			return element
		}
		maps.Copy(all, fields)
	}
	return all
}
