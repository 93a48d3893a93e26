package server

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

// Bounds on uploads that are going on.
const (
	maxUploads   = 200
	maxUploadAge = time.Hour // since something was heard of it
)

// uploads are the blobs being pushed, by the IDs that their clients know them by.
type uploads struct {
	now      func() time.Time
	mutex    sync.Mutex
	sessions map[string]*upload
}

// upload is one blob that comes in pieces. Its writer belongs to whoever holds busy.
type upload struct {
	id, repository string
	writer         BlobWriter
	busy           chan struct{} // holds one value while a request works on it
	gone           bool          // finished or dropped; busy guards it
	heard          time.Time     // uploads.mutex guards it
}

func newUploads(now func() time.Time) *uploads {
	return &uploads{now: now, sessions: make(map[string]*upload)}
}

// add begins an upload with writer, which belongs to it from then on. It returns locked.
func (u *uploads) add(repository string, writer BlobWriter) *upload {
	session := &upload{
		id: rand.Text(), repository: repository, writer: writer, busy: make(chan struct{}, 1), heard: u.now(),
	}
	session.busy <- struct{}{}
	u.mutex.Lock()
	defer u.mutex.Unlock()
	u.sessions[session.id] = session
	return session
}

// makeRoom drops uploads of which nothing was heard for long, and reports whether there is room for
// one more.
func (u *uploads) makeRoom() (bool, error) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	var errs []error
	for id, session := range u.sessions {
		if u.now().Sub(session.heard) < maxUploadAge {
			continue
		}
		select {
		case session.busy <- struct{}{}:
			delete(u.sessions, id)
			errs = append(errs, session.drop())
			<-session.busy
		default: // a long request works on it
		}
	}
	return len(u.sessions) < maxUploads, errors.Join(errs...)
}

// take finds an upload and locks it: a client whose connection broke may be back before the old
// request has noticed. Call release at the end.
func (u *uploads) take(ctx context.Context, repository, id string) (*upload, error) {
	u.mutex.Lock()
	session := u.sessions[id]
	u.mutex.Unlock()
	if session == nil || session.repository != repository {
		return nil, errNoUpload
	}
	select {
	case session.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if session.gone {
		<-session.busy
		return nil, errNoUpload
	}
	return session, nil
}

// release unlocks the upload.
func (u *uploads) release(session *upload) {
	u.mutex.Lock()
	session.heard = u.now()
	if session.gone {
		delete(u.sessions, session.id)
	}
	u.mutex.Unlock()
	<-session.busy
}

// drop ends a locked upload, unless its writer was spent by Commit.
func (s *upload) drop() error {
	s.gone = true
	return s.writer.Abort()
}

// close drops all uploads, once the requests that work on them have ended.
func (u *uploads) close() error {
	u.mutex.Lock()
	sessions := u.sessions
	u.sessions = make(map[string]*upload)
	u.mutex.Unlock()
	var errs []error
	for _, session := range sessions {
		session.busy <- struct{}{}
		errs = append(errs, session.drop())
		<-session.busy
	}
	return errors.Join(errs...)
}
