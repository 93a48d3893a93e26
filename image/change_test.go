package image_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/image"
)

func TestApplyChanges(t *testing.T) {
	base := image.RunConfig{
		Env: []string{"PATH=/bin", "HOME=/root"}, Cmd: image.Words{"old"}, WorkingDir: "/srv",
		Labels: map[string]string{"keep": "1"},
	}
	for name, tc := range map[string]struct {
		changes []string
		want    func(c *image.RunConfig)
	}{
		"cmd exec":        {[]string{`CMD ["/bin/ls", "-l"]`}, func(c *image.RunConfig) { c.Cmd = image.Words{"/bin/ls", "-l"} }},
		"cmd shell":       {[]string{`cmd ls -l $HOME`}, func(c *image.RunConfig) { c.Cmd = image.Words{"/bin/sh", "-c", "ls -l $HOME"} }},
		"not quite json":  {[]string{`CMD ['ls']`}, func(c *image.RunConfig) { c.Cmd = image.Words{"/bin/sh", "-c", "['ls']"} }},
		"empty cmd":       {[]string{`CMD []`}, func(c *image.RunConfig) { c.Cmd = image.Words{} }},
		"entry drops cmd": {[]string{`ENTRYPOINT ["/init"]`}, func(c *image.RunConfig) { c.Entrypoint, c.Cmd = image.Words{"/init"}, nil }},
		"entry keeps a new cmd": {[]string{`CMD ["a"]`, `ENTRYPOINT ["/init"]`}, func(c *image.RunConfig) {
			c.Entrypoint, c.Cmd = image.Words{"/init"}, image.Words{"a"}
		}},
		"env": {[]string{`ENV A=1 B="two words" C='$HOME' D=$HOME/x HOME=/h E=a\ b`}, func(c *image.RunConfig) {
			c.Env = []string{"PATH=/bin", "HOME=/h", "A=1", "B=two words", "C=$HOME", "D=/root/x", "E=a b"}
		}},
		"env old form":    {[]string{`ENV GREETING hello  there`}, func(c *image.RunConfig) { c.Env = append(c.Env, "GREETING=hello  there") }},
		"env operators":   {[]string{`ENV A=${NOPE:-dflt} B=${HOME:+set} C=${NOPE:+x}y D=${HOME}`}, func(c *image.RunConfig) { c.Env = append(c.Env, "A=dflt", "B=set", "C=y", "D=/root") }},
		"env then use it": {[]string{`ENV A=1`, `ENV B=$A$A`}, func(c *image.RunConfig) { c.Env = append(c.Env, "A=1", "B=11") }},
		"label": {[]string{`LABEL a.b="x y" c=d`}, func(c *image.RunConfig) {
			c.Labels = map[string]string{"keep": "1", "a.b": "x y", "c": "d"}
		}},
		"expose": {[]string{`EXPOSE 80 53/udp 7000-7002`}, func(c *image.RunConfig) {
			c.ExposedPorts = map[string]struct{}{"80/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}, "7002/tcp": {}}
		}},
		"user":             {[]string{`USER daemon:staff`}, func(c *image.RunConfig) { c.User = "daemon:staff" }},
		"stopsignal":       {[]string{`STOPSIGNAL SIGQUIT`}, func(c *image.RunConfig) { c.StopSignal = "SIGQUIT" }},
		"workdir relative": {[]string{`WORKDIR a/../b`}, func(c *image.RunConfig) { c.WorkingDir = "/srv/b" }},
		"workdir":          {[]string{`WORKDIR $HOME/my dir`}, func(c *image.RunConfig) { c.WorkingDir = "/root/my dir" }},
		"volume":           {[]string{`VOLUME ["/a b"]`, `VOLUME /c /d`}, func(c *image.RunConfig) { c.Volumes = map[string]struct{}{"/a b": {}, "/c": {}, "/d": {}} }},
		"onbuild":          {[]string{`ONBUILD RUN make`}, func(c *image.RunConfig) { c.OnBuild = []string{"RUN make"} }},
		"healthcheck": {[]string{`HEALTHCHECK --interval=5s --retries=3 CMD curl -f http://x/ || exit 1`}, func(c *image.RunConfig) {
			c.Healthcheck = &image.Healthcheck{Test: []string{"CMD-SHELL", "curl -f http://x/ || exit 1"}, Interval: 5 * time.Second, Retries: 3}
		}},
		"healthcheck exec": {[]string{`HEALTHCHECK CMD ["/ok"]`}, func(c *image.RunConfig) { c.Healthcheck = &image.Healthcheck{Test: []string{"CMD", "/ok"}} }},
		"healthcheck none": {[]string{`HEALTHCHECK NONE`}, func(c *image.RunConfig) { c.Healthcheck = &image.Healthcheck{Test: []string{"NONE"}} }},
	} {
		t.Run(name, func(t *testing.T) {
			got, want := base.Clone(), base.Clone()
			tc.want(&want)
			require.NoError(t, got.ApplyChanges(tc.changes))
			require.Equal(t, want, got)
		})
	}
}

func TestChangesThatAreRefused(t *testing.T) {
	for _, change := range []string{
		"", "CMD", "RUN make", "FROM scratch", "ENV", "ENV A", "ENV =b", `ENV A="open`, `ENV A='open`, "ENV A=${B", "ENV A=${B?x}", "ENV A=${}",
		"EXPOSE http", "EXPOSE 0", "EXPOSE 70000", "EXPOSE 20-10", "EXPOSE 1/icmp", "USER a b", "LABEL a", "VOLUME [\"\"]",
		"ONBUILD FROM x", "HEALTHCHECK curl", "HEALTHCHECK --interval=5 CMD x", "HEALTHCHECK --nope=1s CMD x", "HEALTHCHECK CMD",
	} {
		require.ErrorIs(t, new(image.RunConfig).ApplyChanges([]string{change}), image.ErrChange, change)
	}
}

func FuzzApplyChanges(f *testing.F) {
	for _, seed := range []string{`ENV A="b c" D=$E`, `HEALTHCHECK --interval=5s CMD x`, `EXPOSE 1-65535/udp`, `CMD ["a"]`, `LABEL x=${y:-z}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, change string) {
		c := image.RunConfig{Env: []string{"A=b"}}
		if err := c.ApplyChanges([]string{change}); err != nil {
			require.ErrorIs(t, err, image.ErrChange)
			return
		}
		raw, err := (&image.Config{RootFS: image.RootFS{Type: "layers"}, Config: c}).Marshal()
		require.NoError(t, err)
		_, err = image.ParseConfig(raw)
		require.NoError(t, err)
	})
}
