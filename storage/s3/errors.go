package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Codes that are worth another try whatever their HTTP status.
var passing = []string{
	"ConditionalRequestConflict", "OperationAborted", // another write of this key is under way (409)
	"RequestTimeout", "RequestTimeTooSkewed", // stalled; the next try signs anew
	"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", // the body was damaged on its way
	"SlowDown", "Throttling", "ThrottlingException", "InternalError", "ServiceUnavailable",
}

// Codes of credentials that were good: the next try fetches new ones.
var expired = []string{"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}

// Codes of a refusal of the credentials, whatever the HTTP status: versitygw says 404 to
// an unknown key.
var unknown = []string{"InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "XAdminUserNotFound"}

// skewAllowed is far below the 15 minutes that S3 allows. A refusal with less is for a
// request that was long under way.
const skewAllowed = 10 * time.Minute

// report turns an answer, or the want of one, into the words of the contract.
func (b *Bucket) report(ctx context.Context, op string, key storage.Key, a *answer, err error) error {
	if err == nil {
		return nil
	}
	e := &storage.Error{Op: op, Key: key, Err: err}
	if done := ctx.Err(); done != nil {
		e.Err = fmt.Errorf("%w (%v)", done, err)
		return e
	}
	if a != nil {
		e.After = a.retryAfter
	}
	r, answered := errors.AsType[minio.ErrorResponse](err)
	if !answered || r.StatusCode == 0 {
		b.unanswered(e)
		return e
	}
	said := fmt.Errorf("%s: %s (HTTP %d)", r.Code, r.Message, r.StatusCode)
	e.Err = said
	switch {
	case r.Code == minio.NoSuchBucket:
		e.Err = fmt.Errorf("%w: %s", storage.ErrNoBucket, b.bucket)
		e.Advice = "create the bucket " + b.bucket + " or correct its name"
	case r.StatusCode == http.StatusPreconditionFailed:
		e.Err = storage.ErrExist
	case r.Code == "RequestTimeTooSkewed" && a != nil && a.skew.Abs() > skewAllowed:
		e.Err = fmt.Errorf("%w: this machine's clock is %s ahead of the store's: %w", storage.ErrDenied, a.skew, said)
		if a.skew < 0 {
			e.Err = fmt.Errorf("%w: this machine's clock is %s behind the store's: %w", storage.ErrDenied, -a.skew, said)
		}
		e.Advice = "set the clock that is wrong (chronyc tracking; date -u): a store refuses what differs by more than 15 minutes"
	case slices.Contains(passing, r.Code):
		e.Retry = true
	case slices.Contains(expired, r.Code), slices.Contains(unknown, r.Code):
		if e.Retry = b.renewed(r.Code); e.Retry {
			b.creds.Expire()
			e.Advice = "if it stays so, look where the credentials come from: what is there is refused"
			break
		}
		e.Err = fmt.Errorf("%w: %w", storage.ErrDenied, said)
		e.Advice = "check the credentials: key, secret and, of temporary ones, the session token and its end"
	case r.StatusCode == http.StatusForbidden, r.StatusCode == http.StatusUnauthorized, r.Code == "AccessDenied":
		e.Err = fmt.Errorf("%w: %w", storage.ErrDenied, said)
		e.Advice = "check the credentials, and that they may read, write, list and delete in the bucket " + b.bucket
	case r.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		e.Err = storage.ErrSpan
	case r.StatusCode == http.StatusConflict && r.Code == "Conflict", // no code in the answer: take it for the conflict of two writers
		r.StatusCode == http.StatusRequestTimeout, r.StatusCode == http.StatusTooManyRequests,
		r.StatusCode >= 500 && r.StatusCode != http.StatusNotImplemented:
		e.Retry = true
	case r.StatusCode >= 300 && r.StatusCode < 400, r.Code == "AuthorizationHeaderMalformed":
		e.Advice = "check the endpoint and the region"
		if r.Region != "" {
			e.Advice += ": the bucket is in " + r.Region
		}
	}
	return e
}

// unanswered is for errors before an answer: network, TLS, invalid arguments.
func (b *Bucket) unanswered(e *storage.Error) {
	err := e.Err
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	_, unresolved := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, errNoCredentials):
		e.Retry = !errors.Is(err, storage.ErrDenied)
		e.Advice = "give access_key and secret_key, name a credentials_file, or give this host a role"
	case untrusted:
		e.Advice = "check the endpoint's host name, and name the certificate authority of the store in ca_file"
	case plain:
		e.Advice = "the server does not speak TLS: check scheme and port of the endpoint"
	case errors.As(err, new(minio.ErrorResponse)): // refused by minio-go itself
		e.Advice = "check endpoint and bucket name"
	case unresolved, errors.Is(err, syscall.ECONNREFUSED):
		e.Retry, e.Advice = true, "check the endpoint's host name and port, and that this machine reaches it"
	default:
		e.Retry = true
	}
	// A timeout of the transport claims to be context.DeadlineExceeded, which
	// would read as if the caller's time was up: break the chain.
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		e.Err = errors.New(err.Error())
	}
}
