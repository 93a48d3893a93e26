package rootfs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

func extractTar(ctx context.Context, tar, dir *os.File) error {
	c := exec.CommandContext(ctx, "tar", "-x", "--xattrs", "--xattrs-include=*", "-C", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd()), "-f", tar.Name())
	c.Stderr = os.Stderr
	return c.Run()
}

