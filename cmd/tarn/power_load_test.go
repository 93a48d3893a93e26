package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tarnfs/tarn/internal/testenv"
)

// tree is what an image shows: the digests of its regular files by path.
type tree map[string][sha256.Size]byte

// fact is what is known of an image or a container: what it is since the last command that has reported
// success, and while another one runs, what it may be instead. A nil tree is one that is not there.
type fact struct {
	certain  tree
	possible tree
	busy     bool
}

// journal is what commands have reported. While it is locked none begins, or is taken to have ended.
type journal struct {
	mu         sync.Mutex
	images     map[string]fact
	containers map[string]fact
	volumes    map[string]fact // and the files in them
}

// change is what a command makes of something.
type change struct {
	facts map[string]fact
	name  string
	next  tree
}

// during has a command change facts, in the order in which a disk must see that: what it may do is known before
// it begins, what it has done when it has said so.
func (j *journal) during(changes []change, command func() error) error {
	j.mu.Lock()
	for _, c := range changes {
		c.facts[c.name] = fact{certain: c.facts[c.name].certain, possible: c.next, busy: true}
	}
	j.mu.Unlock()
	if err := command(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range changes {
		c.facts[c.name] = fact{certain: c.next}
	}
	return nil
}

// load is commands that change one store at the same time.
type load struct {
	journal

	root, run string
	registry  string   // its host
	archives  string   // a directory with one for each image there
	inward    *serving // over the store itself
	push      func(repository, to string) error
	remote    map[string]tree // images there, by repository
	busybox   []byte
	command   func(root, run string, args ...string) *exec.Cmd
}

// worker does one command after the other, with names of its own.
type worker struct {
	*load

	id   int
	r    *rand.Rand
	made int // names of files so far

	word   tree // what the container that it keeps writes
	script string
}

const (
	workers   = 4
	contents  = 40 // different files that images are made of
	maxToFile = 120_000
)

// content is a file that many images have.
func content(seed int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 7))
	data := make([]byte, r.IntN(maxToFile)+1)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(data) // never fails
	return data
}

// boxTar makes a root file system of busybox and a few files. sha256sum -c knows them by its file "sums".
func boxTar(busybox []byte, seeds []int) ([]byte, tree) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := make(tree)
	var errs []error
	add := func(h *tar.Header, data []byte) {
		h.Size = int64(len(data))
		errs = append(errs, w.WriteHeader(h))
		_, err := w.Write(data)
		errs = append(errs, err)
		if h.Typeflag == tar.TypeReg {
			made[h.Name] = sha256.Sum256(data)
		}
	}
	sums := ""
	for _, seed := range seeds {
		name := fmt.Sprintf("data%d", seed)
		add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content(seed))
		sums += fmt.Sprintf("%x  %s\n", made[name], name)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "sums", Mode: 0o644}, []byte(sums))
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, name := range []string{"sh", "cp", "rm", "echo", "true", "sleep", "sha256sum", "dd"} {
		add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}, nil)
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		panic(err) // a buffer takes everything
	}
	return out.Bytes(), made
}

func (w *worker) seeds() []int { return w.r.Perm(contents)[:1+w.r.IntN(6)] }

// newLoad starts a registry with images for each worker.
func newLoad(t *testing.T, root, run string) *load {
	t.Helper()
	busybox, err := os.ReadFile(testenv.Busybox(t))
	require.NoError(t, err)
	l := &load{
		journal: journal{images: map[string]fact{}, containers: map[string]fact{}, volumes: map[string]fact{}},
		root:    root, run: run, busybox: busybox, remote: map[string]tree{},
		command: func(root, run string, args ...string) *exec.Cmd { return tarn(t, root, run, args...) },
	}
	served := serveStore(t, filepath.Join(testenv.TempDir(t), "root"), filepath.Join(testenv.TempDir(t), "run"))
	l.registry, l.archives = served.host, testenv.TempDir(t)
	l.inward = serveStore(t, root, run)
	fromRoot, fromRun := testenv.TarnRoot(t)
	l.push = func(repository, to string) error {
		out, err := tarn(t, fromRoot, fromRun, "push", "--quiet", repository, l.inward.host+"/"+to).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("push %s to %s: %w: %s", repository, to, err, out)
		}
		return err
	}
	for id := range workers {
		for n := range 2 {
			seeds := []int{id*2 + n, id + 20, 30}
			data, made := boxTar(busybox, seeds)
			name := fmt.Sprintf("w%d/p%d", id, n)
			l.remote[name] = made
			cmd := tarn(t, fromRoot, fromRun, "import", "--name", name, "-")
			cmd.Stdin = bytes.NewReader(data)
			output(t, cmd)
			output(t, tarn(t, fromRoot, fromRun, "push", "--quiet", name, l.registry+"/"+name)) // compressed
			output(t, tarn(t, fromRoot, fromRun, "save", "--output", l.archive(name), name))
		}
	}
	return l
}

func (l *load) archive(repository string) string {
	return filepath.Join(l.archives, strings.ReplaceAll(repository, "/", "-")+".tar")
}

