package testenv

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// HTPasswd gives the section "auth" of a registry's configuration that asks for this password.
func HTPasswd(t testing.TB, user, password string) string {
	t.Helper()
	RequireTool(t, "htpasswd")
	entry, err := exec.CommandContext(t.Context(), "htpasswd", "-Bbn", user, password).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(TempDir(t), "htpasswd")
	if err := os.WriteFile(path, entry, 0o600); err != nil {
		t.Fatal(err)
	}
	return "htpasswd:\n  realm: test\n  path: " + path
}

// TokenServer starts a server of tokens (distribution's "Token Authentication") that knows one user, and
// gives the section "auth" of a registry's configuration that sends clients there.
func TokenServer(t testing.TB, user, password string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cert := selfSigned(t, key, "token server", nil)
	bundle := filepath.Join(TempDir(t), "bundle.pem")
	writePEM(t, bundle, "CERTIFICATE", cert)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gotUser, gotPassword, asked := r.BasicAuth()
		if asked && (gotUser != user || gotPassword != password) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		token, err := token(key, cert, r, asked)
		if err == nil {
			err = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 60})
		}
		if err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	// A name, since clients are right to distrust a server at an address of the private networks.
	realm := strings.Replace(server.URL, "127.0.0.1", "localhost", 1) + "/token"
	return "token:\n  realm: " + realm + "\n  service: test\n  issuer: tester\n  rootcertbundle: " + bundle
}

// token makes a JSON web token for what is asked for; who has not logged in may only pull.
func token(key *rsa.PrivateKey, cert []byte, r *http.Request, known bool) (string, error) {
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for _, scope := range r.URL.Query()["scope"] {
		for one := range strings.FieldsSeq(scope) {
			if parts := strings.SplitN(one, ":", 3); len(parts) == 3 {
				actions := []string{"pull"}
				if known {
					actions = strings.Split(parts[2], ",")
				}
				granted = append(granted, access{parts[0], parts[1], actions})
			}
		}
	}
	now := time.Now().Unix()
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{base64.StdEncoding.EncodeToString(cert)}})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": "tester", "sub": "user", "aud": "test", "exp": now + 60, "nbf": now - 60, "iat": now, "jti": rand.Text(), "access": granted,
	})
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// Certificate makes a certificate for a name, signed by itself, and gives the files with it and its key.
func Certificate(t testing.TB, name string) (certificate, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := TempDir(t)
	certificate, keyFile = filepath.Join(dir, "cert.crt"), filepath.Join(dir, "cert.key")
	writePEM(t, certificate, "CERTIFICATE", selfSigned(t, key, name, []string{name}))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, keyFile, "PRIVATE KEY", der)
	return certificate, keyFile
}

func selfSigned(t testing.TB, key crypto.Signer, name string, hosts []string) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: hosts,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
