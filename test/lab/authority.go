package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// authority signs the certificates of one server and of its clients. They lie in a
// directory of the run and belong to one user.
type authority struct {
	run       *Run
	user, dir string
	file      string // its own certificate, PEM
	key       *ecdsa.PrivateKey
	cert      *x509.Certificate
	issued    int64
}

func newAuthority(run *Run, user, dir string) *authority {
	run.t.Helper()
	a := &authority{run: run, user: user, dir: dir, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	a.must(err)
	a.file = run.WriteFile(user, 0o644, block("CERTIFICATE", der), dir, "ca.pem")
	return a
}

// issue makes a certificate that serves as a server's and as a client's.
func (a *authority) issue(file, name string, ips ...net.IP) (certFile, keyFile string) {
	a.run.t.Helper()
	a.issued++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1 + a.issued), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: ips,
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	a.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	a.must(err)
	certFile = a.run.WriteFile(a.user, 0o644, block("CERTIFICATE", der), a.dir, file+".pem")
	keyFile = a.run.WriteFile(a.user, 0o600, block("PRIVATE KEY", keyDER), a.dir, file+".key")
	return certFile, keyFile
}

func (a *authority) must(err error) {
	if err != nil {
		a.run.t.Helper()
		a.run.t.Fatalf("lab: certificate: %v", err)
	}
}

func block(kind string, b []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
}
