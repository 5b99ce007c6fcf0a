package s3

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Keys are an access key with its secret and, of temporary ones, the session token.
type Keys struct{ Access, Secret, Token string }

// rotation is how long after its start a program takes a refusal of its keys for one
// half of a pair that is being replaced.
const rotation = 5 * time.Second

var errNoCredentials = errors.New("no credentials")

// chain is where credentials come from, and whether others may come from there later.
// What is named in the options is the only place; an anonymous request is never made.
func chain(o Options) (p credentials.Provider, lasting bool, err error) {
	k := Keys{o.AccessKey, o.SecretKey, o.SessionToken}
	switch {
	case o.Fresh != nil:
		return &asked{keys: o.Fresh}, false, nil
	case (k.Access == "") != (k.Secret == ""):
		return nil, false, errors.New("s3: access key and secret key are given only together")
	case k.Access != "":
		return &credentials.Static{Value: value(k)}, true, nil
	case o.CredentialsFile != "":
		return &first{from: []credentials.Provider{&credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile}}, named: true}, false, nil
	}
	role := &credentials.IAM{} // web identity, container role or instance role
	web := os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE")
	container := cmp.Or(os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
	switch {
	case web != "":
		role.Endpoint = os.Getenv("AWS_ENDPOINT_URL_STS")
	case container == "":
		role.Endpoint = os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	}
	shared := &credentials.FileAWSCredentials{Profile: o.Profile}
	return &first{from: []credentials.Provider{&credentials.EnvAWS{}, shared, role}, named: web != "" || container != ""}, false, nil
}

func value(k Keys) credentials.Value {
	return credentials.Value{AccessKeyID: k.Access, SecretAccessKey: k.Secret, SessionToken: k.Token, SignerType: credentials.SignatureV4}
}

// asked asks for the keys before each request.
type asked struct {
	credentials.Expiry // always over
	keys               func() (Keys, error)
}

func (a *asked) Retrieve() (credentials.Value, error) { return a.RetrieveWithCredContext(nil) }

func (a *asked) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	k, err := a.keys()
	if err == nil && (k.Access == "" || k.Secret == "") {
		err = errors.New("access key or secret key is empty")
	}
	if err != nil {
		return credentials.Value{}, fmt.Errorf("%w: %w", errNoCredentials, err)
	}
	return value(k), nil
}

// first is the first source that has any, from then on alone: minio-go's own chain goes
// on without any when a source fails, and the store's refusal of that would be final.
type first struct {
	from  []credentials.Provider
	named bool // somebody named the source: that it fails is trouble
	used  credentials.Provider
}

func (f *first) IsExpired() bool { return f.used == nil || f.used.IsExpired() }

func (f *first) Retrieve() (credentials.Value, error) { return f.RetrieveWithCredContext(nil) }

func (f *first) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	from := f.from
	if f.used != nil {
		from = []credentials.Provider{f.used}
	}
	all := []error{}
	for _, p := range from {
		v, err := p.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			f.used = p
			return v, nil
		}
		all = append(all, err)
	}
	err := fmt.Errorf("%w: %w", errNoCredentials, errors.Join(all...))
	if f.used == nil && !f.named {
		err = fmt.Errorf("%w: %w", storage.ErrDenied, err)
	}
	return credentials.Value{}, err
}

// renewed tells whether another try may have better credentials: these have expired,
// or are refused and were good a moment ago.
func (b *Bucket) renewed(code string) bool {
	return !b.lasting && (slices.Contains(expired, code) || b.worked.Load() || time.Since(b.made) < rotation)
}
