package storage

import "context"

type progressKey struct{}

// WithProgress lets a driver tell the caller of every n bytes of a body that it
// handed to the store. Progress may be called from several goroutines.
func WithProgress(ctx context.Context, progress func(n int)) context.Context {
	return context.WithValue(ctx, progressKey{}, progress)
}

// Progress is what a driver calls for bytes that moved; never nil.
func Progress(ctx context.Context) func(n int) {
	if f, ok := ctx.Value(progressKey{}).(func(int)); ok {
		return f
	}
	return func(int) {}
}
