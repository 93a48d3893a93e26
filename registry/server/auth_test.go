package server_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/tarnfs/tarn/registry/server"
)

func line(t *testing.T, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(t, err)
	// Apache's htpasswd writes version 2y, which is the same as 2a here.
	return user + ":" + strings.Replace(string(hash), "$2a$", "$2y$", 1) + "\n"
}

func TestHtpasswd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write := func(text string, modified int64) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(modified, 0)))
	}
	write("# who may\n\n"+line(t, "me", "secret")+line(t, "you", "other"), 1e9)
	users, err := server.OpenHtpasswd(path)
	require.NoError(t, err)
	var log []string
	handler := users.Require(server.New(new(server.Memory), server.Options{}), func(line string) { log = append(log, line) })
	status := func(user, password string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/", nil)
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusUnauthorized {
			require.Contains(t, w.Header().Get("WWW-Authenticate"), "Basic")
			require.Contains(t, w.Body.String(), "UNAUTHORIZED")
		}
		return w.Code
	}
	for range 2 { // the second time from memory
		require.Equal(t, http.StatusOK, status("me", "secret"))
		require.Equal(t, http.StatusOK, status("you", "other"))
		require.Equal(t, http.StatusUnauthorized, status("me", "other"))
		require.Equal(t, http.StatusUnauthorized, status("me", ""))
		require.Equal(t, http.StatusUnauthorized, status("nobody", "secret"))
		require.Equal(t, http.StatusUnauthorized, status("", ""))
	}
	require.Len(t, log, 6)
	require.NotContains(t, strings.Join(log, ""), "secret")

	write(line(t, "me", "changed"), 1e9+1)
	require.Equal(t, http.StatusUnauthorized, status("me", "secret"))
	require.Equal(t, http.StatusUnauthorized, status("you", "other"))
	require.Equal(t, http.StatusOK, status("me", "changed"))
	write("nonsense", 1e9+2)
	require.Equal(t, http.StatusOK, status("me", "changed"), "the users of before stay")
	require.Contains(t, log[len(log)-1], "line 1")
}

func TestHtpasswdThatIsNone(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no colon": "me\n", "no user": line(t, "", "x"), "MD5": "me:$apr1$x$y\n", "plain": "me:secret\n", "SHA": "me:{SHA}x\n",
	} {
		path := filepath.Join(t.TempDir(), "users")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := server.OpenHtpasswd(path)
		require.ErrorIs(t, err, server.ErrHtpasswd, name)
	}
	_, err := server.OpenHtpasswd("/nonexistent")
	require.ErrorIs(t, err, os.ErrNotExist)
}