// start has workers go on until ctx ends, and gives what waits for them.
func (l *load) start(ctx context.Context, seed uint64) (wait func() error) {
	var all sync.WaitGroup
	errs := make([]error, workers)
	for id := range workers {
		w := &worker{load: l, id: id, r: rand.New(rand.NewPCG(seed, uint64(id)))}
		all.Go(func() {
			for ctx.Err() == nil && errs[id] == nil {
				errs[id] = w.step()
			}
		})
	}
	return func() error {
		all.Wait()
		return errors.Join(errs...)
	}
}

// tarn runs a command that must succeed.
func (w *worker) tarn(stdin []byte, args ...string) error {
	cmd := w.command(w.root, w.run, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tarn %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// step is one thing that a user might do.
func (w *worker) step() error {
	switch n := w.r.IntN(100); {
	case n < 25:
		return w.importBox()
	case n < 33:
		return w.pull()
	case n < 37:
		return w.loadArchive()
	case n < 41:
		return w.pushInto()
	case n < 56:
		return w.runAndCommit()
	case n < 62:
		return w.tag()
	case n < 75:
		return w.remove()
	case n < 90:
		return w.keep()
	case n < 94:
		return w.tarn(nil, "prune", "--force")
	case n < 97:
		return w.tarn(nil, "compact")
	default:
		if name, _ := w.some(); name != "" {
			return w.tarn(nil, "run", "--rm", "--network", "none", name, "true")
		}
		return w.tarn(nil, "images")
	}
}

// name gives one of the worker's names.
func (w *worker) name() string { return fmt.Sprintf("docker.io/w%d/%c:latest", w.id, 'a'+w.r.IntN(3)) }

// some gives an image of the worker's that is there.
func (w *worker) some() (string, tree) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(w.images)) {
		if strings.Contains(name, fmt.Sprintf("/w%d/", w.id)) && w.images[name].certain != nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	name := names[w.r.IntN(len(names))]
	return name, w.images[name].certain
}

func (w *worker) importBox() error {
	data, made := boxTar(w.busybox, w.seeds())
	name := w.name()
	return w.during([]change{{w.images, name, made}}, func() error { return w.tarn(data, "import", "--name", name, "-") })
}

func (w *worker) pull() error {
	repository := fmt.Sprintf("w%d/p%d", w.id, w.r.IntN(2))
	name := w.registry + "/" + repository + ":latest"
	return w.during([]change{{w.images, name, w.remote[repository]}}, func() error { return w.tarn(nil, "pull", "--quiet", name) })
}

func (w *worker) loadArchive() error {
	repository := fmt.Sprintf("w%d/p%d", w.id, w.r.IntN(2))
	return w.during([]change{{w.images, "docker.io/" + repository + ":latest", w.remote[repository]}}, func() error {
		return w.tarn(nil, "load", "--quiet", "--input", w.archive(repository))
	})
}

// pushInto pushes an image of another store to the registry that "tarn serve" makes of this one.
func (w *worker) pushInto() error {
	repository := fmt.Sprintf("w%d/p%d", w.id, w.r.IntN(2))
	to := fmt.Sprintf("pushed/w%d/%c", w.id, 'a'+w.r.IntN(2))
	return w.during([]change{{w.images, "docker.io/" + to + ":latest", w.remote[repository]}}, func() error { return w.push(repository, to) })
}

func (w *worker) tag() error {
	from, made := w.some()
	name := w.name()
	if from == "" || from == name {
		return nil
	}
	return w.during([]change{{w.images, name, made}}, func() error { return w.tarn(nil, "tag", from, name) })
}

func (w *worker) remove() error {
	name, _ := w.some()
	if name == "" {
		return nil
	}
	return w.during([]change{{w.images, name, nil}}, func() error { return w.tarn(nil, "rmi", "--force", name) })
}

// runAndCommit makes a container that changes something, an image of it, and removes it.
func (w *worker) runAndCommit() error {
	from, base := w.some()
	if from == "" {
		return nil
	}
	w.made++
	word := fmt.Sprintf("word-%d-%d", w.id, w.made)
	made := maps.Clone(base)
	made[word] = sha256.Sum256([]byte(word + "\n"))
	made["copy"] = made["bin/busybox"]
	script := "echo " + word + " > /" + word + "; cp /bin/busybox /copy"
	for path := range made {
		if strings.HasPrefix(path, "data") {
			delete(made, path)
			script += "; rm -f /" + path
			break
		}
	}
	container, name := fmt.Sprintf("user%d", w.id), w.name()
	if err := w.during([]change{{w.containers, container, made}}, func() error {
		return w.tarn(nil, "run", "--network", "none", "--name", container, from, "sh", "-euc", script)
	}); err != nil {
		return err
	}
	if err := w.during([]change{{w.images, name, made}}, func() error { return w.tarn(nil, "commit", container, name) }); err != nil {
		return err
	}
	return w.during([]change{{w.containers, container, nil}}, func() error { return w.tarn(nil, "rm", container) })
}
