package server

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// ErrHtpasswd is wrapped by errors about a file of passwords.
var ErrHtpasswd = errors.New("not a file of users and bcrypt passwords (make it with 'htpasswd -B')")

const (
	maxHtpasswd    = 1 << 20
	bcryptAtOnce   = 2 // each takes a processor for a good part of a second
	authentication = `Basic realm="tarn", charset="UTF-8"`
)

// Htpasswd knows users by a file as Apache's htpasswd -B writes it: lines "user:bcrypt hash". A change
// of the file counts at once.
type Htpasswd struct {
	path   string
	key    [32]byte // under which passwords are remembered, since bcrypt is slow on purpose
	dummy  []byte   // compared for users there are not, so that these take as long
	bcrypt chan struct{}

	mutex    sync.Mutex
	modified time.Time
	hashes   map[string][]byte
	verified map[string][]byte // by user: the keyed hash of the password that was right
}

// OpenHtpasswd reads the file.
func OpenHtpasswd(path string) (*Htpasswd, error) {
	h := &Htpasswd{path: path, bcrypt: make(chan struct{}, bcryptAtOnce)}
	_, _ = rand.Read(h.key[:]) // never fails (crypto/rand)
	var err error
	if h.dummy, err = bcrypt.GenerateFromPassword(h.key[:16], bcrypt.DefaultCost); err != nil {
		return nil, err
	}
	return h, h.refresh()
}

// refresh reads the file if it was changed.
func (h *Htpasswd) refresh() error {
	f, err := os.Open(h.path)
	if err != nil {
		return fmt.Errorf("htpasswd: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("htpasswd: %w", err)
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.hashes != nil && info.ModTime().Equal(h.modified) {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxHtpasswd))
	if err != nil {
		return fmt.Errorf("htpasswd: %w", err)
	}
	hashes, err := parseHtpasswd(text)
	if err != nil {
		return fmt.Errorf("htpasswd %s: %w", h.path, err)
	}
	h.modified, h.hashes, h.verified = info.ModTime(), hashes, make(map[string][]byte)
	return nil
}

func parseHtpasswd(text []byte) (map[string][]byte, error) {
	hashes := make(map[string][]byte)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, found := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); !found || user == "" || err != nil {
			return nil, fmt.Errorf("%w: line %d", ErrHtpasswd, number)
		}
		hashes[user] = []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHtpasswd, err)
	}
	if len(hashes) == 0 {
		return nil, fmt.Errorf("%w: it has no users", ErrHtpasswd)
	}
	return hashes, nil
}

// Require lets only requests of known users through to next.
func (h *Htpasswd) Require(next http.Handler, log func(line string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h.refresh(); err != nil {
			log(err.Error()) // and the users of before stay
		}
		user, password, given := r.BasicAuth()
		if given && h.verify(r, user, password) {
			next.ServeHTTP(w, r)
			return
		}
		if given {
			log(fmt.Sprintf("wrong password for %.100q from %s", user, r.RemoteAddr))
		}
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		w.Header().Set("WWW-Authenticate", authentication)
		writeRefusal(w, refuse(http.StatusUnauthorized, "UNAUTHORIZED", "a user name and password are needed"))
	})
}

func (h *Htpasswd) verify(r *http.Request, user, password string) bool {
	mac := hmac.New(sha256.New, h.key[:])
	_, _ = io.WriteString(mac, password) // a hash
	sum := mac.Sum(nil)

	h.mutex.Lock()
	hash, known := h.hashes[user]
	isVerified := hmac.Equal(h.verified[user], sum)
	h.mutex.Unlock()
	if isVerified {
		return true
	}
	if !known {
		hash = h.dummy
	}
	select {
	case h.bcrypt <- struct{}{}:
		defer func() { <-h.bcrypt }()
	case <-r.Context().Done():
		return false
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
		return false
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if bytes.Equal(h.hashes[user], hash) { // not changed meanwhile
		h.verified[user] = sum
	}
	return true
}
