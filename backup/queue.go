package backup

import (
	"cmp"
	"slices"
	"sync"
)

// queue hands items to workers: a volume's directories first, then its files, the
// largest first, so that no worker is left alone with a large one at the end.
type queue struct {
	mu      sync.Mutex
	volumes map[uint32][]item
}

func newQueue(items []item) *queue {
	q := &queue{volumes: map[uint32][]item{}}
	for _, it := range items {
		q.volumes[it.tablespace] = append(q.volumes[it.tablespace], it)
	}
	for _, list := range q.volumes {
		slices.SortStableFunc(list, func(a, b item) int {
			if a.dir != b.dir {
				if a.dir {
					return -1
				}
				return 1
			}
			return cmp.Compare(b.size, a.size)
		})
	}
	return q
}

// next takes an item, from the worker's own volume as long as it has any, else
// from the volume with the largest file left.
func (q *queue) next(own uint32) (item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.volumes[own]) == 0 {
		best := int64(-1)
		for volume, list := range q.volumes {
			if len(list) > 0 && list[len(list)/2].size > best {
				own, best = volume, list[len(list)/2].size
			}
		}
		if best < 0 {
			return item{}, false
		}
	}
	it := q.volumes[own][0]
	q.volumes[own] = q.volumes[own][1:]
	return it, true
}
