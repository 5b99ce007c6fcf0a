package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pgha-backup/pgha-backup/storage"
)

const (
	racers  = 16
	rounds  = 3  // a store that looks before it writes is lucky once
	repeats = 10 // tries of a writer who is told of a conflict
)

const unsafeStore = "two members could overwrite each other's WAL unseen: use a store with conditional writes, " +
	"or set conditional_writes: emulate and accept weaker promises"

// race has many writers create one key, in a few rounds. Exactly one may win, its
// bytes must stand, and a latecomer must be refused.
func race(ctx context.Context, t *trial, name string, write func(storage.Key, []byte) error) (string, error) {
	for round := range rounds {
		key := t.key(fmt.Sprintf("%s-%d", name, round))
		bodies := make([][]byte, racers)
		errs := make([]error, racers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range racers {
			bodies[i] = pattern(uint64(i), 1000+i)
			wg.Go(func() {
				<-start
				errs[i] = write(key, bodies[i])
				for n := 0; n < repeats && storage.IsRetryable(errs[i]); n++ {
					errs[i] = write(key, bodies[i])
				}
			})
		}
		close(start)
		wg.Wait()
		winner, wins := -1, 0
		for i, err := range errs {
			switch {
			case err == nil:
				winner, wins = i, wins+1
			case !errors.Is(err, storage.ErrExist):
				return "", refused(ctx, err)
			}
		}
		if wins != 1 {
			return "", &fault{fmt.Sprintf("%d of %d writers of one key were told that they created it; there must be one", wins, racers), unsafeStore}
		}
		got, err := storage.ReadAll(ctx, t.b, key, 1000+racers)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(got, bodies[winner]) {
			return "", &fault{"the winner of a race was told that it created the object, but other content stands there", unsafeStore}
		}
		if err := write(key, bodies[0]); !errors.Is(err, storage.ErrExist) {
			if err != nil {
				return "", refused(ctx, err)
			}
			return "", &fault{"an existing object was overwritten by a create-once write", unsafeStore}
		}
	}
	return fmt.Sprintf("one of %d writers wins, in every one of %d races", racers, rounds), nil
}

// refused tells a store that does not know the condition from one in trouble.
func refused(ctx context.Context, err error) error {
	final := errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrNoBucket) || errors.Is(err, storage.ErrNotExist)
	if ctx.Err() != nil || final || storage.IsRetryable(err) {
		return err
	}
	return &fault{"the store refuses conditional writes: " + err.Error(), unsafeStore}
}
